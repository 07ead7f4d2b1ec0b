"""Attention among packed sequences against float64 attention, query by query."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import packed_attention
from gopd_jax.kernels.packed_attention import SegmentMask

B, N, K, H = 2, 4, 2, 8


def make_case(queries, keys, seed=0):
    """Random arrays, and three segments per row; the queries are the last of the keys."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(B, queries, N, H)).astype(np.float32)
    key, value = rng.normal(size=(2, B, K, keys, H)).astype(np.float32)
    segments = np.sort(rng.integers(1, 4, (B, keys)), axis=1).astype(np.int32)
    index = np.arange(keys, dtype=np.int32)
    mask = SegmentMask(segments[:, keys - queries :], segments, index[keys - queries :], index)
    return query, key, value, mask


def expected(query, key, value, mask):
    out = np.zeros(query.shape, np.float64)
    for b, t, n in np.ndindex(query.shape[:3]):
        k = n // (N // K)
        sees = mask.key_segments[b] == mask.query_segments[b, t]
        sees &= mask.key_index <= mask.query_index[t]
        scores = key[b, k, sees].astype(np.float64) @ query[b, t, n] * H**-0.5
        shares = np.exp(scores - scores.max())
        out[b, t, n] = shares @ value[b, k, sees] / shares.sum()
    return out


@pytest.mark.parametrize("chunk", [512, 8])
@pytest.mark.parametrize("queries, keys", [(22, 22), (9, 22), (1, 22)])
def test_each_query_attends_to_earlier_keys_of_its_segment(monkeypatch, queries, keys, chunk):
    """With chunks of 8, the last chunk of 22 or 9 queries is padded."""
    monkeypatch.setattr(packed_attention, "QUERY_CHUNK", chunk)
    case = make_case(queries, keys)
    # A new function, so that nothing compiled for another chunk is reused.
    actual = jax.jit(lambda *args: packed_attention.xla(*args))(*case)
    np.testing.assert_allclose(actual, expected(*case), atol=2e-6)


def test_the_output_has_the_dtype_of_the_values():
    query, key, value, mask = make_case(5, 7)
    half = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    actual = packed_attention.xla(*half, mask)
    assert actual.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        actual.astype(jnp.float32), expected(query, key, value, mask), atol=5e-2
    )
