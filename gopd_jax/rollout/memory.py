"""The memory that sampling takes, from shapes: the cache, and decode weights."""

import dataclasses
import functools
import math

import jax
from jax.sharding import Mesh
from jax.typing import DTypeLike
import numpy as np

from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.cache import block_sizes, cache_shardings, new_cache
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.rollout.weights import abstract_weights
from gopd_jax.runtime.memory import Part, device_bytes, in_words
from gopd_jax.runtime.mesh import RULES, kv_copies, slots_multiple, with_shardings

SPARE = 0.1  # share of the free memory that is left to what programs need besides


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
    shards, quantized = slots_multiple(mesh), options.kv_cache == "int8"
    copies = kv_copies(config.kv_heads, mesh)
    sizes = block_sizes(max_tokens, fine=mesh.devices.flat[0].platform == "cpu")
    make = functools.partial(
        new_cache,
        config,
        -(-slots // shards) * shards,
        sizes,
        options.steps_per_dispatch,
        dtype,
        quantized,
        copies,
    )
    shapes = jax.eval_shape(make)
    held = device_bytes(with_shardings(shapes, cache_shardings(mesh, shapes)))
    columns = sum(sizes) + options.steps_per_dispatch
    number = "1 byte, and scales" if quantized else f"{np.dtype(dtype).itemsize} bytes"
    needs = (
        f"{slots:,} slots x {columns:,} columns x {config.layers} layers x 2 x "
        f"{config.kv_heads * copies} heads x {config.head_size} x {number}"
    )
    return Part("rollout cache", needs, held, setting)


def weights_part(
    config: ModelConfig,
    mesh: Mesh,
    dtype: DTypeLike,
    options: EngineOptions,
    setting: str,
    gathered: bool = False,
) -> Part:
    """The decode weights, and a layer of them that is gathered.

    Args:
        setting: the option that names the model.
        gathered: see `Layout`.
    """
    int8 = options.weights == "int8"
    held = device_bytes(abstract_weights(config, mesh, dtype, int8, gathered))
    if gathered:
        held += device_bytes(abstract_weights(config, mesh, dtype, int8)["layers"][0])
    number = "1 byte, and scales" if int8 else f"{np.dtype(dtype).itemsize} bytes"
    return Part("decode weights", f"{config.num_params:,} parameters x {number}", held, setting)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where decode weights are; str() gives the layout and the reason.

    gathered: they stay split over the devices, and each layer is gathered when it is used. They are
        whole in each tensor group otherwise.
    """

    gathered: bool
    why: str

    def __str__(self) -> str:
        return f"{'gathered' if self.gathered else 'whole'}: {self.why}"


def choose_layout(
    config: ModelConfig,
    mesh: Mesh,
    *,
    slots: int,
    max_tokens: int,
    dtype: DTypeLike,
    options: EngineOptions,
    room: int | None,
) -> Layout:
    """The layout of the decode weights that the options name, or that the memory allows.

    Args:
        slots, max_tokens, dtype, options: see `cache_part`.
        room: bytes of a device that decode weights and cache may take; None stands for enough.
    """
    if math.prod(mesh.shape[axis] for axis in RULES["embed"]) == 1:
        return Layout(False, "there is one tensor group, or copies of one")
    if options.layout != "auto":
        return Layout(options.layout == "gathered", "requested")
    if room is None:
        return Layout(False, "no limit of memory is known")
    shape = {"slots": slots, "max_tokens": max_tokens, "dtype": dtype, "options": options}
    cache = cache_part(config, mesh, **shape, setting="").bytes
    weights = weights_part(config, mesh, dtype, options, "").bytes
    words = (
        f"whole weights need {in_words(weights)}, as much again while they are gathered, and then "
        f"the cache {in_words(cache)} of {in_words(room)} that are free"
    )
    return Layout(weights + max(weights, cache) > (1 - SPARE) * room, words)
