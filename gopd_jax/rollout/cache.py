"""The slot cache: keys and values of every slot, as column blocks for each layer, written in place.

A slot's token at position p stands in column p. The columns are cut into blocks: a program is given the first few only, so
attention reads the live columns and not the whole cache, without a slice (XLA copies a slice before a matrix product). Decode
never writes to the blocks while it runs: the columns of one dispatch are gathered in a small fresh block, at the same place for
all slots, and merged into the blocks when the dispatch ends.

Rows are numbered within a shard (the devices of one data x fsdp coordinate): writes and copies never cross devices.
"""

from collections.abc import Sequence
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models import ModelConfig
from gopd_jax.runtime.mesh import constrain

AXES = ("batch", "kv_heads", None, None)


@struct.dataclass
class Block:
    """Some columns of one layer's cache: keys, values [B, K, C, H]; int8 ones have scales, float32 [B, K, C]."""

    keys: jax.Array
    values: jax.Array
    key_scales: jax.Array | None = None
    value_scales: jax.Array | None = None


@struct.dataclass
class SlotCache:
    """blocks[j][layer]: the j-th columns. fresh[layer]: the columns of one dispatch; holds nothing between dispatches."""

    blocks: tuple[tuple[Block, ...], ...]
    fresh: tuple[Block, ...]


def block_sizes(columns: int, fine: bool = False) -> tuple[int, ...]:
    """Sizes of the blocks that hold `columns`; the last one fits.

    128, 128, 256, 512, ...: each as large as all before it. Or, where the kernel can leave out a block (on CPU), a quarter of
    all before it and at least 64.
    """
    sizes: list[int] = []
    while (left := columns - sum(sizes)) > 0:
        before = sum(sizes)
        size = max(64, 1 << (before // 4).bit_length() >> 1) if fine else before or 128
        sizes.append(min(size, -(-left // 8) * 8))
    return tuple(sizes)


def blocks_for(sizes: Sequence[int], columns: int) -> int:
    """How many of the blocks a program is given that needs the first `columns` columns: enough for the next power of two."""
    if not columns:
        return 0
    columns = max(128, 1 << (columns - 1).bit_length())
    return min(int(np.searchsorted(np.cumsum(sizes), columns)) + 1, len(sizes))


def new_block(config: ModelConfig, rows: int, columns: int, dtype: Any, quantized: bool) -> Block:
    """A zero block, sharded over slots and key/value heads."""
    shape = (rows, config.kv_heads, columns, config.head_size)

    def zeros(shape, dtype):
        return constrain(jnp.zeros(shape, dtype), AXES[: len(shape)])

    if not quantized:
        return Block(zeros(shape, dtype), zeros(shape, dtype))
    scales = [zeros(shape[:3], jnp.float32) for _ in range(2)]
    return Block(zeros(shape, jnp.int8), zeros(shape, jnp.int8), *scales)


def new_cache(
    config: ModelConfig, rows: int, sizes: Sequence[int], fresh_columns: int, dtype: Any, quantized: bool
) -> SlotCache:
    """Zero caches for `rows` slots; `dtype` is that of unquantized keys and values."""

    def layers(columns):
        return tuple(new_block(config, rows, columns, dtype, quantized) for _ in range(config.layers))

    return SlotCache(tuple(layers(size) for size in sizes), layers(fresh_columns))


def as_block(key_BTKH: jax.Array, value_BTKH: jax.Array, like: Block) -> Block:
    """New keys and values in the form of `like`: cast, or rounded to int8 with one scale for each token and head.

    scale = max_h |x_h| / 127; x ~ scale * round(x / scale).
    """
    keys, values = key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2)
    if like.key_scales is None:
        return Block(keys.astype(like.keys.dtype), values.astype(like.values.dtype))

    def quantize(x):
        x = x.astype(jnp.float32)
        scales = jnp.maximum(jnp.max(jnp.abs(x), axis=-1), 1e-12) / 127
        return jnp.round(x / scales[..., None]).astype(jnp.int8), scales

    (keys, key_scales), (values, value_scales) = quantize(keys), quantize(values)
    return Block(keys, values, key_scales, value_scales)


def as_floats(block: Block, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a block in `dtype`."""
    if block.key_scales is None:
        return block.keys.astype(dtype), block.values.astype(dtype)
    keys = block.keys.astype(jnp.float32) * block.key_scales[..., None]
    values = block.values.astype(jnp.float32) * block.value_scales[..., None]
    return keys.astype(dtype), values.astype(dtype)


def _by_shard(x: jax.Array, shards: int) -> jax.Array:
    return x.reshape(shards, -1, *x.shape[1:])


def _each_shard(function, shards: int, x: jax.Array, *arguments: jax.Array) -> jax.Array:
    """`function(rows of one shard, ...)` for every shard; the results joined along the rows."""
    out = jax.vmap(function)(_by_shard(x, shards), *arguments)
    return out.reshape(-1, *out.shape[2:])


def write(layers: Sequence[Block], new: Sequence[Block], rows_Dr: jax.Array, columns_DrT: jax.Array, offset: int):
    """Layers of one block with new tokens in them.

    Args:
        layers: blocks [B, K, C, H] that start at column `offset`.
        new: blocks [D * r, K, T, H], r rows from each of D shards.
        rows_Dr: row of each within its shard; outside the shard: written nowhere.
        columns_DrT: column of each token; those outside the block are left to the other blocks.
    """
    columns = jnp.where(columns_DrT >= offset, columns_DrT - offset, jnp.iinfo(jnp.int32).max)

    def one_shard(x_bKC, new_rKT, rows_r, columns_rT):
        return x_bKC.at[rows_r[:, None], :, columns_rT].set(new_rKT.swapaxes(1, 2), mode="drop")

    def one(x, new_x):
        shards = rows_Dr.shape[0]
        return _each_shard(one_shard, shards, x, _by_shard(new_x, shards), rows_Dr, columns)

    return tuple(jax.tree.map(one, block, new_block) for block, new_block in zip(layers, new, strict=True))


def take(layer: Any, rows_Dr: jax.Array) -> Any:
    """Some rows of every array of a tree: [B, ...] -> [D * r, ...]; rows are numbered within their shard."""
    one_shard = functools.partial(jnp.take, axis=0, mode="clip")
    return jax.tree.map(lambda x: _each_shard(one_shard, rows_Dr.shape[0], x, rows_Dr), layer)


def copy_rows(tree: Any, sources_Db: jax.Array, targets_Db: jax.Array, count: jax.Array) -> Any:
    """Copies row sources[:, i] onto row targets[:, i] for i < count, in every shard; a target outside the shard: nowhere."""

    def one_shard(x_b, source, target):
        return x_b.at[target].set(jnp.take(x_b, source, axis=0, mode="clip"), mode="drop")

    def body(i, tree):
        pair = sources_Db[:, i], targets_Db[:, i]
        return jax.tree.map(lambda x: _each_shard(one_shard, sources_Db.shape[0], x, *pair), tree)

    return jax.lax.fori_loop(0, count, body, tree)
