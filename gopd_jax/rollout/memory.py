"""The memory that sampling takes, from shapes: the cache, and decode weights."""

import functools

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
import numpy as np

from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.cache import block_sizes, cache_shardings, new_cache
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.rollout.weights import abstract_weights
from gopd_jax.runtime.memory import Part, device_bytes
from gopd_jax.runtime.mesh import rows_multiple, with_shardings


def cache_part(
    config: ModelConfig,
    mesh: Mesh,
    *,
    slots: int,
    max_tokens: int,
    dtype: DTypeLike,
    options: EngineOptions,
    setting: str,
) -> Part:
    """The cache of all slots.

    Args:
        max_tokens: prompt limit + response limit.
        dtype: compute dtype.
        setting: the option that sets the number of slots.
    """
    shards, quantized = rows_multiple(mesh), options.kv_cache == "int8"
    sizes = block_sizes(max_tokens, fine=mesh.devices.flat[0].platform == "cpu")
    make = functools.partial(
        new_cache,
        config,
        -(-slots // shards) * shards,
        sizes,
        options.steps_per_dispatch,
        dtype,
        quantized,
    )
    shapes = jax.eval_shape(make)
    held = device_bytes(with_shardings(shapes, cache_shardings(mesh, shapes)))
    columns = sum(sizes) + options.steps_per_dispatch
    number = "1 byte, and scales" if quantized else f"{np.dtype(dtype).itemsize} bytes"
    needs = (
        f"{slots:,} slots x {columns:,} columns x {config.layers} layers x 2 x {config.kv_heads} "
        f"heads x {config.head_size} x {number}"
    )
    return Part("rollout cache", needs, held, setting)


def weights_part(
    config: ModelConfig, mesh: Mesh, dtype: DTypeLike, options: EngineOptions, setting: str
) -> Part:
    """The decode weights; `setting` is the option that names the model."""
    int8 = options.weights == "int8"
    held = device_bytes(abstract_weights(config, mesh, dtype, int8))
    number = "1 byte, and scales" if int8 else f"{np.dtype(dtype).itemsize} bytes"
    return Part("decode weights", f"{config.num_params:,} parameters x {number}", held, setting)
