"""Every decode kernel, on several joined blocks, against float64 attention over live columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import decode_attention, decode_attention_tpu
from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.kernels.decode_attention_gpu import pallas_gpu
from gopd_jax.kernels.decode_attention_tpu import pallas_tpu

KERNELS = {
    "xla": decode_attention.xla,
    "xla_cpu": decode_attention.xla_cpu,
    "xla_gpu": decode_attention.xla_gpu,
    "pallas_tpu": functools.partial(pallas_tpu, interpret=True),
    "pallas_gpu": functools.partial(pallas_gpu, interpret=True),
}
B, K, H = 6, 2, 16
GARBAGE = 1e4
# The columns each slot attends to, and the sizes of the blocks that hold them: one column, a few,
# one whole block, one column of the next, and all.
LENGTHS, SIZES = np.array([1, 200, 256, 257, 300, 512], np.int32), (256, 256)
# Here no slot attends to the last block.
ODD_LENGTHS, ODD_SIZES = np.array([1, 8, 39, 40, 41, 64], np.int32), (40, 24, 24)


def make_case(groups, sizes, lengths, seed=0, garbage=GARBAGE, quantized=False, rows=B):
    """Query, blocks with garbage in the columns beyond `lengths`, and exact attention."""
    rng = np.random.default_rng(seed)
    query = rng.normal(size=(rows, K, groups, H)).astype(np.float32)
    floats = rng.normal(size=(2, rows, K, sum(sizes), H)).astype(np.float32)
    dead = np.arange(sum(sizes)) >= lengths[:, None]
    exact, ints, scales = floats.astype(np.float64), None, None
    if quantized:
        ints = rng.integers(-127, 128, floats.shape, dtype=np.int8)
        scales = rng.uniform(0.005, 0.02, floats.shape[:-1]).astype(np.float32)
        exact = ints * scales[..., None].astype(np.float64)
        if garbage is not None:
            ints.swapaxes(2, 3)[:, dead], scales.swapaxes(2, 3)[:, dead] = 127, garbage
    elif garbage is not None:
        floats.swapaxes(2, 3)[:, dead] = garbage
    expected = attention(query, *exact, lengths)

    blocks, start = [], 0
    for size in sizes:
        columns = slice(start, start + size)
        if quantized:
            arrays = (ints[..., columns, :], scales[..., columns])
        else:
            arrays = (floats[..., columns, :],)
        blocks.append(CacheBlock(*[jnp.asarray(x) for pair in arrays for x in pair]))
        start += size
    return query, tuple(blocks), expected


def attention(query, keys, values, lengths):
    out = np.zeros(query.shape, np.float64)
    for b, length in enumerate(lengths):
        scores = np.einsum("kgh,ksh->kgs", query[b].astype(np.float64), keys[b, :, :length])
        scores = scores * H**-0.5
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares = shares / shares.sum(axis=-1, keepdims=True)
        out[b] = np.einsum("kgs,ksh->kgh", shares, values[b, :, :length])
    return out


compiled = functools.cache(lambda name: jax.jit(KERNELS[name]))
join = jax.jit(decode_attention.join)


def attend(name, query, blocks, lengths):
    parts, offset = [], 0
    for block in blocks:
        # The length left for a block may be below 0, or above its number of columns.
        parts.append(compiled(name)(query, block, lengths - offset))
        offset += block.keys.shape[2]
    return join(parts)


def check(name, case, lengths, atol=2e-6):
    query, blocks, expected = case
    actual = attend(name, query, blocks, lengths)
    assert actual.dtype == jnp.float32
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(actual, expected, atol=atol)


# ---- Exact attention.


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", KERNELS)
def test_joined_blocks_are_softmax_attention(name, groups):
    check(name, make_case(groups, SIZES, LENGTHS), LENGTHS)


@pytest.mark.parametrize("name", ["xla", "xla_cpu", "xla_gpu", "pallas_tpu"])
def test_blocks_of_any_size_are_read(name):
    """The Pallas GPU kernel is never given such blocks."""
    check(name, make_case(2, ODD_SIZES, ODD_LENGTHS), ODD_LENGTHS)


@pytest.mark.parametrize("quantized", [False, True])
def test_columns_need_not_divide_over_the_steps_of_the_tpu_kernel(quantized, monkeypatch):
    """With steps of 16 columns, the last step of a block reaches past its end, into NaN."""
    monkeypatch.setattr(decode_attention_tpu, "COLUMNS", 16)
    lengths = np.array([1, 16, 17, 32, 33, 40], np.int32)
    query, (block,), expected = make_case(2, (40,), lengths, quantized=quantized)
    steps_of_16 = jax.jit(lambda *args: KERNELS["pallas_tpu"](*args))  # compiled anew
    np.testing.assert_allclose(join([steps_of_16(query, block, lengths)]), expected, atol=5e-6)


@pytest.mark.parametrize("name", ["xla", "xla_cpu", "xla_gpu", "pallas_tpu"])
def test_int8_is_attention_over_the_dequantised_floats(name):
    check(name, make_case(2, ODD_SIZES, ODD_LENGTHS, quantized=True), ODD_LENGTHS, atol=5e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_half_precision_keeps_two_digits(name):
    query, blocks, _ = make_case(2, SIZES, LENGTHS, garbage=0.0)
    query, blocks = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (query, blocks))
    keys, values = (
        np.concatenate([np.asarray(getattr(b, x), np.float64) for b in blocks], axis=2)
        for x in ("keys", "values")
    )
    exact = attention(np.asarray(query, np.float64), keys, values, LENGTHS)
    actual = attend(name, query, blocks, LENGTHS)
    assert actual.dtype == jnp.float32
    # The shares are rounded to bfloat16 before they are multiplied by the values.
    np.testing.assert_allclose(actual, exact, atol=2e-2)


# ---- Columns that a slot does not attend to.


@pytest.mark.parametrize("name", KERNELS)
def test_an_empty_part_changes_no_other(name):
    """A length of 0 or below gives total 0, sum 0, and a largest score that is finite in `join`."""
    lengths = np.array([0, -1, -500, 0, 256, 3], np.int32)
    query, (block,), _ = make_case(2, (256,), np.maximum(lengths, 1))
    part = compiled(name)(query, block, lengths)
    summed, total, largest = map(np.asarray, part)
    assert not summed[:4].any() and not total[:4].any()
    assert np.isfinite(largest).all() and (largest[:4] < -1e28).all()
    assert (total[4:] >= 1).all() and (np.abs(largest[4:]) < 100).all()
    empty = jax.tree.map(lambda x: x[:1].repeat(2, axis=0), part)
    full = jax.tree.map(lambda x: x[4:], part)
    np.testing.assert_array_equal(join([empty, full, empty]), join([full]))


@pytest.mark.parametrize("name", ["xla_cpu", "pallas_tpu", "pallas_gpu"])
def test_a_block_without_live_columns_is_not_read(name):
    lengths = np.array([1, 5, 20, 60, 100, 256], np.int32)
    query, blocks, expected = make_case(2, SIZES, lengths)
    unread = jax.tree.map(lambda x: np.full(x.shape, np.nan, x.dtype), blocks[1])
    actual = attend(name, query, (blocks[0], unread), lengths)
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize("name", KERNELS)
def test_a_block_is_read_as_soon_as_one_slot_has_one_column_in_it(name):
    lengths = np.array([1, 257, 20, 60, 100, 256], np.int32)
    check(name, make_case(2, SIZES, lengths), lengths)


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", ["xla", "pallas_tpu"])
def test_nan_beyond_the_length_has_no_influence(name, quantized):
    """On CPUs and GPUs it has; there the engine takes new caches in each call."""
    case = make_case(2, ODD_SIZES, ODD_LENGTHS, garbage=np.nan, quantized=quantized)
    check(name, case, ODD_LENGTHS, atol=5e-6)


# ---- Several devices.

ON_EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from gopd_jax.kernels import decode_attention_tpu
from gopd_jax.kernels.decode_attention import CacheBlock, over_mesh
from gopd_jax.runtime.mesh import make_mesh

decode_attention_tpu.COLUMNS = 8
seen = []

def interpreted(query, block, lengths):
    seen.append(query.shape)
    return decode_attention_tpu.pallas_tpu(query, block, lengths, interpret=True)

rng = np.random.default_rng(0)
query = rng.normal(size=(8, 2, 2, 16)).astype(np.float32)
lengths = np.array([0, 1, 7, 8, 9, 20, 24, -3], np.int32)
mesh = make_mesh(data=2, fsdp=2, tensor=2)
rows = NamedSharding(mesh, P(("data", "fsdp"), "tensor"))
ints = rng.integers(-127, 128, (2, 8, 2, 24, 16), dtype=np.int8)
block = CacheBlock(*ints, *rng.uniform(0.005, 0.02, (2, 8, 2, 24)).astype(np.float32))
one = jax.jit(over_mesh(interpreted))(query, block, lengths)
with jax.set_mesh(mesh):
    eight = jax.jit(over_mesh(interpreted))(*jax.device_put((query, block), rows), lengths)
for a, b in zip(eight, one, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    assert a.sharding.is_equivalent_to(rows, a.ndim), a.sharding
print(seen[0], seen[-1])
"""


def test_each_device_runs_the_kernel_on_its_own_slots_and_heads(run_on_fake_devices):
    assert run_on_fake_devices(ON_EIGHT).strip() == "(8, 2, 2, 16) (2, 1, 2, 16)"
