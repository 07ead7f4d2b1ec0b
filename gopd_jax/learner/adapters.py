"""Training of an adapter in place of the student's own parameters.

In: the architecture and the settings of adapters. Out: what is trained and what is frozen, as
shapes; the programs that differ. `TrainState.params` is then the adapter alone, and so are the
optimizer's state and a checkpoint. The frozen base is an argument of its own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
import optax

from gopd_jax.learner.step import train_step
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.models.lora import abstract_adapter, adapted, adapter_shardings, init_adapter
from gopd_jax.models.settings import LoraSettings
from gopd_jax.runtime.mesh import with_shardings
from gopd_jax.types import PackedBatch, Params, TrainState


def trained_params(config: ModelConfig, lora: LoraSettings, mesh: Mesh) -> Params:
    """What is trained, float32, as shapes with shardings: all parameters, or the adapter.

    Raises:
        ValueError: a target that cannot have an adapter, or the mesh does not divide an array.
    """
    if lora.rank:
        where = adapter_shardings(config, lora, mesh)
        return with_shardings(abstract_adapter(config, lora), where)
    return with_shardings(abstract_params(config), param_shardings(config, mesh))


def frozen_params(config: ModelConfig, mesh: Mesh, dtype: DTypeLike) -> Params:
    """The parameters of a frozen model as shapes with shardings."""
    shapes = jax.tree.map(lambda x: x.update(dtype=dtype), abstract_params(config))
    return with_shardings(shapes, param_shardings(config, mesh))


def new_adapter(
    key_data: jax.Array,
    *,
    config: ModelConfig,
    lora: LoraSettings,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """Step 0 of a new adapter; `key_data` is that of the random key it is drawn with."""
    adapter = init_adapter(config, lora, jax.random.wrap_key_data(key_data))
    return TrainState(jnp.int32(0), adapter, optimizer.init(adapter))


def adapter_step(
    state: TrainState, base: Params, *batches: PackedBatch, lora: LoraSettings, **options: Any
) -> tuple:
    """`step.train_step` of an adapter.

    Args:
        state: of the adapter.
        base: the frozen parameters.
        batches, options: of `train_step`.
    """
    student = functools.partial(adapted, base, lora=lora)
    return train_step(state, *batches, student=student, **options)
