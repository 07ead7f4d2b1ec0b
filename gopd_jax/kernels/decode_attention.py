"""Decode attention, one query token per slot: the interface, and its version in plain XLA.

In: the query of each slot, one block of cache columns, and how many of its columns each slot
attends to. Out: a `Part`, the unnormalised result for that block. `join` combines the parts of all
blocks into exact softmax attention (the online softmax of FlashAttention,
https://arxiv.org/abs/2205.14135). Does not write to the cache.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple, Protocol

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gopd_jax.runtime.mesh import RULES

MASKED = -1e30  # the score of a masked column; finite, so that differences of scores are too


@struct.dataclass
class CacheBlock:
    """Consecutive columns of one layer's cache.

    keys, values: [B, K, C, H], float, or int8 with scales.
    key_scales, value_scales: float32 [B, K, C], one for each token and head; None for floats.
    """

    keys: jax.Array
    values: jax.Array
    key_scales: jax.Array | None = None
    value_scales: jax.Array | None = None


class Part(NamedTuple):
    """Unnormalised attention to one block, float32.

    summed: [B, K, G, H], sum_c exp(score_c - largest) value_c.
    total: [B, K, G], sum_c exp(score_c - largest).
    largest: [B, K, G], max_c score_c.
    """

    summed: jax.Array
    total: jax.Array
    largest: jax.Array


class DecodeAttention(Protocol):
    """Attention of one query per slot to the first columns of a block; scores are q k / sqrt(H)."""

    def __call__(self, query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array) -> Part:
        """Attends to the first `lengths` columns of the block.

        Args:
            query_BKGH: the query of each slot; G query heads share a key/value head.
            block: columns of the cache.
            lengths_B: int32, number of columns each slot attends to; below 0 is taken as 0, above C
                as C.

        Returns:
            The part of this block. For a length of 0, `summed` and `total` are 0 and `largest` is
            finite and below any score. Columns beyond the length have no influence, as long as they
            hold finite numbers: a cache begins with zeros.
        """
        ...


def _scores(query_BKGH: jax.Array, keys_BKCH: jax.Array) -> jax.Array:
    return jnp.einsum("bkgh,bkch->bkgc", query_BKGH, keys_BKCH, preferred_element_type=jnp.float32)


def _scores_on_cpu(query_BKGH: jax.Array, keys_BKCH: jax.Array) -> jax.Array:
    """Scores with the keys as the left operand, which makes XLA on CPU twice as fast.

    The barrier keeps XLA from swapping the operands back.
    """
    left = jnp.einsum("bkch,bkgh->bkcg", keys_BKCH, query_BKGH, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(left).swapaxes(2, 3)


def xla(query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array) -> Part:
    """`DecodeAttention` in plain XLA; it reads every column of the block."""
    return _xla(query_BKGH, block, lengths_B, _scores, _weighted_live)


def xla_gpu(query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array) -> Part:
    """`xla` without a mask of the values: on GPUs, a matrix product may copy what is masked first.

    NaN and infinity beyond the length reach the result.
    """
    return _xla(query_BKGH, block, lengths_B, _scores, _weighted)


def xla_cpu(query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array) -> Part:
    """`xla` for CPUs, where a branch costs nothing: a block that no slot attends to is not read.

    NaN and infinity beyond the length reach the result: to mask the values takes as long as to
    multiply them.
    """

    def nothing(query_BKGH, block, lengths_B):
        empty = jnp.zeros(query_BKGH.shape[:3], jnp.float32)
        return Part(jnp.zeros(query_BKGH.shape, jnp.float32), empty, jnp.full_like(empty, MASKED))

    read = functools.partial(_xla, scores=_scores_on_cpu, weighted=_weighted)
    return jax.lax.cond(jnp.any(lengths_B > 0), read, nothing, query_BKGH, block, lengths_B)


def _weighted(shares_BKGC: jax.Array, values_BKCH: jax.Array, sees_BC: jax.Array) -> jax.Array:
    del sees_BC
    return jnp.einsum(
        "bkgs,bksh->bkgh",
        shares_BKGC.astype(values_BKCH.dtype),
        values_BKCH,
        preferred_element_type=jnp.float32,
    )


def _weighted_live(shares_BKGC: jax.Array, values_BKCH: jax.Array, sees_BC: jax.Array) -> jax.Array:
    """`_weighted` with zeros beyond the length, where a share of 0 times NaN would be NaN."""
    live = sees_BC[:, None, :, None]
    return _weighted(shares_BKGC, jnp.where(live, values_BKCH, 0), sees_BC)


def _xla(query_BKGH, block, lengths_B, scores, weighted) -> Part:
    keys, values = block.keys, block.values
    if block.key_scales is not None:
        keys, values = keys.astype(query_BKGH.dtype), values.astype(query_BKGH.dtype)
    scores_BKGC = scores(query_BKGH, keys)
    if block.key_scales is not None:
        scores_BKGC = scores_BKGC * block.key_scales[:, :, None]
    sees_BC = jnp.arange(keys.shape[2]) < lengths_B[:, None]
    scores_BKGC = jnp.where(sees_BC[:, None, None], scores_BKGC, MASKED)
    # At least MASKED / 2, so that exp below gives 0 for a slot that sees no column.
    largest_BKG = jnp.maximum(jnp.max(scores_BKGC, axis=-1), MASKED / 2)
    # Without the barrier, every pass over the scores reads the scales and the mask again.
    scores_BKGC, largest_BKG = jax.lax.optimization_barrier((scores_BKGC, largest_BKG))
    # 1 / sqrt(H) is applied after the barrier. Before it, XLA would first multiply the scales by
    # it, in memory.
    root = query_BKGH.shape[-1] ** -0.5
    shares_BKGC = jnp.exp((scores_BKGC - largest_BKG[..., None]) * root)
    total_BKG = jnp.sum(shares_BKGC, axis=-1)
    if block.value_scales is not None:  # int8 values are finite, their scales need not be
        value_scales = jnp.where(sees_BC[:, None], block.value_scales, 0.0)
        shares_BKGC = shares_BKGC * value_scales[:, :, None]
        weighted = _weighted
    return Part(weighted(shares_BKGC, values, sees_BC), total_BKG, largest_BKG * root)


def join(parts: Sequence[Part]) -> jax.Array:
    """Softmax attention over the columns of all blocks, float32 [B, K, G, H], from their parts."""
    largest = functools.reduce(jnp.maximum, (largest for _, _, largest in parts))
    weights = [jnp.exp(part_largest - largest) for _, _, part_largest in parts]
    total = sum(w * total for w, (_, total, _) in zip(weights, parts, strict=True))
    summed = sum(w[..., None] * summed for w, (summed, _, _) in zip(weights, parts, strict=True))
    return summed / total[..., None]


def over_mesh(kernel: DecodeAttention) -> DecodeAttention:
    """The kernel, run by each device on its own slots and heads.

    The partitioner cannot split a Pallas kernel. It splits the plain XLA versions by itself, so
    these are returned as they are.
    """
    if kernel in (xla, xla_gpu, xla_cpu):
        return kernel

    def run(query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array) -> Part:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return kernel(query_BKGH, block, lengths_B)
        slots = PartitionSpec(RULES["slots"])
        slots_and_heads = PartitionSpec(RULES["slots"], RULES["kv_heads"])
        return jax.shard_map(
            kernel,
            mesh=mesh,
            in_specs=(slots_and_heads, jax.tree.map(lambda _: slots_and_heads, block), slots),
            out_specs=Part(slots_and_heads, slots_and_heads, slots_and_heads),
            check_vma=False,
        )(query_BKGH, block, lengths_B)

    return run
