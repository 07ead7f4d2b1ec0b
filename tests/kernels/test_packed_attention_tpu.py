"""The TPU kernels of packed attention, in the Pallas interpreter, against plain attention."""

import functools

import attention_cases as cases
from attention_cases import KEYS, ROWS, SHARED, make_case, make_mask, plain, run, sees
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import block_pairs
from gopd_jax.kernels.packed_attention_tpu import pallas_tpu


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(block_pairs, "BLOCK", 16)
    monkeypatch.setattr(block_pairs, "LANES", 8)


interpreted = functools.partial(pallas_tpu, interpret=True)


check = functools.partial(cases.check, interpreted)


@pytest.mark.parametrize(
    "heads, kv_heads, size, queries, rows",
    [
        (4, 2, 8, KEYS, ROWS),
        (4, 2, 8, KEYS, SHARED),
        (3, 3, 64, KEYS, ROWS),
        (2, 1, 128, KEYS, ROWS),
        (4, 2, 8, 9, ROWS),
        (4, 1, 8, 37, ROWS),
        (4, 1, 8, 37, SHARED),
    ],
)
def test_values_and_gradients_are_those_of_plain_attention(heads, kv_heads, size, queries, rows):
    check(make_case(heads, kv_heads, size, queries, rows))


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_blocks_of_full_size(size, monkeypatch):
    monkeypatch.undo()
    assert block_pairs.block_size(1100) == 384
    check(make_case(4, 2, size, None, ([600, 300, 150], [1100], []), 1100), atol=2e-5)


@pytest.mark.slow
def test_half_precision_keeps_two_digits():
    query, key, value, mask, direction = make_case()
    half = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    actual = run(interpreted, *half, mask, direction)
    expected = run(plain, query, key, value, mask, direction)
    for name, x in expected.items():
        assert actual[name].dtype == jnp.bfloat16
        error = np.abs(actual[name].astype(jnp.float32) - x).max()
        assert error < 0.03 * np.abs(x).max(), name


def test_padding_gives_zeros_and_takes_no_gradient():
    query, key, value, mask, direction = make_case()
    actual = run(interpreted, query, key, value, mask, direction)
    padding = mask.key_segments == 0
    assert not np.asarray(actual["out"])[padding].any()
    assert not np.asarray(actual["query"])[padding].any()
    for name in ("key", "value"):
        assert not np.asarray(actual[name]).swapaxes(1, 2)[padding].any()


def test_nan_in_padding_has_no_influence():
    query, key, value, mask, direction = make_case()
    expected = run(interpreted, query, key, value, mask, direction)
    padding = mask.key_segments == 0
    query[padding] = direction[padding] = np.nan
    key.swapaxes(1, 2)[padding] = value.swapaxes(1, 2)[padding] = np.nan

    actual = run(interpreted, query, key, value, mask, direction)
    for name, x in expected.items():
        np.testing.assert_array_equal(actual[name], x, err_msg=name)


# ---- What is skipped.


def test_blocks_of_other_segments_are_not_read():
    """NaN in a segment that ends with a block reaches nothing of the next one."""
    query, key, value, mask, direction = make_case(rows=([32, 13], *ROWS[1:]))
    expected = run(interpreted, query, key, value, mask, direction)
    query[0, :32] = key[0, :, :32] = value[0, :, :32] = np.nan
    actual = run(interpreted, query, key, value, mask, direction)
    for name, x in expected.items():
        ours, theirs = (np.asarray(y) for y in (actual[name], x))
        if name in ("key", "value"):
            ours, theirs = ours.swapaxes(1, 2), theirs.swapaxes(1, 2)
        assert np.isnan(ours[0, :32]).any()
        np.testing.assert_array_equal(ours[0, 32:], theirs[0, 32:], err_msg=name)
        np.testing.assert_array_equal(ours[1:], theirs[1:], err_msg=name)


def visited(lengths, keys=256):
    by_query, by_key = block_pairs.block_pairs(make_mask([lengths], keys))
    return int(by_query.count), int(by_key.count)


@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16])
def test_visited_blocks_grow_with_the_squares_of_the_segments(parts):
    """16 blocks in segments of n blocks each: n (n + 1) / 2 pairs per segment."""
    n = 16 // parts
    assert visited([256 // parts] * parts) == (parts * n * (n + 1) // 2,) * 2


def test_segments_that_share_a_block_visit_it_together():
    # Blocks 0 and 1 hold segment 1, blocks 1 and 2 segment 2; 13 blocks of padding have one step.
    assert visited([24, 24]) == (1 + 2 + 2 + 13, 2 + 2 + 1 + 13)


def test_an_empty_row_has_one_step_per_block_that_computes_nothing():
    for pairs in block_pairs.block_pairs(make_mask([[], [256]], 256)):
        inner = np.asarray(pairs.inner)[: int(pairs.count)]
        assert (inner[:16] == -1).all()
        assert (inner[16:] >= 0).all()
        assert len(inner) == 16 + 16 * 17 // 2


def test_samples_visit_their_prefix_and_not_each_other():
    """Blocks of queries: a prefix of 2, a sample in one block and in three, a single segment."""
    count = 3 + (2 + 1) + (3 * 2 + 6) + 1
    assert visited([(32, 16, 48), 16], 112) == (count, count)


@pytest.mark.parametrize("rows", [ROWS, SHARED])
def test_every_pair_of_blocks_with_a_key_to_attend_to_is_listed(rows):
    mask = make_mask(rows, queries=37)
    by_query, by_key = block_pairs.block_pairs(mask)
    size = block_pairs.block_size(KEYS)
    assert size == block_pairs.block_size(37) == 16
    row, query, key = np.nonzero(sees(mask))
    needed = {(r, q // size, k // size) for r, q, k in zip(row, query, key, strict=True)}
    per_row = -(-37 // size), -(-KEYS // size)
    for pairs, transposed in ((by_query, False), (by_key, True)):
        blocks = per_row[transposed]
        listed = [
            (outer // blocks, outer % blocks, inner)
            for outer, inner in zip(np.asarray(pairs.outer), np.asarray(pairs.inner), strict=False)
        ][: int(pairs.count)]
        # Ascending, and each pair once.
        assert [x[:2] for x in listed] == sorted(x[:2] for x in listed)
        with_work = [x for x in listed if x[2] >= 0]
        assert len(with_work) == len(set(with_work))
        assert {(r, b, a) if transposed else (r, a, b) for r, a, b in with_work} == needed
        # A block without work is listed once, alone.
        alone = [x[:2] for x in listed if x[2] < 0]
        assert {x[:2] for x in listed} == {(r, i) for r in range(4) for i in range(blocks)}
        assert not set(alone) & {x[:2] for x in with_work} and len(alone) == len(set(alone))


# ---- Several devices.

ON_EIGHT = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from gopd_jax.kernels import block_pairs
from gopd_jax.kernels.packed_attention import MEMBERS, SegmentMask
from gopd_jax.kernels.packed_attention_tpu import pallas_tpu
from gopd_jax.runtime.mesh import make_mesh

block_pairs.BLOCK, block_pairs.LANES = 16, 8
rng = np.random.default_rng(0)
query, direction = rng.normal(size=(2, 4, 24, 4, 8)).astype(np.float32)
key, value = rng.normal(size=(2, 4, 2, 24, 8)).astype(np.float32)
segments = MEMBERS + np.sort(rng.integers(0, 3, (4, 24)), axis=1).astype(np.int32)
segments[:, 20:] = 0
index = np.arange(24, dtype=np.int32)
mask = SegmentMask(segments, segments, index, index)
mesh = make_mesh(data=2, fsdp=2, tensor=2)

def total(query, key, value):
    out = pallas_tpu(query, key, value, mask, interpret=True)
    return jnp.sum(out * direction), out

run = jax.grad(total, (0, 1, 2), has_aux=True)
one = jax.jit(lambda *args: run(*args))(query, key, value)
by_token = NamedSharding(mesh, P(("data", "fsdp"), None, "tensor"))
by_head = NamedSharding(mesh, P(("data", "fsdp"), "tensor"))
with jax.set_mesh(mesh):
    args = jax.device_put((query, key, value), (by_token, by_head, by_head))
    compiled = jax.jit(lambda *args: run(*args)).lower(*args).compile()
    eight = compiled(*args)
for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
for a, where in zip(jax.tree.leaves(eight), (by_token, by_head, by_head, by_token), strict=True):
    assert a.sharding.is_equivalent_to(where, a.ndim), a.sharding
for operation in ("all-gather(", "all-to-all(", "collective-permute("):
    assert operation not in compiled.as_text(), operation
"""


def test_each_device_runs_the_kernels_on_its_own_rows_and_heads(run_on_fake_devices):
    run_on_fake_devices(ON_EIGHT)
