"""Decode attention on TPUs: a Pallas kernel that reads only the columns a slot attends to."""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from gopd_jax.kernels.decode_attention import MASKED, CacheBlock, Part

# Columns of one grid step: with 8 heads of 128 bfloat16, 512 columns are 1 MiB of keys in VMEM.
COLUMNS = 512
LANES = 128  # of a vector register; a number per query head is held once in every lane


def _kernel(lengths_ref, query_ref, keys_ref, values_ref, *refs, columns: int):
    """One slot and `columns` columns per grid step.

    The running sum, total and maximum are held in VMEM scratch and written out at the last step.
    """
    scales, outputs, scratch = refs[:-6], refs[-6:-3], refs[-3:]
    sum_ref, total_ref, largest_ref = outputs
    sum_acc, total_acc, largest_acc = scratch
    slot, step = pl.program_id(0), pl.program_id(1)
    length = lengths_ref[slot]

    @pl.when(step == 0)
    def _():
        sum_acc[...] = jnp.zeros_like(sum_acc)
        total_acc[...] = jnp.zeros_like(total_acc)
        largest_acc[...] = jnp.full_like(largest_acc, MASKED)

    @pl.when(step * columns < length)
    def _():
        column = step * columns + jax.lax.broadcasted_iota(jnp.int32, (1, columns), 1)
        sees = column < length
        inside = step * columns + jax.lax.broadcasted_iota(jnp.int32, (columns, 1), 0) < length
        for head in range(query_ref.shape[1]):
            query = query_ref[0, head]
            keys, values = keys_ref[0, head], values_ref[0, head]
            if scales:
                keys, values = keys.astype(query.dtype), values.astype(query.dtype)
            # Columns past the end of the array may hold NaN, and 0 * NaN must not reach the sum.
            values = jnp.where(inside, values, jnp.zeros_like(values))
            scores = jax.lax.dot_general(
                query, keys, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
            )
            scores = scores * query.shape[-1] ** -0.5
            if scales:
                scores = scores * scales[0][0, head][None]
            scores = jnp.where(sees, scores, MASKED)
            before = largest_acc[head]  # [G, LANES]
            largest = jnp.maximum(before, jnp.max(scores, axis=1, keepdims=True))
            shares = jnp.where(sees, jnp.exp(scores - largest[:, :1]), 0.0)
            shrink = jnp.exp(before - largest)
            total_acc[head] = shrink * total_acc[head] + jnp.sum(shares, axis=1, keepdims=True)
            if scales:
                shares = jnp.where(sees, shares * scales[1][0, head][None], 0.0)
            added = jax.lax.dot(
                shares.astype(values.dtype), values, preferred_element_type=jnp.float32
            )
            sum_acc[head] = shrink[:, :1] * sum_acc[head] + added
            largest_acc[head] = largest

    @pl.when(step == pl.num_programs(1) - 1)
    def _():
        sum_ref[0], total_ref[0], largest_ref[0] = sum_acc[...], total_acc[...], largest_acc[...]


def pallas_tpu(
    query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array, *, interpret: bool = False
) -> Part:
    """`DecodeAttention` as a Pallas TPU kernel.

    Columns beyond a slot's length are neither fetched nor computed. Reads float and int8 blocks of
    any size. `interpret` runs the kernel in the Pallas interpreter, on any device.
    """
    B, K, G, H = query_BKGH.shape
    C = block.keys.shape[2]
    columns = min(COLUMNS, C)
    lengths_B = jnp.clip(lengths_B, 0, C)

    def slot_only(slot, step, lengths):
        return slot, 0, 0, 0

    def live(slot, step, lengths):
        # A step past the length asks for the columns that are already there, so nothing is fetched.
        return jnp.minimum(step, jnp.maximum(lengths[slot] - 1, 0) // columns)

    def live_columns(slot, step, lengths):
        return slot, 0, live(slot, step, lengths), 0

    def live_scales(slot, step, lengths):
        return slot, 0, live(slot, step, lengths)

    per_head = pl.BlockSpec((1, K, G, H), slot_only)
    per_lane = pl.BlockSpec((1, K, G, LANES), slot_only)
    keys_or_values = pl.BlockSpec((1, K, columns, H), live_columns)
    scales = [] if block.key_scales is None else [block.key_scales, block.value_scales]
    scale_specs = [pl.BlockSpec((1, K, columns), live_scales)] * len(scales)
    scratch = [pltpu.VMEM((K, G, size), jnp.float32) for size in (H, LANES, LANES)]
    outputs = [jax.ShapeDtypeStruct((B, K, G, size), jnp.float32) for size in (H, LANES, LANES)]
    summed, total, largest = pl.pallas_call(
        functools.partial(_kernel, columns=columns),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, pl.cdiv(C, columns)),
            in_specs=[per_head, keys_or_values, keys_or_values, *scale_specs],
            out_specs=[per_head, per_lane, per_lane],
            scratch_shapes=scratch,
        ),
        out_shape=outputs,
        interpret=interpret,
        name="decode_attention",
    )(lengths_B, query_BKGH, block.keys, block.values, *scales)
    return Part(summed, total[..., 0], largest[..., 0])
