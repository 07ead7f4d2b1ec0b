"""Which blocks of queries meet which blocks of keys: the work of attention in packed rows.

In: a `SegmentMask`. Out: the pairs of blocks that causality and the segments leave, as a list that
a kernel runs one step at a time. Used by the TPU kernel.
"""

from flax import struct
import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import numpy as np

from gopd_jax.kernels.packed_attention import SegmentMask, prefix_of

# Queries, and keys, of a block. Longer blocks take fewer steps of the grid and compute more masked
# scores where a segment begins and along the diagonal.
BLOCK = 512
LANES = 128  # of a vector register; blocks are multiples of it
NOBODY = np.iinfo(np.int32).max  # key of a query that attends to none
# What `seen_keys` says of a query, by index.
FIRST, PREFIX, PREFIX_END = range(3)


@struct.dataclass
class BlockPairs:
    """The pairs of blocks that have work, in the order in which the grid runs them.

    outer: int32 [P + 1], row * blocks + block, of the blocks whose results are accumulated. It
        ascends, and all pairs of a block follow each other.
    inner: int32 [P], the block it meets; -1 if it meets none, and only zeros are written.
    count: int32 scalar, number of pairs; what the arrays hold beyond is not used.
    per_row: outer blocks of a row.
    """

    outer: jax.Array
    inner: jax.Array
    count: jax.Array
    per_row: int = struct.field(pytree_node=False)


def block_size(length: int) -> int:
    """The size of the blocks that cover `length`: at most BLOCK, with the least padding."""
    blocks = pl.cdiv(length, BLOCK)
    return pl.cdiv(pl.cdiv(length, blocks), LANES) * LANES


def block_pairs(mask: SegmentMask) -> tuple[BlockPairs, BlockPairs]:
    """The pairs by query block, and the same by key block.

    Their number grows with the sum of squares of the segments, and of their products with their
    prefixes, plus one pair for each block without any.
    """
    offset = mask.key_segments.shape[1] - mask.query_segments.shape[1]
    seen_B3T = seen_keys(mask)
    size_t, size_s = (block_size(x.shape[-1]) for x in (seen_B3T, mask.key_segments))
    seen_B3T = pad(seen_B3T, size_t, 2, NOBODY)
    return _pairs(seen_B3T, offset, size_t, pl.cdiv(mask.key_segments.shape[1], size_s), size_s)


def seen_keys(mask: SegmentMask) -> jax.Array:
    """The keys that each query sees up to itself, int32 [B, 3, T]; NOBODY for padding.

    FIRST is the first key of its segment; PREFIX and PREFIX_END are the first key of its prefix,
    and one beyond the last. All three are equal where the segment has no prefix.
    """
    key_BS, prefix_BS = mask.key_segments, prefix_of(mask.key_segments)

    def latest(begins_BS: jax.Array) -> jax.Array:
        return jax.lax.cummax(jnp.where(begins_BS, mask.key_index, 0), axis=1)

    begins_BS, group_BS = _changes(key_BS), _changes(prefix_BS)
    member_BS = key_BS != prefix_BS
    after_prefix_BS = jnp.pad(~member_BS[:, :-1], ((0, 0), (1, 0)))
    first_member_BS = begins_BS & member_BS & (group_BS | after_prefix_BS)
    first_BS = latest(begins_BS)
    prefix_B2S = jnp.stack([latest(group_BS), latest(first_member_BS)], axis=1)
    prefix_B2S = jnp.where(member_BS[:, None], prefix_B2S, first_BS[:, None])
    seen_B3S = jnp.concatenate([first_BS[:, None], prefix_B2S], axis=1)
    seen_B3T = seen_B3S[:, :, key_BS.shape[1] - mask.query_segments.shape[1] :]
    return jnp.where(mask.query_segments[:, None] > 0, seen_B3T, NOBODY).astype(jnp.int32)


def _changes(segments_BS: jax.Array) -> jax.Array:
    """Where a number differs from the one before it."""
    changes_BS = segments_BS[:, 1:] != segments_BS[:, :-1]
    return jnp.pad(changes_BS, ((0, 0), (1, 0)), constant_values=True)


def sees(seen_3: jax.Array, query: jax.Array, key: jax.Array) -> jax.Array:
    """Whether a query sees a key.

    Args:
        seen_3: what `seen_keys` says of the query, FIRST, PREFIX and PREFIX_END.
        query, key: their indices among the keys.
    """
    between = (key >= seen_3[PREFIX_END]) & (key < seen_3[FIRST])  # of other samples
    return (key >= seen_3[PREFIX]) & (key <= query) & ~between


def prefix_bounds(seen_3t: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys that a block of queries sees before its segments: the first, and one beyond the last
    one.

    They are the prefix of its first segment, for other prefixes are not earlier. If there are none,
    the second number is 0.
    """
    earlier_t = seen_3t[PREFIX] < jnp.min(seen_3t[FIRST])
    return jnp.min(seen_3t[PREFIX]), jnp.max(jnp.where(earlier_t, seen_3t[PREFIX_END], 0))


def _pairs(
    seen_B3T: jax.Array, offset: int, size_t: int, key_blocks: int, size_s: int
) -> tuple[BlockPairs, BlockPairs]:
    B, _, T = seen_B3T.shape
    query_blocks = T // size_t
    index_T = offset + np.arange(T)
    first_BIt = seen_B3T[:, FIRST].reshape(B, query_blocks, size_t)
    last_BT = jnp.where(seen_B3T[:, FIRST] < NOBODY, index_T, -1)
    last_BI = last_BT.reshape(first_BIt.shape).max(axis=2)
    block_J = np.arange(key_blocks)
    needed_BIJ = first_BIt.min(axis=2)[..., None] < (block_J + 1) * size_s
    needed_BIJ &= last_BI[..., None] >= block_J * size_s
    seen_BI3t = seen_B3T.reshape(B, 3, query_blocks, size_t).swapaxes(1, 2)
    prefix_BI, end_BI = jax.vmap(jax.vmap(prefix_bounds))(seen_BI3t)
    of_prefix_BIJ = prefix_BI[..., None] < (block_J + 1) * size_s
    needed_BIJ |= of_prefix_BIJ & (end_BI[..., None] > block_J * size_s)
    causal_IJ = index_T[size_t - 1 :: size_t, None] >= block_J * size_s
    most = B * (int(causal_IJ.sum()) + query_blocks + key_blocks)
    return _listed(needed_BIJ, most), _listed(needed_BIJ.swapaxes(1, 2), most)


def _listed(needed_BIJ: jax.Array, most: int) -> BlockPairs:
    """The pairs in order; a block without a pair is listed once, so that its result is written."""
    blocks = needed_BIJ.shape[2]
    needed_OJ = needed_BIJ.reshape(-1, blocks)
    alone_O = ~needed_OJ.any(axis=1)
    listed_OJ = needed_OJ.at[:, 0].set(needed_OJ[:, 0] | alone_O)
    (flat_P,) = jnp.nonzero(listed_OJ.reshape(-1), size=most, fill_value=0)
    outer, inner = flat_P // blocks, flat_P % blocks
    inner = jnp.where(alone_O[outer], -1, inner)
    count = jnp.sum(listed_OJ, dtype=jnp.int32)
    outer = jnp.where(jnp.arange(most) < count, outer, -1)
    return BlockPairs(
        jnp.pad(outer, (0, 1), constant_values=-1).astype(jnp.int32),
        inner.astype(jnp.int32),
        count,
        needed_BIJ.shape[1],
    )


def pad(x: jax.Array, size: int, axis: int, value: int = 0) -> jax.Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, widths, constant_values=value)
