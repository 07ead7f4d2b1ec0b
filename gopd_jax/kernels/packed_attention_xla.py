"""Attention among packed sequences in plain XLA, on every platform, for rows of any length.

Online softmax over the key blocks that a block of queries needs, with a backward pass written out.
Blocks that the causal order or the segments exclude are never run, so the work grows with the sum
of squares of the segments and not with that of the row. Nothing of size [T, S] is kept: the
backward pass computes the scores again from the normalisers.

The work is a list of items, made from the segments on the device: a block of queries, and a strip
of one to `widths[0]` blocks of keys. A loop runs the items that exist. Queries of all heads of a
group stand below each other, so that their products with the keys are one matrix product.
"""

import dataclasses
import functools

from flax import struct
import jax
from jax.ad_checkpoint import checkpoint_name
import jax.numpy as jnp

from gopd_jax.kernels.packed_attention import NEVER, SAVED, SegmentMask, plain, prefix_of
from gopd_jax.runtime.mesh import on_each_device

# Logical axes of the arrays. Query heads are split as their key heads are.
QUERY = ("batch", None, "kv_heads", None)
KEY = ("batch", "kv_heads", None, None)
SEGMENTS = ("batch", None)
NORM = ("batch", None, "kv_heads", None)


@dataclasses.dataclass(frozen=True)
class Xla:
    """`PackedAttention` by blocks; at most one block of queries is left to `plain`.

    block: tokens of a block of queries or keys.
    short: as many queries are left to `plain`, which is faster then.
    widths: numbers of key blocks that are run at once, descending to 1, each a sum of later ones.
    """

    block: int
    widths: tuple[int, ...]
    short: int = 0

    def __call__(
        self,
        query_BTNH: jax.Array,
        key_BKSH: jax.Array,
        value_BKSH: jax.Array,
        mask: SegmentMask,
    ) -> jax.Array:
        if query_BTNH.shape[1] <= max(self.block, self.short):
            return plain(query_BTNH, key_BKSH, value_BKSH, mask)
        segments = mask.query_segments, mask.key_segments
        return _attend(query_BTNH, key_BKSH, value_BKSH, *segments, self)


# On CPU the sizes are the fastest of those tried, with segments of 100 to 600 tokens; see
# docs/performance.md. On accelerators they are a guess.
xla_cpu = Xla(block=32, widths=(8, 4, 2, 1), short=128)
xla = Xla(block=256, widths=(4, 2, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(query, key, value, query_segments, key_segments, sizes: Xla):
    return _attend_forward(query, key, value, query_segments, key_segments, sizes)[0]


def _attend_forward(query, key, value, query_segments, key_segments, sizes: Xla):
    forward = functools.partial(_forward, sizes=sizes)
    run = on_each_device(forward, (QUERY, KEY, KEY, SEGMENTS, SEGMENTS), (QUERY, NORM))
    out, norm = run(query, key, value, query_segments, key_segments)
    out, norm = checkpoint_name(out, SAVED), checkpoint_name(norm, SAVED)
    return out, (query, key, value, query_segments, key_segments, out, norm)


def _attend_backward(sizes: Xla, kept, grad_out):
    backward = functools.partial(_backward, sizes=sizes)
    inputs = (QUERY, KEY, KEY, SEGMENTS, SEGMENTS, QUERY, NORM, QUERY)
    run = on_each_device(backward, inputs, (QUERY, KEY, KEY))
    return *run(*kept, grad_out), None, None


_attend.defvjp(_attend_forward, _attend_backward)


# ---- The plan.


@struct.dataclass
class Items:
    """What is run: int32 [I] each, of which the first `count` exist.

    row, query_block: the block of queries.
    first_key_block: where the strip of keys begins.
    width: index into the widths.
    opens: 1 for the first item of a block of queries.
    """

    row: jax.Array
    query_block: jax.Array
    first_key_block: jax.Array
    width: jax.Array
    opens: jax.Array
    count: jax.Array


def blocks_needed(
    query_segments_RT: jax.Array, key_segments_RS: jax.Array, block: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The key blocks that each block of queries has to see: two ranges.

    Segments ascend along a row, so that the blocks that hold some of the segments of a query block
    are neighbours, and so are those with the prefix of its first segment. Other prefixes are not
    earlier than its first segment. T and S are multiples of `block`, and the queries are the last T
    of S tokens.

    Returns:
        int32 [R, T / block] each: the number of blocks of its own segments up to its own block, 0
        for a block of padding; the first block of the prefix; and the number of blocks of the
        prefix before those of its own segments.
    """
    R = query_segments_RT.shape[0]

    def bounds(segments):
        blocks = segments.reshape(R, -1, block)
        smallest = jnp.min(jnp.where(blocks > 0, blocks, jnp.iinfo(jnp.int32).max), axis=-1)
        return smallest, jnp.max(blocks, axis=-1)

    low_RQ, high_RQ = bounds(query_segments_RT)
    low_RK, high_RK = bounds(key_segments_RS)
    Q, K = low_RQ.shape[1], low_RK.shape[1]
    own_Q = jnp.arange(Q, dtype=jnp.int32) + (K - Q)
    shares_RQK = (low_RQ[:, :, None] <= high_RK[:, None]) & (low_RK[:, None] <= high_RQ[:, :, None])
    shares_RQK &= jnp.arange(K) <= own_Q[:, None]
    first_RQ = jnp.argmax(shares_RQK, axis=-1).astype(jnp.int32)
    needed_RQ = jnp.where(jnp.any(shares_RQK, axis=-1), own_Q - first_RQ + 1, 0)
    prefix_RQ1 = prefix_of(low_RQ)[:, :, None]
    has_RQK = (low_RK[:, None] <= prefix_RQ1) & (prefix_RQ1 <= high_RK[:, None])
    has_RQK &= (jnp.arange(K) < first_RQ[:, :, None]) & (needed_RQ > 0)[:, :, None]
    first_prefix_RQ = jnp.argmax(has_RQK, axis=-1).astype(jnp.int32)
    return needed_RQ, first_prefix_RQ, jnp.sum(has_RQK, axis=-1, dtype=jnp.int32)


def _strips(
    start: jax.Array, left: jax.Array, key_blocks: int, widths: tuple[int, ...]
) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """Cuts a range of key blocks of each block of queries into strips, the widest first.

    Returns:
        For each strip that there may be, its first block, the index of its width, and whether it
        exists.
    """
    strips = []
    for index, width in enumerate(widths):
        most = key_blocks // widths[0] if index == 0 else widths[index - 1] // width
        for _ in range(most):
            fits = left >= width
            strips.append((start, jnp.full_like(left, index), fits))
            start, left = start + width * fits, left - width * fits
    return strips


def _plan(
    query_segments_RT: jax.Array, key_segments_RS: jax.Array, block: int, widths: tuple[int, ...]
) -> Items:
    """The strips of all blocks of queries, those of the prefix first."""
    needed_RQ, prefix_RQ, of_prefix_RQ = blocks_needed(query_segments_RT, key_segments_RS, block)
    (R, Q), key_blocks = needed_RQ.shape, key_segments_RS.shape[1] // block
    start = jnp.arange(Q, dtype=jnp.int32) + (key_blocks - Q) - needed_RQ + 1
    strips = _strips(prefix_RQ, of_prefix_RQ, key_blocks, widths)
    strips += _strips(start, needed_RQ, key_blocks, widths)
    starts, indices, exist = zip(*strips, strict=True)
    exist_RQP = jnp.stack(exist, axis=-1)
    P = exist_RQP.shape[-1]
    opens_RQP = exist_RQP & (jnp.cumsum(exist_RQP, axis=-1) == 1)
    chosen_I = jnp.nonzero(exist_RQP.reshape(-1), size=R * Q * P, fill_value=0)[0]
    chosen_I = chosen_I.astype(jnp.int32)

    def of(pieces):
        return jnp.reshape(pieces, -1)[chosen_I].astype(jnp.int32)

    return Items(
        row=chosen_I // (Q * P),
        query_block=chosen_I // P % Q,
        first_key_block=of(jnp.stack(starts, axis=-1)),
        width=of(jnp.stack(indices, axis=-1)),
        opens=of(opens_RQP),
        count=jnp.sum(exist_RQP, dtype=jnp.int32),
    )


# ---- One device: its rows and heads.


@struct.dataclass
class _Arrays:
    """The arrays of a call, cut into blocks; in letters, b is the block and Q its number.

    query: [R, Q, K, G * b, H], the b queries of the first head of a group, then of the next.
    key, value: [R, K, S, H].
    query_segments, key_segments: [R, T] and [R, S]; T and S are multiples of b.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    query_segments: jax.Array
    key_segments: jax.Array


def _to_blocks(x_RTNH: jax.Array, kv_heads: int, block: int) -> jax.Array:
    """[R, T, N, H], T padded in front, to [R, Q, K, G * b, H]."""
    R, T, N, H = x_RTNH.shape
    x = jnp.pad(x_RTNH, [(0, 0), (-T % block, 0), (0, 0), (0, 0)])
    x = x.reshape(R, -1, block, kv_heads, N // kv_heads, H).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(R, x.shape[1], kv_heads, -1, H)


def _from_blocks(x: jax.Array, length: int, block: int) -> jax.Array:
    """The reverse of `_to_blocks`."""
    R, Q, K, Gb, H = x.shape
    x = x.reshape(R, Q, K, Gb // block, block, H).transpose(0, 1, 4, 2, 3, 5)
    return x.reshape(R, Q * block, -1, H)[:, Q * block - length :]


def _arrays(query, key, value, query_segments, key_segments, block: int) -> _Arrays:
    """Pads in front, where no query and no key share a segment, and cuts the queries."""
    front = -key.shape[2] % block
    keys = [(0, 0), (0, 0), (front, 0), (0, 0)]
    query_front = -query.shape[1] % block
    return _Arrays(
        _to_blocks(query, key.shape[1], block),
        jnp.pad(key, keys),
        jnp.pad(value, keys),
        jnp.pad(query_segments, [(0, 0), (query_front, 0)], constant_values=-1),
        jnp.pad(key_segments, [(0, 0), (front, 0)], constant_values=-2),
    )


def _bias(a: _Arrays, row, query_block, first_key, block: int, columns: int) -> jax.Array:
    """0 where a query attends to a key of the strip, else `NEVER`: [b, columns]."""
    before = a.key.shape[2] - a.query_segments.shape[1]
    query = query_block * block
    ours_b = jax.lax.dynamic_slice(a.query_segments, (row, query), (1, block))[0]
    theirs_c = jax.lax.dynamic_slice(a.key_segments, (row, first_key), (1, columns))[0]
    causal = first_key + jnp.arange(columns) <= before + query + jnp.arange(block)[:, None]
    seen = (ours_b[:, None] == theirs_c) | (prefix_of(ours_b)[:, None] == theirs_c)
    return jnp.where(seen & causal, 0.0, NEVER)


def _scores(query_KgH: jax.Array, keys_KcH: jax.Array, bias_bc: jax.Array) -> jax.Array:
    """Masked scores of the queries of all heads, float32 [K, G * b, c]."""
    scores = _product("kgh,kch->kgc", query_KgH, keys_KcH) * query_KgH.shape[-1] ** -0.5
    stacked = scores.reshape(scores.shape[0], -1, *bias_bc.shape) + bias_bc
    return stacked.reshape(scores.shape)


def _product(formula: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(formula, a, b, preferred_element_type=jnp.float32)


def _block_of(x: jax.Array, row: jax.Array, index: jax.Array) -> jax.Array:
    """x[row, index] without these axes."""
    return jax.lax.dynamic_index_in_dim(x[row], index, keepdims=False)


def _strip_of(x_RKSH: jax.Array, row, first_key, columns: int) -> jax.Array:
    """Columns of one row, [K, columns, H]."""
    R, K, S, H = x_RKSH.shape
    return jax.lax.dynamic_slice(x_RKSH, (row, 0, first_key, 0), (1, K, columns, H))[0]


def _added(x_RKSH: jax.Array, row, first_key, more_KcH: jax.Array) -> jax.Array:
    """The array with `more_KcH` added to columns of one row."""
    total = _strip_of(x_RKSH, row, first_key, more_KcH.shape[1]) + more_KcH
    return jax.lax.dynamic_update_slice(x_RKSH, total[None], (row, 0, first_key, 0))


def _forward(query, key, value, query_segments, key_segments, *, sizes: Xla):
    """The output [R, T, N, H], and the log of the softmax's norm, float32 [R, Q, K, G * b]."""
    block = sizes.block
    a = _arrays(query, key, value, query_segments, key_segments, block)
    R, Q, K, Gb, H = a.query.shape
    widths = tuple(w for w in sizes.widths if w * block <= a.key.shape[2])
    items = _plan(a.query_segments, a.key_segments, block, widths)

    def strip(columns, item, largest, total, summed):
        row, index, first_key = item
        bias = _bias(a, row, index, first_key, block, columns)
        queries = _block_of(a.query, row, index)
        scores = _scores(queries, _strip_of(a.key, row, first_key, columns), bias)
        new_largest = jnp.maximum(largest, jnp.max(scores, axis=-1))
        shares = jnp.exp(scores - new_largest[..., None])
        shrink = jnp.exp(largest - new_largest)
        values = _strip_of(a.value, row, first_key, columns)
        added = _product("kgc,kch->kgh", shares.astype(values.dtype), values)
        total = total * shrink + jnp.sum(shares, axis=-1)
        return new_largest, total, summed * shrink[..., None] + added

    strips = [functools.partial(strip, width * block) for width in widths]

    def body(i, carry):
        out, norm, *running = carry
        opens = items.opens[i] > 0
        empty = (NEVER, 0.0, 0.0)
        running = [jnp.where(opens, e, x) for e, x in zip(empty, running, strict=True)]
        item = items.row[i], items.query_block[i], items.first_key_block[i] * block
        largest, total, summed = jax.lax.switch(items.width[i], strips, item, *running)
        # Whatever comes later for the same queries overwrites this.
        block_out = (summed / total[..., None]).astype(out.dtype)
        at = (item[0], item[1], 0, 0, 0)
        out = jax.lax.dynamic_update_slice(out, block_out[None, None], at)
        block_norm = largest + jnp.log(total)
        norm = jax.lax.dynamic_update_slice(norm, block_norm[None, None], at[:-1])
        return out, norm, largest, total, summed

    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    start = jnp.zeros(a.query.shape, value.dtype), zeros((R, Q, K, Gb))
    running = zeros((K, Gb)), zeros((K, Gb)), zeros((K, Gb, H))
    out, norm, *_ = jax.lax.fori_loop(0, items.count, body, (*start, *running))
    return _from_blocks(out, query.shape[1], block), norm


def _backward(query, key, value, query_segments, key_segments, out, norm, grad_out, *, sizes: Xla):
    """Gradients of queries, keys and values; the scores are computed again."""
    block = sizes.block
    a = _arrays(query, key, value, query_segments, key_segments, block)
    R, Q, K, Gb, H = a.query.shape
    widths = tuple(w for w in sizes.widths if w * block <= a.key.shape[2])
    items = _plan(a.query_segments, a.key_segments, block, widths)
    grad = _to_blocks(grad_out, K, block)
    # sum_s p_s dp_s, which softmax takes from every dp
    mean = jnp.sum(grad_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1, keepdims=True)
    mean = _to_blocks(mean, K, block)[..., 0]

    def strip(columns, item):
        row, index, first_key = item
        bias = _bias(a, row, index, first_key, block, columns)
        queries, grads = _block_of(a.query, row, index), _block_of(grad, row, index)
        keys, values = (_strip_of(x, row, first_key, columns) for x in (a.key, a.value))
        shares = jnp.exp(_scores(queries, keys, bias) - _block_of(norm, row, index)[..., None])
        grad_values = _product("kgc,kgh->kch", shares.astype(grads.dtype), grads)
        grad_shares = _product("kgh,kch->kgc", grads, values)
        grad_scores = shares * (grad_shares - _block_of(mean, row, index)[..., None]) * H**-0.5
        grad_scores = grad_scores.astype(queries.dtype)
        grad_queries = _product("kgc,kch->kgh", grad_scores, keys)
        grad_keys = _product("kgc,kgh->kch", grad_scores, queries)
        # Branches have to return equal shapes.
        wide = [(0, 0), (0, widths[0] * block - columns), (0, 0)]
        return grad_queries, jnp.pad(grad_keys, wide), jnp.pad(grad_values, wide)

    strips = [functools.partial(strip, width * block) for width in widths]

    def body(i, carry):
        grad_query, grad_key, grad_value, running = carry
        item = items.row[i], items.query_block[i], items.first_key_block[i] * block
        more, of_keys, of_values = jax.lax.switch(items.width[i], strips, item)
        running = jnp.where(items.opens[i] > 0, 0.0, running) + more
        at = (item[0], item[1], 0, 0, 0)
        done = running.astype(grad_query.dtype)[None, None]
        grad_query = jax.lax.dynamic_update_slice(grad_query, done, at)
        at = (item[0], 0, item[2], 0)
        grad_key, grad_value = (
            jax.lax.dynamic_update_slice(
                x, _strip_of(x, item[0], item[2], y.shape[1])[None] + y, at
            )
            for x, y in ((grad_key, of_keys), (grad_value, of_values))
        )
        return grad_query, grad_key, grad_value, running

    zeros = functools.partial(jnp.zeros, dtype=jnp.float32)
    S = a.key.shape[2]
    wide = (R, K, S + (widths[0] - 1) * block, H)
    start = jnp.zeros(a.query.shape, query.dtype), zeros(wide), zeros(wide), zeros((K, Gb, H))
    grads = jax.lax.fori_loop(0, items.count, body, start)
    front = S - key.shape[2]
    grad_key, grad_value = (x[:, :, front:S].astype(key.dtype) for x in grads[1:3])
    return _from_blocks(grads[0], query.shape[1], block), grad_key, grad_value
