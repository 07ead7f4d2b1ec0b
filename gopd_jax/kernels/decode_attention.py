"""Decode attention of one query token to one block of the cache, behind one interface, by device.

A kernel returns the unnormalised sum and what is needed to join it with those of other blocks: exact softmax attention over
any number of blocks (the online softmax of FlashAttention, arXiv 2205.14135). "xla" runs everywhere; the Pallas kernels read
only the live columns of each slot.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas.ops.gpu import decode_attention as gpu_decode
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gopd_jax.rollout.cache import Block
from gopd_jax.runtime.mesh import RULES

MASKED = -1e30
ROWS_AXES = ("batch", "kv_heads", None, None)
TPU_COLUMNS = 512  # columns of one step of the TPU kernel: 8 heads x 512 x 128 x 2 bytes are 1 MiB of keys in VMEM

# sum_BKGH = sum_s exp(score_s - largest) value_s, total_BKG = sum_s exp(score_s - largest), largest_BKG = max_s score_s
Part = tuple[jax.Array, jax.Array, jax.Array]
Kernel = Callable[[jax.Array, Block, jax.Array], Part]


def _scores(query_BKGH: jax.Array, keys_BKCH: jax.Array) -> jax.Array:
    return jnp.einsum("bkgh,bkch->bkgc", query_BKGH, keys_BKCH, preferred_element_type=jnp.float32)


def _scores_on_cpu(query_BKGH: jax.Array, keys_BKCH: jax.Array) -> jax.Array:
    """Keys on the left, kept there by a barrier: twice as fast in XLA on CPU."""
    left = jnp.einsum("bkch,bkgh->bkcg", keys_BKCH, query_BKGH, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(left).swapaxes(2, 3)


def xla(
    query_BKGH: jax.Array,
    block: Block,
    lengths_B: jax.Array,
    scores: Callable[..., jax.Array] = _scores,
) -> Part:
    """Attention to the first `lengths` columns of a block, in plain XLA: every column is read.

    Args:
        query_BKGH: one query for each slot; G query heads share a key head. Scores are q k / sqrt(H).
        block: keys and values [B, K, C, H], int8 ones with scales. lengths_B: int32, may be below 0 or above C.
    """
    keys, values = block.keys, block.values
    if block.key_scales is not None:
        keys, values = keys.astype(query_BKGH.dtype), values.astype(query_BKGH.dtype)
    scores_BKGC = scores(query_BKGH, keys)
    if block.key_scales is not None:
        scores_BKGC = scores_BKGC * block.key_scales[:, :, None]
    sees = (jnp.arange(keys.shape[2]) < lengths_B[:, None])[:, None, None]
    # The barrier: without it the scales and the mask are read again by every pass over the scores.
    scores_BKGC = jnp.where(sees, scores_BKGC, MASKED)
    largest_BKG = jnp.maximum(
        jnp.max(scores_BKGC, axis=-1), MASKED / 2
    )  # so that exp gives 0 where nothing is seen
    scores_BKGC, largest_BKG = jax.lax.optimization_barrier((scores_BKGC, largest_BKG))
    root = (
        query_BKGH.shape[-1] ** -0.5
    )  # applied here: before, XLA would first multiply the scales by it, in memory
    shares_BKGC = jnp.exp((scores_BKGC - largest_BKG[..., None]) * root)
    total_BKG = jnp.sum(shares_BKGC, axis=-1)
    if block.value_scales is not None:
        shares_BKGC = shares_BKGC * block.value_scales[:, :, None]
    sum_BKGH = jnp.einsum(
        "bkgs,bksh->bkgh",
        shares_BKGC.astype(values.dtype),
        values,
        preferred_element_type=jnp.float32,
    )
    return sum_BKGH, total_BKG, largest_BKG * root


def xla_cpu(query_BKGH: jax.Array, block: Block, lengths_B: jax.Array) -> Part:
    """`xla`, unless no slot has a column in the block: then it is not read. On CPU a branch costs nothing."""

    def nothing(query_BKGH, block, lengths_B):
        empty = jnp.zeros(query_BKGH.shape[:3], jnp.float32)
        return jnp.zeros(query_BKGH.shape, jnp.float32), empty, jnp.full_like(empty, MASKED)

    read = functools.partial(xla, scores=_scores_on_cpu)
    return jax.lax.cond(jnp.any(lengths_B > 0), read, nothing, query_BKGH, block, lengths_B)


def join(parts: Sequence[Part]) -> jax.Array:
    """Attention over all columns from the parts of each block: float32 [B, K, G, H]."""
    largest = functools.reduce(jnp.maximum, (part[2] for part in parts))
    weights = [jnp.exp(part[2] - largest) for part in parts]
    total = sum(weight * part[1] for weight, part in zip(weights, parts, strict=True))
    summed = sum(weight[..., None] * part[0] for weight, part in zip(weights, parts, strict=True))
    return summed / total[..., None]


# ---- TPU


def _tpu_kernel(lengths_ref, query_ref, keys_ref, values_ref, *refs, columns: int):
    """One slot, `columns` columns: adds to the running sum, total and maximum in VMEM scratch, written out at the last step."""
    scales, (sum_ref, total_ref, largest_ref, sum_acc, total_acc, largest_acc) = (
        refs[:-6],
        refs[-6:],
    )
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
            # Columns past the end of the array hold anything: 0 * nan must not reach the sum.
            values = jnp.where(inside, values, jnp.zeros_like(values))
            scores = jax.lax.dot_general(
                query, keys, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
            )
            scores = scores * query.shape[-1] ** -0.5
            if scales:
                scores = scores * scales[0][0, head][None]
            scores = jnp.where(sees, scores, MASKED)
            before = largest_acc[head]  # [G, 128], one number in every lane
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
    query_BKGH: jax.Array, block: Block, lengths_B: jax.Array, *, interpret: bool = False
) -> Part:
    """`xla` as a Pallas TPU kernel: columns beyond a slot's length are neither fetched nor computed."""
    B, K, G, H = query_BKGH.shape
    C = block.keys.shape[2]
    columns = min(TPU_COLUMNS, C)
    lengths_B = jnp.clip(lengths_B, 0, C)

    def live(
        slot, step, lengths
    ):  # a step past the end asks for the block it has: nothing is fetched
        return jnp.minimum(step, jnp.maximum(lengths[slot] - 1, 0) // columns)

    whole = pl.BlockSpec((1, K, G, H), lambda slot, step, lengths: (slot, 0, 0, 0))
    part = pl.BlockSpec(
        (1, K, columns, H), lambda slot, step, lengths: (slot, 0, live(slot, step, lengths), 0)
    )
    scale = pl.BlockSpec(
        (1, K, columns), lambda slot, step, lengths: (slot, 0, live(slot, step, lengths))
    )
    lanes = pl.BlockSpec((1, K, G, 128), lambda slot, step, lengths: (slot, 0, 0, 0))
    scales = [] if block.key_scales is None else [block.key_scales, block.value_scales]
    sum_BKGH, total, largest = pl.pallas_call(
        functools.partial(_tpu_kernel, columns=columns),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(B, pl.cdiv(C, columns)),
            in_specs=[whole, part, part, *[scale] * len(scales)],
            out_specs=[whole, lanes, lanes],
            scratch_shapes=[
                pltpu.VMEM((K, G, H), jnp.float32),
                pltpu.VMEM((K, G, 128), jnp.float32),
                pltpu.VMEM((K, G, 128), jnp.float32),
            ],
        ),
        out_shape=[
            jax.ShapeDtypeStruct((B, K, G, H), jnp.float32),
            jax.ShapeDtypeStruct((B, K, G, 128), jnp.float32),
            jax.ShapeDtypeStruct((B, K, G, 128), jnp.float32),
        ],
        interpret=interpret,
        name="decode_attention",
    )(lengths_B, query_BKGH, block.keys, block.values, *scales)
    return sum_BKGH, total[..., 0], largest[..., 0]


# ---- GPU


def pallas_gpu(
    query_BKGH: jax.Array, block: Block, lengths_B: jax.Array, *, interpret: bool = False
) -> Part:
    """`xla` by jax.experimental.pallas.ops.gpu.decode_attention (Triton): blocks past a slot's length are skipped."""
    B, K, G, H = query_BKGH.shape
    C = block.keys.shape[2]
    splits = max(1, min(16, C // 128))
    out, (total, largest) = gpu_decode.gqa(
        query_BKGH.reshape(B, K * G, H).astype(block.keys.dtype),
        block.keys.swapaxes(1, 2),  # undone inside: no copy
        block.values.swapaxes(1, 2),
        kv_seq_len=jnp.clip(lengths_B, 0, C),
        sm_scale=H**-0.5,
        k_splits=splits,
        block_k=min(128, C // splits),
        return_residuals=True,
        normalize_output=False,
        interpret=interpret,
    )
    # An empty part comes with the smallest float as its maximum; MASKED keeps the differences in `join` finite.
    largest = jnp.maximum(largest, MASKED)
    return (
        out.reshape(B, K, G, H).astype(jnp.float32),
        total.reshape(B, K, G),
        largest.reshape(B, K, G),
    )


# ---- The choice


KERNELS = {
    "xla": None,
    "pallas_tpu": "tpu",
    "pallas_gpu": "gpu",
}  # and the only platform of each, if any


@dataclasses.dataclass(frozen=True)
class Choice:
    """kernel: how decode reads the cache. why: one sentence for the log. skips: it leaves out the columns of idle slots."""

    kernel: Kernel
    why: str
    skips: bool


def choose(name: str, platform: str, *, quantized: bool, block_sizes: Sequence[int]) -> Choice:
    """The kernel of a name.

    Raises:
        ValueError: an unknown name, a kernel of another device, or one that cannot read the cache asked for.
    """
    if name != "auto" and name not in KERNELS:
        raise ValueError(f"rollout kernel={name!r}: wanted one of {['auto', *KERNELS]}")
    why = (
        "asked for"
        if name != "auto"
        else "the one that runs on every device; the Pallas kernels are a choice until measured"
    )
    if name in ("auto", "xla"):
        return Choice(xla_cpu if platform == "cpu" else xla, f"xla on {platform}: {why}", False)
    if KERNELS[name] != platform:
        raise ValueError(
            f"rollout kernel={name!r} runs on {KERNELS[name]}, the devices here are {platform}; wanted 'auto' or 'xla'"
        )
    if name == "pallas_gpu":
        if quantized:
            raise ValueError(
                "rollout kernel='pallas_gpu' reads no int8 cache; wanted kernel='xla' or kv_cache='compute'"
            )
        if odd := [size for size in block_sizes if size % 128]:
            raise ValueError(
                f"rollout kernel='pallas_gpu' wants prompt + response limits that are a multiple of 128; a block has {odd[0]}"
            )
        return Choice(pallas_gpu, f"pallas_gpu: {why}", True)
    return Choice(pallas_tpu, f"pallas_tpu: {why}", True)


def over_mesh(kernel: Kernel) -> Kernel:
    """A kernel that the partitioner cannot split, run by each device on its own slots and heads."""

    def run(query_BKGH, block, lengths_B):
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1 or kernel in (xla, xla_cpu):
            return kernel(query_BKGH, block, lengths_B)
        rows = PartitionSpec(RULES["batch"], RULES["kv_heads"])
        return jax.shard_map(
            kernel,
            mesh=mesh,
            in_specs=(rows, jax.tree.map(lambda _: rows, block), PartitionSpec(RULES["batch"])),
            out_specs=(rows, rows, rows),
            check_vma=False,
        )(query_BKGH, block, lengths_B)

    return run
