"""Attention among packed sequences against float64 attention, query by query."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels.packed_attention import MEMBERS, SegmentMask, plain, prefix_of
from gopd_jax.kernels.packed_attention_xla import Xla, blocks_needed

B, N, K, H = 2, 4, 2, 8
BLOCKS = [Xla(4, (4, 2, 1)), Xla(8, (2, 1)), Xla(8, (1,))]
KERNELS = [plain, *BLOCKS]


def make_case(queries, keys, seed=0, head_size=H, rows=B):
    """Random arrays, and three segments per row; the queries are the last of the keys."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(rows, queries, N, head_size)).astype(np.float32)
    key, value = rng.normal(size=(2, rows, K, keys, head_size)).astype(np.float32)
    return query, key, value, mask_of(np.sort(rng.integers(1, 4, (rows, keys)), axis=1), queries)


def mask_of(segments, queries):
    segments = np.asarray(segments, np.int32)
    keys = segments.shape[1]
    index = np.arange(keys, dtype=np.int32)
    return SegmentMask(segments[:, keys - queries :], segments, index[keys - queries :], index)


def grouped(*lengths):
    """A prefix of some tokens, and the segments that share it."""
    return [MEMBERS + member for member, n in enumerate(lengths) for _ in range(n)]


def expected(query, key, value, mask):
    out = np.zeros(query.shape, np.float64)
    for b, t, n in np.ndindex(query.shape[:3]):
        k = n // (N // K)
        mine = mask.query_segments[b, t]
        prefix = mine // MEMBERS * MEMBERS or mine
        sees = (mask.key_segments[b] == mine) | (mask.key_segments[b] == prefix)
        sees &= mask.key_index <= mask.query_index[t]
        scores = key[b, k, sees].astype(np.float64) @ query[b, t, n] * query.shape[-1] ** -0.5
        shares = np.exp(scores - scores.max())
        out[b, t, n] = shares @ value[b, k, sees] / shares.sum()
    return out


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("queries, keys", [(22, 22), (24, 24), (9, 22), (9, 10), (1, 22)])
def test_each_query_attends_to_earlier_keys_of_its_segment(kernel, queries, keys):
    case = make_case(queries, keys)
    np.testing.assert_allclose(jax.jit(kernel)(*case), expected(*case), atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("queries", [22, 9])
def test_samples_see_their_prefix_and_not_each_other(kernel, queries):
    *arrays, _ = make_case(queries, 22)
    mask = mask_of([[1] * 4 + grouped(7, 4, 7), grouped(1, 9, 9, 3)], queries)
    # Token 15 is the first of a sample: of 15 keys before it, it sees the 7 of its prefix.
    np.testing.assert_array_equal(
        prefix_of(mask.key_segments[0, [3, 4, 15]]), [1, MEMBERS, MEMBERS]
    )
    np.testing.assert_allclose(jax.jit(kernel)(*arrays, mask), expected(*arrays, mask), atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_output_has_the_dtype_of_the_values(kernel):
    *arrays, mask = make_case(15, 17)
    actual = kernel(*(jnp.asarray(x, jnp.bfloat16) for x in arrays), mask)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(actual.astype(jnp.float32), expected(*arrays, mask), atol=5e-2)


ROWS = {
    "several segments": [1] * 7 + [2] * 9 + [3] * 5,
    "two segments": [1] * 12 + [2] * 9,
    "one segment": [1] * 21,
    "an empty row": [0] * 21,
    "padding at the end": [1] * 5 + [2] * 4 + [0] * 12,
    "one segment and padding": [1] * 14 + [0] * 7,
    "a prefix of two blocks": grouped(8, 6, 7),
    "a short prefix": [1] * 2 + grouped(2, 9, 5) + [0] * 3,
    "samples shorter than a block": grouped(5, 2, 2, 3, 2) + [0] * 7,
    "two prefixes": grouped(3, 4, 4) + [MEMBERS + i for i in grouped(6, 3)] + [0],
}


@pytest.mark.parametrize(
    "kernel, head_size", [*((kernel, 8) for kernel in BLOCKS), (BLOCKS[0], 64), (BLOCKS[0], 128)]
)
def test_values_and_gradients_are_those_of_plain_attention(kernel, head_size):
    query, key, value, _ = make_case(21, 21, head_size=head_size, rows=len(ROWS))
    mask = mask_of(list(ROWS.values()), 21)
    counts = (mask.query_segments > 0)[..., None, None]
    weights = np.random.default_rng(1).normal(size=query.shape) * counts

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradients(attention, *arrays):
        def loss(*arrays):
            out = attention(*arrays, mask)
            return jnp.sum(out * weights), out

        (_, out), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays)
        return out * counts, *grads

    actual = value_and_gradients(kernel, query, key, value)
    right = value_and_gradients(plain, query, key, value)
    for a, b in zip(actual, right, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_only_blocks_that_share_a_segment_are_needed():
    segments = np.array([[1] * 6 + [2] * 2 + [3] * 12 + [0] * 4])
    needed, _, of_prefix = blocks_needed(jnp.asarray(segments), jnp.asarray(segments), 4)
    np.testing.assert_array_equal(needed, [[1, 2, 1, 2, 3, 0]])
    assert not of_prefix.any()
    # The last eight tokens as queries: the same blocks of keys.
    needed, *_ = blocks_needed(jnp.asarray(segments[:, -8:]), jnp.asarray(segments), 4)
    np.testing.assert_array_equal(needed, [[3, 0]])


def test_blocks_of_a_prefix_are_needed_where_they_are_not_its_own_anyway():
    # In blocks of 4: 1111 ppaa|aabb|bbbb|cccc
    segments = np.array([[1] * 4 + grouped(2, 4, 6, 4)])
    needed, first, count = blocks_needed(jnp.asarray(segments), jnp.asarray(segments), 4)
    np.testing.assert_array_equal(needed, [[1, 1, 2, 2, 1]])
    np.testing.assert_array_equal(count, [[0, 0, 0, 1, 1]])
    np.testing.assert_array_equal(first[count > 0], [1, 1])


def test_what_is_not_needed_is_not_run():
    """NaN in keys that a block of queries skips does not reach it, though 0 * NaN is NaN."""
    query, key, value, _ = make_case(24, 24)
    mask = mask_of([[1] * 8 + [2] * 16] * B, 24)
    key[:, :, :8] = np.nan
    out = np.asarray(Xla(8, (2, 1))(query, key, value, mask))
    assert np.isnan(out[:, :8]).all() and np.isfinite(out[:, 8:]).all()


def test_devices_run_their_own_rows_and_heads(run_on_fake_devices):
    run_on_fake_devices(SHARDED, count=8)


SHARDED = """
import sys
sys.path.insert(0, "tests/kernels")
import jax, jax.numpy as jnp, numpy as np
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.runtime.mesh import make_mesh
from test_packed_attention import grouped, make_case, mask_of

case = (*make_case(24, 24)[:3], mask_of([grouped(9, 6, 9), [1] * 5 + grouped(2, 8, 9)], 24))
kernel = Xla(4, (4, 2, 1))

def gradients(*arrays):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(kernel(*a, case[3]))), (0, 1, 2))(*arrays)

right = jax.jit(gradients)(*case[:3])
for axes in (dict(data=2, fsdp=1, tensor=2), dict(fsdp=4, tensor=2), dict(fsdp=8)):
    size = int(np.prod(list(axes.values())))
    with jax.set_mesh(make_mesh(**{"data": 1, "fsdp": 1} | axes, devices=jax.devices()[:size])):
        for a, b in zip(jax.jit(gradients)(*case[:3]), right):
            np.testing.assert_allclose(a, b, atol=1e-5)
"""
