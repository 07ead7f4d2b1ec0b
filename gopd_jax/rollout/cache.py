"""The slot cache: keys and values of every slot, as blocks of columns for each layer.

The keys and values of a slot's token at position p are in column p. The columns are cut into
blocks, and a program is given the first few blocks only: attention reads the live columns and not
the whole cache, without a slice, which XLA would copy before a matrix product. Decode does not
write to the blocks while it runs: it collects the columns of one dispatch in a small fresh block,
at the same place for all slots, and merges them into the blocks at the end of the dispatch.

Rows are numbered within a shard (the devices of one tensor group), so that
writes and copies never cross devices. Arrays only: which cache an engine keeps is in `cache_pool`.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike
import numpy as np

from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.models.config import ModelConfig
from gopd_jax.runtime.mesh import RULES, constrain

AXES = ("slots", "kv_heads", None, None)  # logical axes of keys and values [B, K, C, H]
MIN_LIVE_COLUMNS = 128  # no program is compiled for fewer

Tree = TypeVar("Tree")
Blocks = tuple[tuple[CacheBlock, ...], ...]  # [block][layer]


@struct.dataclass
class SlotCache:
    """The cache of all slots.

    blocks: blocks[j][layer] holds the j-th columns.
    fresh: fresh[layer] holds the columns of one dispatch, and nothing between two dispatches.
    """

    blocks: Blocks
    fresh: tuple[CacheBlock, ...]


def block_sizes(columns: int, fine: bool = False) -> tuple[int, ...]:
    """Number of columns of each of the blocks that hold `columns`; the last block just fits.

    The sizes are 128, 128, 256, 512, ...: each block is as large as all before it together. With
    `fine`, a block has a quarter of the columns before it, and at least 64: for kernels that can
    leave out a block for which no slot is long enough (on CPU).
    """
    sizes: list[int] = []
    while (left := columns - sum(sizes)) > 0:
        before = sum(sizes)
        size = max(64, 1 << (before // 4).bit_length() >> 1) if fine else before or 128
        sizes.append(min(size, -(-left // 8) * 8))
    return tuple(sizes)


def blocks_for(sizes: Sequence[int], columns: int) -> int:
    """Number of blocks given to a program that needs the first `columns` columns.

    The columns are rounded up to a power of two, so that few programs are compiled.
    """
    if not columns:
        return 0
    columns = max(MIN_LIVE_COLUMNS, 1 << (columns - 1).bit_length())
    return min(int(np.searchsorted(np.cumsum(sizes), columns)) + 1, len(sizes))


def new_block(
    config: ModelConfig, rows: int, columns: int, dtype: DTypeLike, quantized: bool, copies: int = 1
) -> CacheBlock:
    """A block of zeros, sharded over slots and key/value heads."""
    shape = (rows, config.kv_heads * copies, columns, config.head_size)

    def zeros(shape, dtype):
        return constrain(jnp.zeros(shape, dtype), AXES[: len(shape)])

    if not quantized:
        return CacheBlock(zeros(shape, dtype), zeros(shape, dtype))
    scales = [zeros(shape[:3], jnp.float32) for _ in range(2)]
    return CacheBlock(zeros(shape, jnp.int8), zeros(shape, jnp.int8), *scales)


def new_cache(
    config: ModelConfig,
    rows: int,
    sizes: Sequence[int],
    fresh_columns: int,
    dtype: DTypeLike,
    quantized: bool,
    copies: int = 1,
) -> SlotCache:
    """A cache of zeros.

    Args:
        config: architecture of the model.
        rows: number of slots.
        sizes: number of columns of each block; see `block_sizes`.
        fresh_columns: largest number of tokens that a slot draws in one dispatch.
        dtype: of keys and values that are not quantized.
        quantized: whether keys and values are int8.
        copies: of each key/value head; see `mesh.kv_copies`.
    """

    def layers(columns):
        return tuple(
            new_block(config, rows, columns, dtype, quantized, copies) for _ in range(config.layers)
        )

    return SlotCache(tuple(layers(size) for size in sizes), layers(fresh_columns))


def joined(caches: Sequence[SlotCache]) -> SlotCache:
    """One cache with the layers of several, those of the first in front."""
    blocks = zip(*(cache.blocks for cache in caches), strict=True)
    layers = tuple(layer for cache in caches for layer in cache.fresh)
    return SlotCache(tuple(sum(block, ()) for block in blocks), layers)


def cache_shardings(mesh: Mesh, tree: Any) -> Any:
    """The sharding of each array of a cache or of a part of it."""

    def one(x):
        axes = [RULES[axis] if axis else None for axis in AXES[: x.ndim]]
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(one, tree)


def as_block(key_BTKH: jax.Array, value_BTKH: jax.Array, like: CacheBlock) -> CacheBlock:
    """New keys and values as a block of the kind of `like`: cast, or rounded to int8.

    An int8 block has one scale for each token and head: scale = max_h |x_h| / 127, and
    x ~ scale * round(x / scale).
    """
    keys, values = key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2)
    if like.key_scales is None:
        return CacheBlock(keys.astype(like.keys.dtype), values.astype(like.values.dtype))

    def quantize(x):
        x = x.astype(jnp.float32)
        scales = jnp.maximum(jnp.max(jnp.abs(x), axis=-1), 1e-12) / 127
        return jnp.round(x / scales[..., None]).astype(jnp.int8), scales

    (keys, key_scales), (values, value_scales) = quantize(keys), quantize(values)
    return CacheBlock(keys, values, key_scales, value_scales)


def as_floats(block: CacheBlock, dtype: DTypeLike) -> tuple[jax.Array, jax.Array]:
    """Keys and values of a block in `dtype`, each [B, K, C, H]."""
    if block.key_scales is None:
        return block.keys.astype(dtype), block.values.astype(dtype)
    keys = block.keys.astype(jnp.float32) * block.key_scales[..., None]
    values = block.values.astype(jnp.float32) * block.value_scales[..., None]
    return keys.astype(dtype), values.astype(dtype)


def on_each_shard(function: Callable[..., Any], *arguments: Any) -> Any:
    """Applies `function` to the rows that each shard holds; nothing in it can cross devices.

    Arrays of the cache, which have three axes or more, are split by slots and heads, arrays [D, r]
    by shards; scalars are the same everywhere. The results must be arrays of the cache.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arguments)

    def spec(x):
        axes = AXES[:2] if x.ndim > 2 else AXES[: min(x.ndim, 1)]
        return PartitionSpec(*[RULES[axis] for axis in axes])

    in_specs = jax.tree.map(spec, arguments)
    out_specs = jax.tree.map(spec, jax.eval_shape(function, *arguments))
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )(*arguments)


def write(
    layers: Sequence[CacheBlock],
    new: Sequence[CacheBlock],
    rows_Dr: jax.Array,
    starts_Dr: jax.Array,
    counts_Dr: jax.Array,
    offset: int,
) -> tuple[CacheBlock, ...]:
    """The layers of one block with new tokens in them.

    Args:
        layers: blocks [B, K, C, H] that begin at column `offset`.
        new: for each layer, new tokens [D * r, K, T, H]: r rows for each of D shards.
        rows_Dr: int32, row of the block within the shard.
        starts_Dr: int32, column of the first token.
        counts_Dr: int32, number of the T tokens that are real. Tokens outside of this block are
            left to the other blocks.
        offset: number of columns in the blocks before this one.
    """
    C, T = layers[0].keys.shape[2], new[0].keys.shape[2]
    W = min(C, T)

    def one_shard(layers, new, rows_1r, starts_1r, counts_1r):
        rows_r, begins_r, counts_r = rows_1r[0], starts_1r[0] - offset, counts_1r[0]
        hit_r = (counts_r > 0) & (begins_r < C) & (begins_r + counts_r > 0)
        order_r = jnp.argsort(~hit_r)  # rows with something to write come first

        def body(i, layers):
            r = order_r[i]
            at = jnp.clip(begins_r[r], 0, C - W)
            index_W = at + jnp.arange(W) - begins_r[r]
            real_W = (index_W >= 0) & (index_W < counts_r[r])

            def one(x_bKC, new_rKT):
                window = (1, x_bKC.shape[1], W, *x_bKC.shape[3:])
                where = (rows_r[r], 0, at, *[0] * (x_bKC.ndim - 3))
                old = jax.lax.dynamic_slice(x_bKC, where, window)
                tokens = jax.lax.dynamic_index_in_dim(new_rKT, r, keepdims=True)
                tokens = jnp.take(tokens, jnp.clip(index_W, 0, T - 1), axis=2)
                kept = real_W.reshape(1, 1, W, *[1] * (x_bKC.ndim - 3))
                return jax.lax.dynamic_update_slice(x_bKC, jnp.where(kept, tokens, old), where)

            return jax.tree.map(one, layers, new)

        return jax.lax.fori_loop(0, jnp.sum(hit_r), body, layers)

    return on_each_shard(one_shard, tuple(layers), tuple(new), rows_Dr, starts_Dr, counts_Dr)


def take(tree: Tree, rows_Dr: jax.Array) -> Tree:
    """The given rows of every array of a tree: [B, ...] -> [D * r, ...].

    Rows are numbered within their shard.
    """

    def one_shard(tree, rows_1r):
        return jax.tree.map(lambda x: jnp.take(x, rows_1r[0], axis=0, mode="clip"), tree)

    return on_each_shard(one_shard, tree, rows_Dr)


def copy_rows(tree: Tree, sources_Dr: jax.Array, targets_Dr: jax.Array) -> Tree:
    """Copies row sources[:, i] to row targets[:, i] of every array, one after the other.

    Rows are numbered within their shard. Targets of -1, which must come last, are skipped.
    """

    def one_shard(tree, sources_1r, targets_1r):
        def body(i, tree):
            source, target = sources_1r[0, i], targets_1r[0, i]

            def one(x):
                row = jax.lax.dynamic_index_in_dim(x, source)
                return jax.lax.dynamic_update_index_in_dim(x, row, target, axis=0)

            return jax.tree.map(one, tree)

        return jax.lax.fori_loop(0, jnp.sum(targets_1r >= 0), body, tree)

    return on_each_shard(one_shard, tree, sources_Dr, targets_Dr)
