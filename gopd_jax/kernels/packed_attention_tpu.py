"""Attention among packed sequences on TPUs: Pallas kernels that run only the blocks with work.

`block_pairs` lists the pairs of a query block and a key block that have work. The list is computed
before the call and prefetched; the grid has one step per pair, so that an excluded block is neither
fetched nor computed. There are three kernels: the output with the logsumexp of each query, the
gradient of the queries, and that of keys and values. The gradients compute the scores again.

Scores are transposed, [keys, queries]: every number per query is then a row of lanes.
"""

from collections.abc import Callable, Sequence
import functools

from flax import struct
import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
import jax.numpy as jnp

from gopd_jax.kernels.block_pairs import (
    NOBODY,
    BlockPairs,
    block_pairs,
    block_size,
    pad,
    seen_keys,
    sees,
)
from gopd_jax.kernels.packed_attention import SAVED, SegmentMask
from gopd_jax.runtime.mesh import on_each_device

# A masked score is below the smallest maximum, so that its share is exactly 0.
SMALLEST, MASKED = -1e29, -1e30


# ---- Kernels. Each step has one pair of blocks of one key/value head.


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product of two matrices over these axes, in float32."""
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _at_ends(outer_ref) -> tuple[jax.Array, jax.Array]:
    """Whether this pair is the first of its outer block, and whether it is the last."""
    step = pl.program_id(1)
    before = outer_ref[jnp.maximum(step - 1, 0)]
    return (step == 0) | (before != outer_ref[step]), outer_ref[step + 1] != outer_ref[step]


def _attends(seen_ref, query_block: jax.Array, key_block: jax.Array, size_s: int, offset: int):
    """Which query attends to which key, bool [keys, queries]."""
    seen_31t = [seen_ref[0, pl.ds(i, 1)] for i in range(3)]
    size_t = seen_ref.shape[2]
    key_st = jax.lax.broadcasted_iota(jnp.int32, (size_s, size_t), 0) + key_block * size_s
    query_st = jax.lax.broadcasted_iota(jnp.int32, (size_s, size_t), 1) + query_block * size_t
    return sees(seen_31t, query_st + offset, key_st)


def _forward_kernel(
    outer_ref, inner_ref, seen_ref, query_ref, key_ref, value_ref, out_ref, lse_ref, *scratch,
    blocks: int, offset: int,
):  # fmt: skip
    out_acc, total_acc, largest_acc = scratch  # [G, H, t], [G, 1, t], [G, 1, t]
    step = pl.program_id(1)
    starts, ends = _at_ends(outer_ref)
    key_block = inner_ref[step]

    @pl.when(starts)
    def _():
        out_acc[...] = jnp.zeros_like(out_acc)
        total_acc[...] = jnp.zeros_like(total_acc)
        largest_acc[...] = jnp.full_like(largest_acc, SMALLEST)

    @pl.when(key_block >= 0)
    def _():
        key_sH, value_sH = key_ref[0, 0], value_ref[0, 0]
        sees_st = _attends(seen_ref, outer_ref[step] % blocks, key_block, key_sH.shape[0], offset)
        for head in range(query_ref.shape[2]):
            query_tH = query_ref[0, 0, head]
            scores_st = _dot(key_sH, query_tH, 1, 1) * query_tH.shape[1] ** -0.5
            scores_st = jnp.where(sees_st, scores_st, MASKED)
            before_1t = largest_acc[head]
            largest_1t = jnp.maximum(before_1t, jnp.max(scores_st, axis=0, keepdims=True))
            shares_st = jnp.exp(scores_st - largest_1t)
            shrink_1t = jnp.exp(before_1t - largest_1t)
            added_1t = jnp.sum(shares_st, axis=0, keepdims=True)
            total_acc[head] = shrink_1t * total_acc[head] + added_1t
            added_Ht = _dot(value_sH, shares_st.astype(value_sH.dtype), 0, 0)
            out_acc[head] = shrink_1t * out_acc[head] + added_Ht
            largest_acc[head] = largest_1t

    @pl.when(ends)
    def _():
        for head in range(query_ref.shape[2]):
            total_1t = total_acc[head]
            total_1t = jnp.where(total_1t > 0, total_1t, 1.0)  # 0 where a query attends to no key
            out_ref[0, 0, head] = (out_acc[head] / total_1t).T.astype(out_ref.dtype)
            lse_ref[0, 0, pl.ds(head, 1)] = largest_acc[head] + jnp.log(total_1t)


def _score_gradients(head: int, sees_st: jax.Array, query_tH, key_sH, value_sH, refs):
    """The shares of one head, and the gradient of its scores: p and p (dp - delta) / sqrt(H)."""
    grad_ref, lse_ref, delta_ref = refs
    scale = query_tH.shape[1] ** -0.5
    scores_st = _dot(key_sH, query_tH, 1, 1) * scale
    scores_st = jnp.where(sees_st, scores_st, MASKED)
    shares_st = jnp.exp(scores_st - lse_ref[0, 0, pl.ds(head, 1)])
    grad_shares_st = _dot(value_sH, grad_ref[0, 0, head], 1, 1)
    grad_scores_st = shares_st * (grad_shares_st - delta_ref[0, 0, pl.ds(head, 1)]) * scale
    return shares_st, grad_scores_st.astype(key_sH.dtype)


def _query_kernel(
    outer_ref, inner_ref, seen_ref, query_ref, key_ref, value_ref, *refs, blocks: int, offset: int
):
    *refs, out_ref, acc = refs  # acc: [G, H, t]
    step = pl.program_id(1)
    starts, ends = _at_ends(outer_ref)
    key_block = inner_ref[step]

    @pl.when(starts)
    def _():
        acc[...] = jnp.zeros_like(acc)

    @pl.when(key_block >= 0)
    def _():
        key_sH, value_sH = key_ref[0, 0], value_ref[0, 0]
        sees_st = _attends(seen_ref, outer_ref[step] % blocks, key_block, key_sH.shape[0], offset)
        for head in range(query_ref.shape[2]):
            query_tH = query_ref[0, 0, head]
            _, grad_scores_st = _score_gradients(head, sees_st, query_tH, key_sH, value_sH, refs)
            acc[head] += _dot(key_sH, grad_scores_st, 0, 0)

    @pl.when(ends)
    def _():
        for head in range(query_ref.shape[2]):
            out_ref[0, 0, head] = acc[head].T.astype(out_ref.dtype)


def _key_value_kernel(
    outer_ref, inner_ref, seen_ref, query_ref, key_ref, value_ref, *refs, blocks: int, offset: int
):
    *refs, key_out_ref, value_out_ref, key_acc, value_acc = refs  # [s, H] each
    step = pl.program_id(1)
    starts, ends = _at_ends(outer_ref)
    query_block = inner_ref[step]

    @pl.when(starts)
    def _():
        key_acc[...] = jnp.zeros_like(key_acc)
        value_acc[...] = jnp.zeros_like(value_acc)

    @pl.when(query_block >= 0)
    def _():
        key_sH, value_sH = key_ref[0, 0], value_ref[0, 0]
        sees_st = _attends(seen_ref, query_block, outer_ref[step] % blocks, key_sH.shape[0], offset)
        for head in range(query_ref.shape[2]):
            query_tH = query_ref[0, 0, head]
            shares_st, grad_scores_st = _score_gradients(
                head, sees_st, query_tH, key_sH, value_sH, refs
            )
            value_acc[...] += _dot(shares_st.astype(value_sH.dtype), refs[0][0, 0, head], 1, 0)
            key_acc[...] += _dot(grad_scores_st, query_tH, 1, 0)

    @pl.when(ends)
    def _():
        key_out_ref[0, 0] = key_acc[...].astype(key_out_ref.dtype)
        value_out_ref[0, 0] = value_acc[...].astype(value_out_ref.dtype)


# ---- Calls.


@struct.dataclass
class _Blocks:
    """What the three calls share.

    seen: int32 [B, 3, T], see `seen_keys`.
    offset: index of the first query among the keys.
    """

    by_query: BlockPairs
    by_key: BlockPairs
    seen: jax.Array
    offset: int = struct.field(pytree_node=False)
    interpret: bool = struct.field(pytree_node=False)


def _specs(
    outer_is_query: bool, per_row: int, shape: Sequence[int], S: int
) -> dict[str, pl.BlockSpec]:
    """The blocks of arrays by what they hold, for queries of this shape [B, K, G, T, H].

    query: [B, K, G, T, H]. number: [B, K, G, T], one per query. seen: [B, 3, T]. key: of keys or
    values, [B, K, S, H].
    """
    _, _, G, T, H = shape
    size_t, size_s = block_size(T), block_size(S)

    def place(step, outer, inner):
        """Row, query block and key block of a step."""
        row, own = outer[step] // per_row, outer[step] % per_row
        other = jnp.maximum(inner[step], 0)
        return (row, own, other) if outer_is_query else (row, other, own)

    def query(head, step, outer, inner):
        row, query_block, _ = place(step, outer, inner)
        return row, head, 0, query_block, 0

    def number(head, step, outer, inner):
        return query(head, step, outer, inner)[:4]

    def seen(head, step, outer, inner):
        row, query_block, _ = place(step, outer, inner)
        return row, 0, query_block

    def key(head, step, outer, inner):
        row, _, key_block = place(step, outer, inner)
        return row, head, key_block, 0

    return {
        "query": pl.BlockSpec((1, 1, G, size_t, H), query),
        "number": pl.BlockSpec((1, 1, G, size_t), number),
        "seen": pl.BlockSpec((1, 3, size_t), seen),
        "key": pl.BlockSpec((1, 1, size_s, H), key),
    }


def _call(
    kernel: Callable[..., None],
    blocks: _Blocks,
    outer_is_query: bool,
    inputs: Sequence[tuple[str, jax.Array]],
    outputs: Sequence[tuple[str, jax.ShapeDtypeStruct]],
    scratch: Sequence[tuple[int, ...]],
    name: str,
) -> Sequence[jax.Array]:
    """Runs a kernel over the pairs.

    Args:
        inputs, outputs: each with its kind, see `_specs`; queries and keys come first.
        scratch: shapes of float32 accumulators.
    """
    (_, query_BKGTH), (_, key_BKSH) = inputs[:2]
    pairs = blocks.by_query if outer_is_query else blocks.by_key
    specs = _specs(outer_is_query, pairs.per_row, query_BKGTH.shape, key_BKSH.shape[2])
    return pl.pallas_call(
        functools.partial(kernel, blocks=pairs.per_row, offset=blocks.offset),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=2,
            grid=(key_BKSH.shape[1], pairs.count),
            in_specs=[specs["seen"], *(specs[kind] for kind, _ in inputs)],
            out_specs=[specs[kind] for kind, _ in outputs],
            scratch_shapes=[pltpu.VMEM(shape, jnp.float32) for shape in scratch],
        ),
        out_shape=[shape for _, shape in outputs],
        interpret=blocks.interpret,
        name=name,
    )(pairs.outer, pairs.inner, blocks.seen, *(x for _, x in inputs))


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


@jax.custom_vjp
def _attention(
    query_BKGTH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, blocks: _Blocks
) -> jax.Array:
    return _forward(query_BKGTH, key_BKSH, value_BKSH, blocks)[0]


def _forward(query_BKGTH, key_BKSH, value_BKSH, blocks):
    G, T, H = query_BKGTH.shape[2:]
    size_t = block_size(T)
    out_BKGTH, lse_BKGT = _call(
        _forward_kernel,
        blocks,
        True,
        [("query", query_BKGTH), ("key", key_BKSH), ("key", value_BKSH)],
        [
            ("query", jax.ShapeDtypeStruct(query_BKGTH.shape, value_BKSH.dtype)),
            ("number", jax.ShapeDtypeStruct(query_BKGTH.shape[:4], jnp.float32)),
        ],
        [(G, H, size_t), (G, 1, size_t), (G, 1, size_t)],
        "packed_attention",
    )
    out_BKGTH = checkpoint_name(out_BKGTH, SAVED)
    lse_BKGT = checkpoint_name(lse_BKGT, SAVED)
    return out_BKGTH, (query_BKGTH, key_BKSH, value_BKSH, blocks, out_BKGTH, lse_BKGT)


def _backward(saved, grad_BKGTH):
    query_BKGTH, key_BKSH, value_BKSH, blocks, out_BKGTH, lse_BKGT = saved
    G, T, H = query_BKGTH.shape[2:]
    delta_BKGT = jnp.sum(grad_BKGTH.astype(jnp.float32) * out_BKGTH.astype(jnp.float32), axis=-1)
    inputs = [
        ("query", query_BKGTH),
        ("key", key_BKSH),
        ("key", value_BKSH),
        ("query", grad_BKGTH),
        ("number", lse_BKGT),
        ("number", delta_BKGT),
    ]
    (query_grad,) = _call(
        _query_kernel,
        blocks,
        True,
        inputs,
        [("query", _like(query_BKGTH))],
        [(G, H, block_size(T))],
        "packed_attention_query_gradient",
    )
    key_grad, value_grad = _call(
        _key_value_kernel,
        blocks,
        False,
        inputs,
        [("key", _like(key_BKSH)), ("key", _like(value_BKSH))],
        [(block_size(key_BKSH.shape[2]), H)] * 2,
        "packed_attention_key_value_gradient",
    )
    return query_grad, key_grad, value_grad, None


_attention.defvjp(_forward, _backward)


# Logical axes of the arrays. Query heads are split as their key heads are.
QUERY = ("batch", None, "kv_heads", None)
KEY = ("batch", "kv_heads", None, None)
SEGMENTS = ("batch", None)


def _on_device(
    query_BTNH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    query_segments_BT: jax.Array,
    key_segments_BS: jax.Array,
    *,
    interpret: bool,
) -> jax.Array:
    """Attention over the rows and heads of one device."""
    B, T, N, H = query_BTNH.shape
    K, S = key_BKSH.shape[1:3]
    index_S = jnp.arange(S)
    mask = SegmentMask(query_segments_BT, key_segments_BS, index_S[S - T :], index_S)
    size_t, size_s = block_size(T), block_size(S)
    # NaN in padding must reach no product, neither here nor in the backward pass.
    live_BT11 = mask.query_segments[:, :, None, None] > 0
    live_B1S1 = mask.key_segments[:, None, :, None] > 0
    query_BTNH = jnp.where(live_BT11, query_BTNH, 0)
    key_BKSH, value_BKSH = (
        pad(jnp.where(live_B1S1, x, 0), size_s, axis=2) for x in (key_BKSH, value_BKSH)
    )
    query_BKGTH = query_BTNH.reshape(B, T, K, N // K, H).transpose(0, 2, 3, 1, 4)
    seen_B3T = pad(seen_keys(mask), size_t, 2, NOBODY)
    blocks = _Blocks(*block_pairs(mask), seen_B3T, S - T, interpret)
    out_BKGTH = _attention(pad(query_BKGTH, size_t, axis=3), key_BKSH, value_BKSH, blocks)
    out_BTNH = out_BKGTH[:, :, :, :T].transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
    return jnp.where(live_BT11, out_BTNH, 0)


def pallas_tpu(
    query_BTNH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    mask: SegmentMask,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`PackedAttention` as Pallas TPU kernels, run by each device on its own rows and heads.

    It asks more of the mask than other kernels do: the tokens of a segment follow each other, and
    segment 0 is padding, which attends to nothing and to which nothing attends. A query that
    attends to no key gets zeros. `interpret` runs the kernels in the Pallas interpreter, on any
    device.
    """
    function = functools.partial(_on_device, interpret=interpret)
    run = on_each_device(function, (QUERY, KEY, KEY, SEGMENTS, SEGMENTS), QUERY)
    return run(query_BTNH, key_BKSH, value_BKSH, mask.query_segments, mask.key_segments)
