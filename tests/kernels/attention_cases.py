"""Cases for the packed attention of accelerators, and the same numbers computed all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.kernels.packed_attention import MEMBERS, SegmentMask

# Lengths of the segments of each row: one that fills the row, several, none, and short ones. What
# is left of the 45 keys is padding, and blocks of 16 do not divide them.
ROWS = ([45], [20, 17], [], [3, 3, 30, 8])
KEYS = 45
# A tuple is a prefix and the segments that share it: longer and shorter than a block, two of them,
# and one between others.
SHARED = ([(20, 5, 9, 4)], [(3, 4, 7), (17, 6, 2)], [], [9, (4, 12, 2, 10), 8])


def segments_of(lengths):
    """The segment of each token of a row."""
    numbers = []
    for group, length in enumerate(lengths, start=1):
        for member, part in enumerate(length if isinstance(length, tuple) else (length,)):
            numbers += [group * MEMBERS + member] * part
    return numbers


def make_mask(rows=ROWS, keys=KEYS, queries=None):
    segments = np.zeros((len(rows), keys), np.int32)
    for row, lengths in zip(segments, rows, strict=True):
        numbers = segments_of(lengths)
        row[: len(numbers)] = numbers
    start, index = keys - (queries or keys), np.arange(keys, dtype=np.int32)
    return SegmentMask(segments[:, start:], segments, index[start:], index)


def make_case(heads=4, kv_heads=2, size=8, queries=None, rows=ROWS, keys=KEYS):
    """Query, key, value, mask, and the direction in which gradients are taken."""
    rng = np.random.default_rng(0)
    mask = make_mask(rows, keys, queries)
    shape = (*mask.query_segments.shape, heads, size)
    query, direction = rng.normal(size=(2, *shape)).astype(np.float32)
    key, value = rng.normal(size=(2, len(rows), kv_heads, keys, size)).astype(np.float32)
    return query, key, value, mask, direction


def sees(mask):
    """Which query sees which key, [B, T, S]."""
    query, key = mask.query_segments[:, :, None], mask.key_segments[:, None]
    group = query // MEMBERS * MEMBERS
    seen = (query == key) | ((group == key) & (group > 0))
    return seen & (query > 0) & (mask.key_index <= mask.query_index[:, None])


def plain(query, key, value, mask):
    """Softmax over all keys at once; zeros for padding."""
    groups = query.shape[2] // key.shape[1]
    key, value = (jnp.repeat(x, groups, axis=1) for x in (key, value))
    scores = jnp.einsum("btnh,bnsh->bnts", query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(sees(mask)[:, None], scores, -1e30), axis=-1)
    out = jnp.einsum("bnts,bnsh->btnh", weights, value)
    return jnp.where((mask.query_segments > 0)[..., None, None], out, 0)


@functools.cache
def compiled(kernel):
    def run(query, key, value, mask, direction):
        def total(query, key, value):
            out = kernel(query, key, value, mask)
            return jnp.sum(out.astype(jnp.float32) * direction), out

        gradients, out = jax.grad(total, (0, 1, 2), has_aux=True)(query, key, value)
        return {"out": out, **dict(zip(("query", "key", "value"), gradients, strict=True))}

    return jax.jit(run)


def run(kernel, *case):
    """The output, and the gradients of query, key and value."""
    return compiled(kernel)(*case)


def check(kernel, case, rtol=1e-5, atol=5e-6):
    """A kernel against `plain`."""
    actual, expected = (run(k, *case) for k in (kernel, plain))
    for name, x in expected.items():
        assert np.abs(x).max() > 0.5
        np.testing.assert_allclose(actual[name], x, rtol=rtol, atol=atol, err_msg=name)
