"""The slot cache: sizes of blocks, int8 rounding, and writes and copies against numpy loops."""

from pathlib import Path

import jax
import jax.numpy as jnp
from model_cases import CASES
import numpy as np
import pytest

from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.rollout import cache
from gopd_jax.rollout.cache import (
    as_block,
    as_floats,
    block_sizes,
    blocks_for,
    copy_rows,
    take,
    write,
)

CONFIG = CASES["qwen3_tied"]  # 2 layers, 2 key/value heads of size 16
LIKE = {q: cache.new_block(CONFIG, 1, 8, jnp.bfloat16, q) for q in (False, True)}


# ---- Blocks of columns.


@pytest.mark.parametrize(
    "columns, fine, sizes",
    [
        (1, False, (8,)),
        (30, False, (32,)),
        (128, False, (128,)),
        (129, False, (128, 8)),
        (300, False, (128, 128, 48)),
        (1024, False, (128, 128, 256, 512)),
        (1100, False, (128, 128, 256, 512, 80)),
        (1, True, (8,)),
        (30, True, (32,)),
        (70, True, (64, 8)),
        (200, True, (64, 64, 64, 8)),
        (1024, True, (64,) * 8 + (128,) * 4),
        (1300, True, (64,) * 8 + (128,) * 4 + (256, 24)),
    ],
)
def test_block_sizes_are_as_written_by_hand(columns, fine, sizes):
    assert block_sizes(columns, fine) == sizes


@pytest.mark.parametrize("fine", [False, True])
def test_blocks_cover_the_columns_and_little_more(fine):
    for columns in range(1, 5000, 7):
        sizes = block_sizes(columns, fine)
        assert columns <= sum(sizes) < columns + 8
        assert all(size > 0 and size % 8 == 0 for size in sizes)
    assert len(block_sizes(40_000)) == 10 and len(block_sizes(40_000, fine=True)) < 40


DOUBLING = {0: 0, 1: 1, 128: 1, 129: 2, 256: 2, 257: 3, 512: 3, 513: 4, 1024: 4, 9999: 4}
EQUAL = {0: 0, 1: 2, 128: 2, 129: 4, 256: 4, 257: 5, 320: 5, 400: 5}


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ((128, 128, 256, 512), DOUBLING),
        ((64, 64, 64, 64, 64), EQUAL),
        ((32,), {0: 0, 1: 1, 32: 1, 48: 1}),
    ],
)
def test_a_program_is_given_enough_blocks(sizes, expected):
    assert {columns: blocks_for(sizes, columns) for columns in expected} == expected


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("total", [30, 129, 1000, 5000])
def test_counts_of_blocks_are_few_and_grow_with_the_columns(total, fine):
    sizes = block_sizes(total, fine)
    counts = [blocks_for(sizes, columns) for columns in range(total + 1)]
    assert counts == sorted(counts) and counts[0] == 0 and max(counts) <= len(sizes)
    assert all(sum(sizes[:n]) >= columns for columns, n in enumerate(counts))
    assert len(set(counts)) <= 2 + max(1, np.ceil(np.log2(total / 128)))


@pytest.mark.parametrize(
    "quantized, dtypes",
    [(False, ["bfloat16"] * 2), (True, ["int8", "int8", "float32", "float32"])],
)
def test_a_new_cache_is_zero_and_has_the_shapes_of_its_blocks(quantized, dtypes):
    slots = cache.new_cache(CONFIG, 3, (64, 8), 5, jnp.bfloat16, quantized)
    assert len(slots.blocks) == 2
    for columns, layers in zip((64, 8, 5), (*slots.blocks, slots.fresh), strict=True):
        assert len(layers) == CONFIG.layers
        shape = (3, CONFIG.kv_heads, columns, CONFIG.head_size)
        shapes = [shape, shape, shape[:3], shape[:3]]
        for block in layers:
            leaves = jax.tree.leaves(block)
            assert [str(x.dtype) for x in leaves] == dtypes
            assert [x.shape for x in leaves] == shapes[: len(leaves)]
            assert not any(x.any() for x in leaves)


# ---- Floats and int8.


def keys_and_values(seed, tokens=7):
    rng = np.random.default_rng(seed)
    shape = (3, tokens, CONFIG.kv_heads, CONFIG.head_size)
    spread = np.exp(rng.normal(0, 3, (2, *shape[:3], 1)))  # sizes differ by token and head
    return [jnp.asarray(x, jnp.float32) for x in rng.normal(0, 1, (2, *shape)) * spread]


def test_floats_are_cast_and_turned_heads_first():
    new = keys_and_values(0)
    block = as_block(*new, like=LIKE[False])
    assert block.key_scales is block.value_scales is None
    stored, floats = (block.keys, block.values), as_floats(block, jnp.float32)
    for kept, back, x in zip(stored, floats, new, strict=True):
        assert kept.dtype == jnp.bfloat16 and back.dtype == jnp.float32
        expected = np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32)).swapaxes(1, 2)
        np.testing.assert_array_equal(back, expected)


def test_int8_is_off_by_half_a_step_at_most():
    new = keys_and_values(1)
    block = as_block(*new, like=LIKE[True])
    keys, values = (block.keys, block.key_scales), (block.values, block.value_scales)
    floats = as_floats(block, jnp.float32)
    for (ints, scales), back, x in zip((keys, values), floats, new, strict=True):
        x = np.asarray(x, np.float64).swapaxes(1, 2)
        assert (ints.dtype, scales.dtype) == (jnp.int8, jnp.float32)
        assert scales.shape == x.shape[:3]
        np.testing.assert_allclose(scales, np.abs(x).max(axis=-1) / 127, rtol=1e-6)
        assert (np.abs(np.asarray(ints, int)).max(axis=-1) == 127).all()  # the whole range is used
        errors = np.abs(np.asarray(back, np.float64) - x) / np.asarray(scales)[..., None]
        assert 0.3 < errors.max() <= 0.5 + 1e-4
    same = as_block(*[x.swapaxes(1, 2) for x in as_floats(block, jnp.float32)], like=LIKE[True])
    np.testing.assert_array_equal(same.keys, block.keys)  # rounding again changes nothing
    np.testing.assert_array_equal(same.values, block.values)


def test_int8_of_zeros_is_zero():
    zeros = jnp.zeros((1, 2, CONFIG.kv_heads, CONFIG.head_size))
    block = as_block(zeros, zeros, like=LIKE[True])
    assert (block.key_scales > 0).all() and (block.value_scales > 0).all()
    for back in as_floats(block, jnp.float32):
        np.testing.assert_array_equal(back, zeros.swapaxes(1, 2))


# ---- Writes and copies.

SIZES, ROWS = (8, 16, 8), 6


def random_block(seed, rows, columns, quantized):
    rng = np.random.default_rng(seed)
    shape = (rows, CONFIG.kv_heads, columns, 3)
    if not quantized:
        return CacheBlock(*rng.normal(size=(2, *shape)).astype(np.float32))
    return CacheBlock(
        *rng.integers(-127, 128, (2, *shape), dtype=np.int8),
        *rng.uniform(1, 2, (2, *shape[:3])).astype(np.float32),
    )


def blocks_of(quantized, layers=2):
    return [
        tuple(random_block((j, i), ROWS, n, quantized) for i in range(layers))
        for j, n in enumerate(SIZES)
    ]


def leaves_equal(actual, expected):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def write_by_loops(blocks, new, rows, starts, counts):
    expected = jax.tree.map(np.copy, blocks)
    for d, i in np.ndindex(rows.shape):
        for t in range(counts[d, i]):
            if (column := starts[d, i] + t) < sum(SIZES):
                j = int(np.searchsorted(np.cumsum(SIZES), column, side="right"))
                for block, tokens in zip(expected[j], new, strict=True):
                    for x, y in zip(jax.tree.leaves(block), jax.tree.leaves(tokens), strict=True):
                        row = d * (len(x) // len(rows)) + rows[d, i]
                        x[row, :, column - sum(SIZES[:j])] = y[d * rows.shape[1] + i, :, t]
    return expected


def copy_by_loops(blocks, sources, targets):
    expected = jax.tree.map(np.copy, blocks)
    for x in jax.tree.leaves(expected):
        for d, i in np.ndindex(targets.shape):
            if targets[d, i] >= 0:
                first = d * (len(x) // len(targets))
                x[first + targets[d, i]] = x[first + sources[d, i]]
    return expected


@jax.jit
def write_everywhere(blocks, new, rows, starts, counts):
    offsets = np.cumsum([0, *SIZES[:-1]]).tolist()
    return [
        write(layers, new, rows, starts, counts, offset)
        for layers, offset in zip(blocks, offsets, strict=True)
    ]


@pytest.mark.parametrize("T", [3, 12, 20])  # shorter and longer than a block
@pytest.mark.parametrize("quantized", [False, True])
def test_writes_put_every_token_in_its_column_and_touch_no_other(quantized, T):
    """Runs of tokens that begin in one block and end in it, in a later one or beyond the last.

    Some rows have fewer tokens than the others, or none.
    """
    blocks = blocks_of(quantized)
    new = tuple(random_block((9, i), 5, T, quantized) for i in range(2))
    rows, starts = np.array([[2, 0, 5, 1, 3]], np.int32), np.array([[3, 0, 20, 7, 29]], np.int32)
    args = blocks, new, rows, starts, np.array([[T, T - 1, T, 0, T]], np.int32)
    leaves_equal(write_everywhere(*args), write_by_loops(*args))


def test_taken_rows_are_those_asked_for():
    layers = blocks_of(quantized=True)[0]
    taken = jax.jit(take)(layers, np.array([[3, 0, 0, 5]], np.int32))
    leaves_equal(taken, jax.tree.map(lambda x: x[[3, 0, 0, 5]], layers))


@pytest.mark.parametrize("count", [0, 2, 4])
def test_copies_are_made_one_after_the_other_and_only_to_real_targets(count):
    blocks = blocks_of(quantized=False)
    # A chain: 1 -> 3 -> 0 -> 2 -> 1.
    sources, targets = np.array([[1, 3, 0, 2]], np.int32), np.array([[3, 0, 2, 1]], np.int32)
    targets[:, count:] = -1
    args = blocks, sources, targets
    leaves_equal(jax.jit(copy_rows)(*args), copy_by_loops(*args))


ON_FOUR = """
import sys
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from test_cache import *
from gopd_jax.runtime.mesh import make_mesh

mesh = make_mesh(data=1, fsdp=2, tensor=2)
blocks, new = blocks_of(True), tuple(random_block((9, i), 4, 12, True) for i in range(2))
rows, starts = np.array([[2, 0], [1, 2]], np.int32), np.array([[3, 0], [20, 7]], np.int32)
args = blocks, new, rows, starts, np.array([[12, 0], [5, 12]], np.int32)
sources, targets = np.array([[1, 0], [2, 1]], np.int32), np.array([[0, -1], [1, 0]], np.int32)
with jax.set_mesh(mesh):
    leaves_equal(write_everywhere(*args), write_by_loops(*args))
    copied = jax.jit(copy_rows)(blocks, sources, targets)
    leaves_equal(copied, copy_by_loops(blocks, sources, targets))
    taken = jax.jit(take)(blocks[0], rows)
leaves_equal(taken, jax.tree.map(lambda x: x[[2, 0, 4, 5]], blocks[0]))
shards = [shard for x in jax.tree.leaves(taken) for shard in x.addressable_shards]
print({tuple(shard.data.shape[:2]) for shard in shards})
"""


def test_each_shard_writes_and_copies_rows_of_its_own(run_on_fake_devices):
    """fsdp 2 x tensor 2: rows 0 to 2 and 3 to 5 of the six, one head each."""
    assert run_on_fake_devices(ON_FOUR, Path(__file__).parent, count=4).strip() == "{(2, 1)}"
