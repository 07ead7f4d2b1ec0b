"""Attention among packed sequences on NVIDIA GPUs: Pallas kernels on the Triton backend.

The tokens of a segment follow each other, and so do the segments that share a prefix. The keys
which a block of queries attends to are therefore two ranges: the prefix of its first segment, and
from the first key of this segment to its own last query. The queries that attend to a block of keys
are one range. Each kernel computes its ranges and loops over the blocks in them; other blocks are
neither read nor computed. There are three kernels: the output with the normaliser of each query,
the gradient of the queries, and that of keys and values. The gradients compute the scores again.
One program of the last kernel runs all query heads of its key/value head, so that nothing is added
atomically and results repeat to the bit.

Exponentials are to base 2, which is what a GPU computes.
"""

from collections.abc import Callable, Sequence
import functools
import math

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp

from gopd_jax.kernels.block_pairs import FIRST, NOBODY, prefix_bounds, seen_keys, sees
from gopd_jax.kernels.packed_attention import SAVED, SegmentMask, prefix_of
from gopd_jax.runtime.mesh import on_each_device

# Queries, and keys, of a block. A guess: the kernels have not run on a GPU yet.
BLOCK = 64
HEAD_BYTES = 256  # of longer heads a block has fewer, so that it fits into shared memory
LEAST_HEAD, LARGEST_HEAD = 16, 256  # sizes of a head that a tile may have, powers of 2
# A masked score is below the smallest maximum, so that its share is exactly 0.
SMALLEST, MASKED = -1e29, -1e30

# Logical axes of the arrays. Query heads are split as their key heads are.
QUERY = ("batch", None, "kv_heads", None)
KEY = ("batch", "kv_heads", None, None)
NUMBER = ("batch", "kv_heads", None)
TOKENS = ("batch", None)
SEEN = ("batch", None, None)


# ---- Kernels. One program has one block of queries of a head, or of keys of a key/value head.


def _dot(a: jax.Array, b: jax.Array, axis_a: int = 1, axis_b: int = 0) -> jax.Array:
    """The product of two matrices over these axes, in float32."""
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def _load(ref, there: jax.Array) -> jax.Array:
    """The rows of a matrix that are there, and zeros for the others, which are not read.

    So neither NaN in padding nor what lies beyond a row reaches a product, and no array is padded.
    """
    return plgpu.load(ref, mask=there[:, None], other=0.0)


def _load_seen(ref, rows: slice, inside_t: jax.Array) -> list[jax.Array]:
    """What `seen_keys` says of some queries, three arrays [t]; NOBODY for those beyond the row."""
    # The interpreter takes no Python number as an index.
    return [plgpu.load(ref.at[jnp.int32(i), rows], mask=inside_t, other=NOBODY) for i in range(3)]


def _positions(block: jax.Array, size: int) -> jax.Array:
    return block * size + jax.lax.broadcasted_iota(jnp.int32, (size,), 0)


def _blocks(low: jax.Array, high: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The first block of these positions, and one beyond the last; none if high is -1."""
    return jax.lax.div(low, size), jax.lax.div(high + size, size)


def _scores(query_tH: jax.Array, key_sH: jax.Array, sees_ts: jax.Array, scale: float) -> jax.Array:
    """log2(e) q k^T / sqrt(H), masked: the logarithm to base 2 of an unnormalised share."""
    scores_ts = _dot(query_tH, key_sH, 1, 1) * (scale * math.log2(math.e))
    return jnp.where(sees_ts, scores_ts, MASKED)


class _Queries:
    """The block of queries of a program, and the keys that it attends to.

    inside_t: whether a query is in the row, which no block needs to divide.
    live_t: whether it is no padding.
    loop: the first and one beyond the last number of a block of keys; `keys` says where it is.
    """

    def __init__(self, seen_ref, block: jax.Array, length: int, offset: int):
        self.size = size = seen_ref.shape[1]
        at_t = _positions(block, size)
        self.inside_t = at_t < length
        self._seen_3t = _load_seen(seen_ref, slice(None), self.inside_t)
        self.live_t = self._seen_3t[FIRST] < NOBODY
        self._own_t = at_t + offset
        self._low = jnp.min(self._seen_3t[FIRST])
        self._high = jnp.max(jnp.where(self.live_t, self._own_t, -1))
        self._prefix, self._prefix_end = prefix_bounds(self._seen_3t)
        self._first_own, end = _blocks(self._low, self._high, size)
        self._first_prefix, prefix_end = _blocks(self._prefix, self._prefix_end - 1, size)
        # A block that both ranges meet is run once, with the second one.
        of_prefix = jnp.minimum(prefix_end, self._first_own) - self._first_prefix
        self._of_prefix = jnp.maximum(of_prefix, 0)
        self.loop = 0, self._of_prefix + jnp.maximum(end - self._first_own, 0)

    def keys(self, i: jax.Array):
        """The rows of a block of keys, which of them to read, and which query sees which."""
        own = self._first_own + i - self._of_prefix
        block = jnp.where(i < self._of_prefix, self._first_prefix + i, own)
        key_s = _positions(block, self.size)
        there_s = (key_s >= self._low) & (key_s <= self._high)
        there_s |= (key_s >= self._prefix) & (key_s < self._prefix_end)
        sees_ts = sees([x[:, None] for x in self._seen_3t], self._own_t[:, None], key_s[None])
        return pl.ds(block * self.size, self.size), there_s, sees_ts


def _forward_kernel(
    seen_ref, query_ref, key_ref, value_ref, out_ref, norm_ref,
    *, length: int, offset: int, scale: float,
):  # fmt: skip
    queries = _Queries(seen_ref, pl.program_id(0), length, offset)
    query_tH = _load(query_ref, queries.live_t)

    def body(i, carry):
        total_t, largest_t, out_tH = carry
        rows, there_s, sees_ts = queries.keys(i)
        key_sH, value_sH = (_load(ref.at[rows, :], there_s) for ref in (key_ref, value_ref))
        scores_ts = _scores(query_tH, key_sH, sees_ts, scale)
        new_largest_t = jnp.maximum(largest_t, jnp.max(scores_ts, axis=1))
        shares_ts = jnp.exp2(scores_ts - new_largest_t[:, None])
        shrink_t = jnp.exp2(largest_t - new_largest_t)
        added_tH = _dot(shares_ts.astype(value_sH.dtype), value_sH)
        total_t = total_t * shrink_t + jnp.sum(shares_ts, axis=1)
        return total_t, new_largest_t, out_tH * shrink_t[:, None] + added_tH

    zeros_t = jnp.zeros((queries.size,), jnp.float32)
    start = zeros_t, zeros_t + SMALLEST, jnp.zeros(query_tH.shape, jnp.float32)
    total_t, largest_t, out_tH = jax.lax.fori_loop(*queries.loop, body, start)
    total_t = jnp.where(total_t > 0, total_t, 1.0)  # 0 where a query attends to no key
    out_tH = (out_tH / total_t[:, None]).astype(out_ref.dtype)
    plgpu.store(out_ref, out_tH, mask=queries.inside_t[:, None])
    plgpu.store(norm_ref, largest_t + jnp.log2(total_t), mask=queries.inside_t)


def _score_gradients(sees_ts, query_tH, key_sH, value_sH, grad_tH, norm_t, mean_t, scale: float):
    """The shares p, and the gradient of the scores, p (dp - mean) / sqrt(H), both [t, s]."""
    shares_ts = jnp.exp2(_scores(query_tH, key_sH, sees_ts, scale) - norm_t[:, None])
    grad_shares_ts = _dot(grad_tH, value_sH, 1, 1)
    grad_scores_ts = shares_ts * (grad_shares_ts - mean_t[:, None]) * scale
    return shares_ts, grad_scores_ts.astype(key_sH.dtype)


def _query_kernel(
    seen_ref, query_ref, key_ref, value_ref, grad_ref, norm_ref, mean_ref, out_ref,
    *, length: int, offset: int, scale: float,
):  # fmt: skip
    queries = _Queries(seen_ref, pl.program_id(0), length, offset)
    query_tH, grad_tH = (_load(ref, queries.live_t) for ref in (query_ref, grad_ref))
    norm_t, mean_t = (
        plgpu.load(ref, mask=queries.live_t, other=0.0) for ref in (norm_ref, mean_ref)
    )

    def body(i, out_tH):
        rows, there_s, sees_ts = queries.keys(i)
        key_sH, value_sH = (_load(ref.at[rows, :], there_s) for ref in (key_ref, value_ref))
        _, grad_scores_ts = _score_gradients(
            sees_ts, query_tH, key_sH, value_sH, grad_tH, norm_t, mean_t, scale
        )
        return out_tH + _dot(grad_scores_ts, key_sH)

    start = jnp.zeros(query_tH.shape, jnp.float32)
    out_tH = jax.lax.fori_loop(*queries.loop, body, start)
    plgpu.store(out_ref, out_tH.astype(out_ref.dtype), mask=queries.inside_t[:, None])


def _key_value_kernel(
    seen_ref, last_ref, query_ref, key_ref, value_ref, grad_ref, norm_ref, mean_ref,
    key_out_ref, value_out_ref, *, length: int, offset: int, scale: float,
):  # fmt: skip
    """`length` is that of the keys."""
    size, heads = last_ref.shape[0], query_ref.shape[1]
    key_s = _positions(pl.program_id(0), size)
    inside_s = key_s < length
    last_s = plgpu.load(last_ref, mask=inside_s, other=-1)
    live_s = last_s >= 0
    key_sH, value_sH = (_load(ref, live_s) for ref in (key_ref, value_ref))
    low = jnp.maximum(jnp.min(jnp.where(live_s, key_s, NOBODY)) - offset, 0)
    blocks = _blocks(low, jnp.max(last_s), size)

    def of_head(head, grads):
        def body(block, grads):
            grad_key_sH, grad_value_sH = grads
            rows = pl.ds(block * size, size)
            at_t = _positions(block, size)
            seen_3t = _load_seen(seen_ref, rows, at_t < length - offset)
            live_t = seen_3t[FIRST] < NOBODY
            query_tH, grad_tH = (
                _load(ref.at[rows, head, :], live_t) for ref in (query_ref, grad_ref)
            )
            norm_t, mean_t = (
                plgpu.load(ref.at[head, rows], mask=live_t, other=0.0)
                for ref in (norm_ref, mean_ref)
            )
            sees_ts = sees([x[:, None] for x in seen_3t], at_t[:, None] + offset, key_s[None])
            shares_ts, grad_scores_ts = _score_gradients(
                sees_ts, query_tH, key_sH, value_sH, grad_tH, norm_t, mean_t, scale
            )
            grad_value_sH += _dot(shares_ts.astype(grad_tH.dtype), grad_tH, 0, 0)
            grad_key_sH += _dot(grad_scores_ts, query_tH, 0, 0)
            return grad_key_sH, grad_value_sH

        return jax.lax.fori_loop(*blocks, body, grads)

    zeros = jnp.zeros(key_sH.shape, jnp.float32)
    grads = jax.lax.fori_loop(0, heads, of_head, (zeros, zeros))
    for ref, grad_sH in zip((key_out_ref, value_out_ref), grads, strict=True):
        plgpu.store(ref, grad_sH.astype(ref.dtype), mask=inside_s[:, None])


# ---- Calls. The grid is (block, head, row); blocks of the last index vary fastest.


def _specs(block: int, T: int, S: int, group: int, H: int) -> dict[str, pl.BlockSpec]:
    """The parts of arrays that a program gets, by what they hold; group is N / K.

    A name that begins with "all" has every token of a row, beyond its end up to a whole block.
    """
    t, s = (pl.cdiv(x, block) * block for x in (T, S))
    return {
        "query": pl.BlockSpec((None, block, None, H), lambda i, n, b: (b, i, n, 0)),
        "number": pl.BlockSpec((None, None, block), lambda i, n, b: (b, n, i)),
        "token": pl.BlockSpec((None, block), lambda i, n, b: (b, i)),
        "seen": pl.BlockSpec((None, 3, block), lambda i, n, b: (b, 0, i)),
        "all keys": pl.BlockSpec((None, None, s, H), lambda i, n, b: (b, n // group, 0, 0)),
        "key": pl.BlockSpec((None, None, block, H), lambda i, k, b: (b, k, i, 0)),
        "all queries": pl.BlockSpec((None, t, group, H), lambda i, k, b: (b, 0, k, 0)),
        "all numbers": pl.BlockSpec((None, group, t), lambda i, k, b: (b, k, 0)),
        "all seen": pl.BlockSpec((None, 3, t), lambda i, k, b: (b, 0, 0)),
    }


def _call(
    kernel: Callable[..., None],
    inputs: Sequence[tuple[str, jax.Array]],
    outputs: Sequence[tuple[str, jax.ShapeDtypeStruct]],
    query_BTNH: jax.Array,
    key_BKSH: jax.Array,
    head_size: int,
    interpret: bool,
) -> Sequence[jax.Array]:
    """Runs a kernel for every block of its first output.

    Args:
        inputs, outputs: each with its kind, see `_specs`.
        query_BTNH, key_BKSH: for their shapes and dtype.
        head_size: that the scores are scaled by.
    """
    (B, T, N, H), (_, K, S, _) = query_BTNH.shape, key_BKSH.shape
    block = BLOCK * HEAD_BYTES // max(HEAD_BYTES, H * query_BTNH.dtype.itemsize)
    specs = _specs(block, T, S, N // K, H)
    length, heads = (S, K) if outputs[0][0] == "key" else (T, N)
    return pl.pallas_call(
        functools.partial(kernel, length=length, offset=S - T, scale=head_size**-0.5),
        grid=(pl.cdiv(length, block), heads, B),
        in_specs=[specs[kind] for kind, _ in inputs],
        out_specs=[specs[kind] for kind, _ in outputs],
        out_shape=[shape for _, shape in outputs],
        compiler_params=plgpu.CompilerParams(num_warps=4 if block * H <= 4096 else 8, num_stages=2),
        interpret=interpret,
    )(*(x for _, x in inputs))


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _wide(*arrays: jax.Array) -> list[jax.Array]:
    """The arrays with zeros behind each head, up to the next size that a tile may have."""
    H = arrays[0].shape[-1]
    more = max(LEAST_HEAD, pl.next_power_of_2(H)) - H
    return [jnp.pad(x, [(0, 0)] * 3 + [(0, more)]) if more else x for x in arrays]


def _forward(query, key, value, seen, *, interpret: bool):
    """The output [B, T, N, H], and the log of the softmax's norm to base 2, float32 [B, N, T]."""
    H = query.shape[-1]
    query, key, value = _wide(query, key, value)
    B, T, N, _ = query.shape
    out, norm = _call(
        _forward_kernel,
        [("seen", seen), ("query", query), ("all keys", key), ("all keys", value)],
        [
            ("query", jax.ShapeDtypeStruct(query.shape, value.dtype)),
            ("number", jax.ShapeDtypeStruct((B, N, T), jnp.float32)),
        ],
        query, key, H, interpret,
    )  # fmt: skip
    return out[..., :H], norm


def _backward(query, key, value, seen, last, out, norm, grad, *, interpret: bool):
    """Gradients of queries, keys and values."""
    H = query.shape[-1]
    # sum_s p_s dp_s, which softmax takes from every dp
    mean = jnp.sum(grad.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).swapaxes(1, 2)
    query, key, value, grad = _wide(query, key, value, grad)
    (grad_query,) = _call(
        _query_kernel,
        [
            ("seen", seen), ("query", query), ("all keys", key), ("all keys", value),
            ("query", grad), ("number", norm), ("number", mean),
        ],
        [("query", _like(query))],
        query, key, H, interpret,
    )  # fmt: skip
    grad_key, grad_value = _call(
        _key_value_kernel,
        [
            ("all seen", seen), ("token", last), ("all queries", query), ("key", key),
            ("key", value), ("all queries", grad), ("all numbers", norm), ("all numbers", mean),
        ],
        [("key", _like(key)), ("key", _like(value))],
        query, key, H, interpret,
    )  # fmt: skip
    return grad_query[..., :H], grad_key[..., :H], grad_value[..., :H]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, seen, last, interpret: bool):
    return _attend_forward(query, key, value, seen, last, interpret)[0]


def _attend_forward(query, key, value, seen, last, interpret: bool):
    forward = functools.partial(_forward, interpret=interpret)
    run = on_each_device(forward, (QUERY, KEY, KEY, SEEN), (QUERY, NUMBER))
    out, norm = run(query, key, value, seen)
    out, norm = checkpoint_name(out, SAVED), checkpoint_name(norm, SAVED)
    return out, (query, key, value, seen, last, out, norm)


def _attend_backward(interpret: bool, kept, grad_out):
    backward = functools.partial(_backward, interpret=interpret)
    inputs = (QUERY, KEY, KEY, SEEN, TOKENS, QUERY, NUMBER, QUERY)
    run = on_each_device(backward, inputs, (QUERY, KEY, KEY))
    return *run(*kept, grad_out), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def last_queries(mask: SegmentMask) -> jax.Array:
    """The last query that attends to each key, int32 [B, S]; negative where there is none."""
    key_BS, prefix_BS = mask.key_segments, prefix_of(mask.key_segments)

    def next_end(x_BS: jax.Array) -> jax.Array:
        ends_BS = jnp.pad(x_BS[:, 1:] != x_BS[:, :-1], ((0, 0), (0, 1)), constant_values=True)
        return jax.lax.cummin(jnp.where(ends_BS, mask.key_index, NOBODY), axis=1, reverse=True)

    # A prefix is seen by the rest of its group.
    last_BS = jnp.where(key_BS == prefix_BS, next_end(prefix_BS), next_end(key_BS))
    offset = key_BS.shape[1] - mask.query_segments.shape[1]
    return jnp.where(key_BS > 0, last_BS - offset, -1).astype(jnp.int32)


def pallas_gpu(
    query_BTNH: jax.Array,
    key_BKSH: jax.Array,
    value_BKSH: jax.Array,
    mask: SegmentMask,
    *,
    interpret: bool = False,
) -> jax.Array:
    """`PackedAttention` as Pallas Triton kernels, run by each device on its own rows and heads.

    It asks more of the mask than other kernels do: the tokens of a segment follow each other, and
    segment 0 is padding, behind the segments or before them, which attends to nothing and to which
    nothing attends. A query that attends to no key gets zeros. `interpret` runs the kernels in the
    Pallas interpreter, on any device.

    Raises:
        ValueError: heads of more than 256 numbers, or a dtype that the kernels do not multiply.
    """
    H, dtypes = query_BTNH.shape[3], {x.dtype.name for x in (query_BTNH, key_BKSH, value_BKSH)}
    if H > LARGEST_HEAD:
        raise ValueError(
            f"head_dim={H}: packed attention kernel='pallas_gpu' expected at most {LARGEST_HEAD}, "
            "or kernel='xla'"
        )
    if len(dtypes) > 1 or not dtypes <= {"float32", "bfloat16", "float16"}:
        raise ValueError(
            f"dtypes {sorted(dtypes)} of queries, keys and values: packed attention "
            "kernel='pallas_gpu' expected one of 'float32', 'bfloat16' and 'float16' for all"
        )
    seen_B3T, last_BS = seen_keys(mask), last_queries(mask)
    return _attend(query_BTNH, key_BKSH, value_BKSH, seen_B3T, last_BS, interpret)
