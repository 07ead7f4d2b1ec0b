"""A whole model from a Hugging Face folder or hub id: what a program of one's own begins with.

The commands read the parts one by one instead, because they check every architecture before they
read any weights.
"""

import os

import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.types import Params


def load_model(
    path: str | os.PathLike[str], mesh: Mesh | None = None, dtype: DTypeLike = jnp.float32
) -> tuple[ModelConfig, Params]:
    """Reads the architecture and the parameters of a model, sharded for training and scoring.

    Example:
        config, params = load_model("Qwen/Qwen3-0.6B")
        tokenizer = ChatTokenizer.load("Qwen/Qwen3-0.6B")

    Args:
        path: local folder or hub id.
        mesh: the parameters are sharded over its fsdp and tensor axes; None takes all devices.
        dtype: of the parameters; a student is trained in float32.

    Returns:
        The architecture, and the tree of `decoder.abstract_params`.

    Raises:
        ValueError: see `config.load_config` and `huggingface.load_params`.
    """
    config = load_config(os.fspath(path))
    shardings = param_shardings(config, make_mesh() if mesh is None else mesh)
    return config, load_params(path, config, dtype, shardings)
