"""The GPU kernels of packed attention: in the Pallas interpreter, against plain attention, and
lowered for CUDA.

Blocks have 16 tokens.
"""

import functools
import re

import attention_cases as cases
from attention_cases import KEYS, ROWS, SHARED, make_case, make_mask, plain, run
import jax
from jax.ad_checkpoint import checkpoint_policies
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import packed_attention_gpu
from gopd_jax.kernels.packed_attention import SAVED
from gopd_jax.kernels.packed_attention_gpu import last_queries, pallas_gpu

interpreted = functools.partial(pallas_gpu, interpret=True)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(packed_attention_gpu, "BLOCK", 16)


check = functools.partial(cases.check, interpreted)


# Head sizes of 8 and 24 are padded to 16 and 32.
@pytest.mark.parametrize(
    "heads, kv_heads, size, queries, rows",
    [
        (6, 2, 8, KEYS, ROWS),
        (6, 2, 8, KEYS, SHARED),
        (3, 3, 64, KEYS, ROWS),
        (2, 1, 128, KEYS, ROWS),
        (4, 2, 24, 9, ROWS),
        (4, 1, 16, 37, ROWS),
        (4, 1, 16, 37, SHARED),
    ],
)
def test_values_and_gradients_are_those_of_plain_attention(heads, kv_heads, size, queries, rows):
    check(make_case(heads, kv_heads, size, queries, rows))


def test_padding_may_precede_the_segments():
    *arrays, mask, direction = make_case(rows=([45], [20, 17]))
    segments = np.array([[0] * 5 + [1] * 18 + [2] * 22, [0] * 16 + [3] * 29], np.int32)
    check((*arrays, mask.replace(query_segments=segments, key_segments=segments), direction))


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128])
def test_blocks_of_full_size(size, monkeypatch):
    monkeypatch.undo()
    check(make_case(4, 2, size, None, ([200, 100, 50], [350], []), 350), atol=2e-5)


def test_half_precision_keeps_two_digits():
    query, key, value, mask, direction = make_case(size=16)
    half = (jnp.asarray(x, jnp.bfloat16) for x in (query, key, value))
    actual = run(interpreted, *half, mask, direction)
    expected = run(plain, query, key, value, mask, direction)
    for name, x in expected.items():
        assert actual[name].dtype == jnp.bfloat16
        error = np.abs(actual[name].astype(jnp.float32) - x).max()
        assert error < 0.03 * np.abs(x).max(), name


def test_nan_in_padding_has_no_influence_and_padding_gives_zeros():
    query, key, value, mask, direction = make_case()
    expected = run(interpreted, query, key, value, mask, direction)
    padding = mask.key_segments == 0
    query[padding] = direction[padding] = np.nan
    key.swapaxes(1, 2)[padding] = value.swapaxes(1, 2)[padding] = np.nan

    actual = run(interpreted, query, key, value, mask, direction)
    for name, x in expected.items():
        np.testing.assert_array_equal(actual[name], x, err_msg=name)
        by_token = np.asarray(x).swapaxes(1, 2) if name in ("key", "value") else np.asarray(x)
        assert by_token[~padding].any() and not by_token[padding].any()


# ---- What is skipped.


def test_nothing_crosses_a_segment_and_blocks_of_other_segments_are_not_read():
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


@pytest.mark.parametrize(
    "row, pairs",
    [
        *(([256 // n] * n, n * (16 // n) * (16 // n + 1) // 2) for n in (1, 2, 4, 16)),
        # A prefix of 2 blocks, a sample in one block and one in 13, which do not see each other.
        ([(32, 16, 208)], 3 + (2 + 1) + (13 * 2 + 13 * 14 // 2)),
    ],
)
def test_loops_grow_with_the_squares_of_the_segments(row, pairs, monkeypatch):
    """16 blocks in segments of n blocks each: n (n + 1) / 2 pairs per segment, in all kernels."""
    loops, loop = [], jax.lax.fori_loop

    def counted(low, high, body, start):
        jax.debug.callback(lambda a, b: loops.append(max(0, int(b) - int(a))), low, high)
        return loop(low, high, body, start)

    monkeypatch.setattr(jax.lax, "fori_loop", counted)
    *arrays, mask, _ = make_case(1, 1, 16, None, (row, [24, 24], []), 256)
    # Blocks 0 and 1 of the second row hold segment 1, and blocks 1 and 2 segment 2.
    pairs += 1 + 2 + 2
    jax.jit(lambda *a: interpreted(*a, mask))(*arrays)
    jax.effects_barrier()
    assert sum(loops) == pairs
    loops.clear()
    jax.jit(jax.grad(lambda *a: jnp.sum(interpreted(*a, mask)), (0, 1, 2)))(*arrays)
    jax.effects_barrier()
    # The last kernel has a loop over the one head, too, for each of its 3 * 16 blocks.
    assert sum(loops) == 3 * pairs + 3 * 16


def test_the_last_query_of_each_key():
    segments = np.array([[1, 1, 2, 2, 2, 0], [0, 3, 3, 3, 4, 4]], np.int32)
    mask = make_mask(([6], [6]), keys=6)
    mask = mask.replace(query_segments=segments, key_segments=segments)
    np.testing.assert_array_equal(last_queries(mask), [[1, 1, 4, 4, 4, -1], [-1, 3, 3, 3, 5, 5]])
    # A prefix of three, and two samples of two.
    (shared,) = np.asarray(last_queries(make_mask(([1, (3, 2, 2), 1],), keys=10)))
    np.testing.assert_array_equal(shared, [0, 7, 7, 7, 5, 5, 7, 7, 8, -1])
    # The last two tokens as queries.
    mask = mask.replace(query_segments=segments[:, 4:], query_index=mask.query_index[4:])
    last = np.asarray(last_queries(mask))
    np.testing.assert_array_equal(np.maximum(last, -1), [[-1, -1, 0, 0, 0, -1], [-1] * 4 + [1, 1]])


# ---- In programs for GPUs.


def calls(text):
    """Kernels in a program that is lowered for CUDA, in order."""
    return re.findall(r'__gpu\$xla.gpu.triton.*?name = "(\w+)"', text)


@pytest.mark.parametrize("size, dtype", [(64, "bfloat16"), (128, "bfloat16"), (80, "float32")])
def test_the_kernels_lower_for_cuda(size, dtype, monkeypatch):
    monkeypatch.undo()
    query, key, value, mask, direction = make_case(4, 2, size, None, ([500, 200], []), 701)

    def gradients(*arrays):
        def total(query, key, value):
            return jnp.sum(pallas_gpu(query, key, value, mask).astype(jnp.float32) * direction)

        return jax.grad(total, (0, 1, 2))(*arrays)

    arrays = [jax.ShapeDtypeStruct(x.shape, dtype) for x in (query, key, value)]
    lowered = jax.jit(gradients).trace(*arrays).lower(lowering_platforms=("cuda",))
    assert sorted(calls(lowered.as_text())) == [
        "_forward_kernel",
        "_key_value_kernel",
        "_query_kernel",
    ]


def calls_with_a_use(jaxpr):
    """The number of kernels of which a result is used; XLA drops the others."""
    used = {id(x) for e in jaxpr.eqns for x in e.invars} | {id(x) for x in jaxpr.outvars}
    kernels = [e for e in jaxpr.eqns if e.primitive.name == "pallas_call"]
    return sum(any(id(x) in used for x in e.outvars) for e in kernels)


@pytest.mark.parametrize("kept, kernels", [((SAVED,), 2), ((), 3)])
def test_the_backward_pass_runs_the_forward_kernel_again_unless_its_output_is_kept(kept, kernels):
    query, key, value, mask, direction = make_case()

    @functools.partial(jax.checkpoint, policy=checkpoint_policies.save_only_these_names(*kept))
    def total(query):
        return jnp.sum(jnp.sin(interpreted(jnp.sin(query), key, value, mask)) * direction)

    jaxpr = jax.make_jaxpr(jax.grad(total))(query)
    (again,) = (
        e.params["jaxpr"]
        for e in jaxpr.eqns
        if "jaxpr" in e.params and e.primitive.name.startswith("remat")
    )
    assert calls_with_a_use(again) == kernels


@pytest.mark.parametrize(
    "size, dtypes, message",
    [
        (257, ["float32"] * 3, "^head_dim=257: packed attention kernel='pallas_gpu' expected at "),
        (8, ["float16", "float32", "float32"], r"^dtypes \['float16', 'float32'\] of queries, "),
        (8, ["int8"] * 3, r"^dtypes \['int8'\] of queries, keys and values: packed attention "),
    ],
)
def test_arrays_that_the_kernels_do_not_take(size, dtypes, message):
    *arrays, mask, _ = make_case(2, 1, size)
    arrays = [jnp.asarray(x, dtype) for x, dtype in zip(arrays, dtypes, strict=True)]
    with pytest.raises(ValueError, match=message):
        pallas_gpu(*arrays, mask)


# ---- Several devices.

ON_EIGHT = """
import sys
sys.path.insert(0, "tests/kernels")
import jax, jax.numpy as jnp, numpy as np
from gopd_jax.kernels import packed_attention_gpu
from gopd_jax.runtime.mesh import make_mesh
from test_packed_attention_gpu import SHARED, interpreted, make_case

packed_attention_gpu.BLOCK = 16
query, key, value, mask, direction = make_case(rows=SHARED)

def gradients(*arrays):
    return jax.grad(lambda *a: jnp.sum(interpreted(*a, mask) * direction), (0, 1, 2))(*arrays)

right = jax.jit(gradients)(query, key, value)
with jax.set_mesh(make_mesh(data=2, fsdp=2, tensor=2)):
    compiled = jax.jit(gradients).lower(query, key, value).compile()
    for a, b in zip(compiled(query, key, value), right, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        assert len({str(s.index) for s in a.addressable_shards}) == 8, a.sharding
"""


def test_each_device_runs_the_kernels_on_its_own_rows_and_heads(run_on_fake_devices):
    run_on_fake_devices(ON_EIGHT)
