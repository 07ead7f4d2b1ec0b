"""The slot cache: keys and values of every slot, as column blocks for each layer, written in place.

A slot's token at position p stands in column p. The columns are cut into blocks: a program is given the first few only, so
attention reads the live columns and not the whole cache, without a slice (XLA copies a slice before a matrix product). Decode
never writes to the blocks while it runs: the columns of one dispatch are gathered in a small fresh block, at the same place for
all slots, and merged into the blocks when the dispatch ends.

Rows are numbered within a shard (the devices of one data x fsdp coordinate): writes and copies never cross devices.
"""

from collections.abc import Sequence
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from gopd_jax.models.config import ModelConfig
from gopd_jax.runtime.mesh import RULES, constrain

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
    config: ModelConfig,
    rows: int,
    sizes: Sequence[int],
    fresh_columns: int,
    dtype: Any,
    quantized: bool,
) -> SlotCache:
    """Zero caches for `rows` slots; `dtype` is that of unquantized keys and values."""

    def layers(columns):
        return tuple(
            new_block(config, rows, columns, dtype, quantized) for _ in range(config.layers)
        )

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


def on_each_shard(function, *arguments: Any) -> Any:
    """`function` of the rows that each shard holds: nothing in it can cross devices.

    Arrays of the cache (three axes or more) are cut along slots and heads, those of two axes [D, r] along the shards; numbers
    are the same everywhere. What is returned has the form of cache arrays.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*arguments)

    def spec(x):
        return (
            PartitionSpec(*[RULES[a] for a in AXES[: 2 if x.ndim > 2 else 1]])
            if x.ndim
            else PartitionSpec()
        )

    out = jax.eval_shape(function, *arguments)
    specs = jax.tree.map(spec, arguments)
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=jax.tree.map(spec, out), check_vma=False
    )(*arguments)


def write(
    layers: Sequence[Block],
    new: Sequence[Block],
    rows_Dr: jax.Array,
    starts_Dr: jax.Array,
    counts_Dr: jax.Array,
    offset: int,
) -> tuple[Block, ...]:
    """Layers of one block with new tokens in them.

    Args:
        layers: blocks [B, K, C, H] that begin at column `offset`.
        new: blocks [D * r, K, T, H], r rows from each of D shards.
        rows_Dr: row of each within its shard. starts_Dr: column of its first token. counts_Dr: how many of the T are real; what
            does not fall into this block is left to the others.
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


def take(tree: Any, rows_Dr: jax.Array) -> Any:
    """Some rows of every array of a tree: [B, ...] -> [D * r, ...]; rows are numbered within their shard."""

    def one_shard(tree, rows_1r):
        return jax.tree.map(lambda x: jnp.take(x, rows_1r[0], axis=0, mode="clip"), tree)

    return on_each_shard(one_shard, tree, rows_Dr)


def copy_rows(tree: Any, sources_Dr: jax.Array, targets_Dr: jax.Array) -> Any:
    """Copies row sources[:, i] onto row targets[:, i] of every array, one after the other; target -1: nowhere."""

    def one_shard(tree, sources_1r, targets_1r):
        def body(i, tree):
            source, target = sources_1r[0, i], targets_1r[0, i]

            def one(x):
                return jax.lax.dynamic_update_index_in_dim(
                    x, jax.lax.dynamic_index_in_dim(x, source), target, axis=0
                )

            return jax.tree.map(one, tree)

        return jax.lax.fori_loop(0, jnp.sum(targets_1r >= 0), body, tree)

    return on_each_shard(one_shard, tree, sources_Dr, targets_Dr)
