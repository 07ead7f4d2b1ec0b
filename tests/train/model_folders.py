"""Model folders that differ from the embedded ones in a few numbers or rows."""

import dataclasses
import json
from pathlib import Path
import shutil

import jax
import jax.numpy as jnp
from safetensors.numpy import load_file, save_file

from gopd_jax import tiny
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import init_params
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.huggingface_save import save_pretrained

NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"


def spoiled(folder: Path, name: str, tensor: str, value: float, row: int | None = None) -> str:
    """A copy of an embedded model with one number of a tensor replaced; with `row`, a whole row."""
    shutil.copytree(tiny.model(name), folder)
    tensors = load_file(folder / "model.safetensors")
    changed = tensors[tensor].copy()
    changed[0 if row is None else row] = value
    save_file(tensors | {tensor: changed}, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def with_rows(folder: Path, name: str, rows: int) -> str:
    """An embedded model with more rows than it has; they would win most draws."""
    path = tiny.model(name)
    config = load_config(path)
    params = load_params(
        path, config, jnp.float32, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    )
    embedding = params["embedding"]
    more = 4 * embedding[8 : 8 + rows - config.vocab_size]
    params = params | {"embedding": jnp.concatenate([embedding, more])}
    wider = dataclasses.replace(config, vocab_size=rows)
    return str(save_pretrained(folder, wider, params, "float32", tokenizer_from=path))


def mixture(folder: Path, seed: int) -> str:
    """A mixture of 8 experts with the tokenizer of the embedded models; its numbers are noise."""
    config = dataclasses.replace(
        load_config(tiny.model("base")),
        family="qwen3_moe",
        experts=8,
        experts_per_token=2,
        moe_mlp_width=32,
        layers=2,
    )
    params = init_params(config, jax.random.key(seed))
    return str(
        save_pretrained(folder, config, params, "float32", tokenizer_from=tiny.model("base"))
    )


def edit_json(path: Path, **fields: object) -> None:
    """Sets fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
