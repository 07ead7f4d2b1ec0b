"""Packing: every token in its place, for any lengths and any order, and enough micro-batches."""

import dataclasses

import jax
import numpy as np
import pytest
from step_cases import make_examples, pack_one, predictions, trees_equal

from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.learner.example import LOGPROBS, Example, RowSlice
from gopd_jax.learner.packing import (
    LEAST,
    SHORTER,
    BatchShape,
    Bucket,
    best_fit,
    make_buckets,
    pack,
    padding_hint,
    plan,
)
from gopd_jax.types import SampleKey


def check(examples, batch, slices, row_length):
    """Every example stands where its slice says, and nothing else stands anywhere."""
    expected = jax.tree.map(np.zeros_like, batch)
    seen = np.zeros(batch.tokens.shape, int)
    examples_in_row = np.zeros(batch.tokens.shape[:2], int)
    assert slices.keys() == {e.key for e in examples}
    for e in examples:
        where = slices[e.key]
        assert where.start + len(e) <= row_length
        here = where.micro, where.row, slice(where.start, where.start + len(e))
        seen[here] += 1
        examples_in_row[here[:2]] += 1
        expected.tokens[here] = np.concatenate([e.prompt, e.response])
        expected.positions[here] = np.arange(len(e))
        # One number, 1 or more, that no neighbour has; which numbers a row has is checked below.
        assert len(set(batch.segments[here])) == 1
        expected.segments[here] = batch.segments[here]
        there = predictions(slices, e)
        assert where.predictions(len(e.prompt), len(e.response)) == there
        expected.targets[there] = e.response
        # The token after each predicted position is the target itself.
        after = slice(there[2].start + 1, there[2].stop + 1)
        np.testing.assert_array_equal(batch.tokens[(*there[:2], after)], e.response)
        expected.weights[there] = e.weight
        expected.reward_scale[there] = e.reward_scale
        expected.advantages[there] = e.advantage
        if e.behaviour_logprobs is not None:
            expected.behaviour_logprobs[there] = e.behaviour_logprobs
        assert batch.domains[where.micro, where.row] == e.domain
    assert seen.max() == 1
    np.testing.assert_array_equal(batch.segments > 0, seen > 0)
    for row, count in np.ndenumerate(examples_in_row):
        assert set(batch.segments[row]) - {0} == set(MEMBERS * np.arange(1, count + 1))
    trees_equal(batch.replace(used=0, domains=0), expected.replace(used=0, domains=0))
    assert batch.used == 1 + max(where.micro for where in slices.values())
    for m in range(batch.used):  # the rest of a micro-batch may be padding rows
        domains = {e.domain for e in examples if slices[e.key].micro == m}
        assert len(domains) == 1
        assert domains == {batch.domains[m, 0]}


@pytest.mark.parametrize("domains", [1, 2, 3])
def test_every_token_at_its_place(domains):
    examples = make_examples(21, domains, advantage=0.5)
    batch, slices = pack_one(examples, 9, 2, 32)
    check(examples, batch, slices, 32)
    assert batch.tokens.shape == (9, 2, 32)
    assert batch.tokens.dtype == np.int32
    assert batch.weights.dtype == np.float32


def test_order_of_arrival_changes_nothing():
    examples = make_examples(17, 2, response=(4, 5))  # many ties in length
    batch, slices = pack_one(examples, 9, 2, 24)
    for seed in range(3):
        shuffled = [examples[i] for i in np.random.default_rng(seed).permutation(17)]
        again, again_slices = pack_one(shuffled, 9, 2, 24)
        trees_equal(again, batch)
        assert again_slices == slices


def test_log_probs_are_those_that_some_example_has_unless_told():
    examples = make_examples(5, behaviour_logprobs=None)
    batch, slices = pack_one(examples, 5, 2, 20)
    assert [getattr(batch, name) for name in LOGPROBS] == [None] * 4
    check(examples, batch, slices, 20)
    told, _ = pack_one(examples, 5, 2, 20, logprobs=["old_logprobs"])
    assert told.behaviour_logprobs is None and not told.old_logprobs.any()
    scored = [
        dataclasses.replace(e, teacher_logprobs=np.full(len(e.response), 7)) for e in examples
    ]
    with_teacher, _ = pack_one(scored, 5, 2, 20)
    np.testing.assert_array_equal(with_teacher.teacher_logprobs, 7 * (batch.weights > 0))
    # As with a reference that one domain needs, and the first one does not.
    last, slices = pack_one([*examples[:4], scored[4]], 5, 2, 20)
    there = predictions(slices, examples[4])
    assert (last.teacher_logprobs[there] == 7).all()
    assert np.count_nonzero(last.teacher_logprobs) == len(examples[4].response)


def test_no_example_is_an_empty_batch():
    batch, slices = pack_one([], 2, 2, 20)
    assert batch.used == 0 and not slices and not batch.segments.any()


def test_an_example_of_the_row_length_fits():
    examples = make_examples(2, prompt=(8, 8), response=(12, 12))
    third = dataclasses.replace(examples[0], key=SampleKey("q", 0))
    batch, slices = pack_one([*examples, third], 3, 1, 20)
    assert batch.segments.all() and batch.used == 3
    assert {where.start for where in slices.values()} == {0}


def test_a_batch_that_is_nearly_all_padding_is_named():
    buckets = [Bucket(1, 16, 40), Bucket(3, 16, 10)]
    hint = padding_hint(0.0625, buckets)
    assert "94% of what the first update computes" in hint
    assert "micro-batches of 16 rows of 40 tokens or 16 rows of 10 tokens" in hint
    assert padding_hint(0.5, buckets) == ""


# ---- Rows of two lengths.


def lengths_of(rows):
    return [[len(e) for e in row] for row in rows]


def test_best_fit_takes_the_row_with_the_least_space():
    members = of_lengths([7, 5, 3, 2], [0] * 4)
    assert lengths_of(best_fit(members, [10, 8, 7])) == [[2], [5, 3], [7]]
    assert best_fit(members, [10, 4]) is None and best_fit(members, []) is None


@pytest.mark.parametrize(
    "lengths, long, short",
    [
        ([100, 30], [], [[100], [30]]),  # two short rows hold all
        ([100, 98, 30, 30, 5], [], [[100], [98], [30, 30, 5]]),
        ([101, 5], [[101, 5]], []),  # too long for a short row
        ([400, 390, 10, 60, 40], [[390, 10], [400]], [[60, 40]]),
        ([300, 300, 90, 90, 90], [[300, 90], [300, 90]], [[90]]),
        ([300, 300, 300], [[300], [300], [300]], []),
    ],
)
def test_what_is_left_over_goes_into_short_rows(lengths, long, short):
    examples = of_lengths(lengths, [0] * len(lengths))
    found = plan(examples, [Bucket(9, 1, 400), Bucket(3, 1, 100)])
    assert [sorted(map(sorted, lengths_of(rows))) for rows in found] == [
        sorted(map(sorted, long)),
        sorted(map(sorted, short)),
    ]


def test_rows_of_a_micro_batch_cost_the_same_attention():
    """The row of one long example, whose attention costs most, stands with its like."""
    examples = of_lengths([40, 40] + [10] * 8, [0] * 10)
    (rows,) = plan(examples, [Bucket(2, 2, 40)])
    assert lengths_of(rows) == [[40], [40], [10] * 4, [10] * 4]


def test_every_example_is_in_one_of_the_buckets():
    rng = np.random.default_rng(1)
    for _ in range(40):
        count, domains = int(rng.integers(1, 60)), int(rng.integers(1, 4))
        longest = int(rng.integers(20, 1500))
        examples = of_lengths(rng.integers(2, longest + 1, count), rng.integers(0, domains, count))
        shape = BatchShape(count, longest, rows=int(rng.integers(0, 3)))
        buckets = make_buckets(shape, domains, devices=1)
        batches, slices = pack(examples, buckets)
        assert slices.keys() == {e.key for e in examples}
        for index, (bucket, batch) in enumerate(zip(buckets, batches, strict=True)):
            mine = [e for e in examples if slices[e.key].bucket == index]
            if mine:
                check(mine, batch, {e.key: slices[e.key] for e in mine}, bucket.length)
        tokens = sum(b.used * x.rows * x.length for b, x in zip(batches, buckets, strict=True))
        alone, _ = pack(examples, buckets[:1])
        assert tokens <= alone[0].used * buckets[0].rows * buckets[0].length


@pytest.mark.parametrize(
    "shape, devices, long, short",
    [
        (BatchShape(512, 72), 1, (2, 1024), (2, 256)),
        (BatchShape(64, 608), 1, (2, 1024), (2, 256)),
        (BatchShape(1024, 18432), 16, (16, 18432), (16, 4608)),
        (BatchShape(8, 100), 1, (1, 800), None),  # no more than eight of the longest
        (BatchShape(8, 100), 4, (4, 200), None),  # a quarter is not worth a compilation
        (BatchShape(64, 608, rows=6, row_length=1100), 2, (6, 1100), (6, 275)),
        (BatchShape(64, 608, samples=8), 1, (1, 2048), (1, 512)),  # of shared prompts
        (BatchShape(64, 608, rows=2, samples=8), 1, (2, 1024), (2, 256)),
    ],
)
def test_the_lengths_of_rows(shape, devices, long, short):
    first, *others = make_buckets(shape, 2, devices)
    assert (first.rows, first.length) == long
    assert [(b.rows, b.length) for b in others] == ([short] if short else [])
    assert all(b.micro_batches == (SHORTER - 1) * 2 and b.length >= LEAST for b in others)


@pytest.mark.parametrize(
    "layout, shape, long, short",
    [
        # 256 devices: 16 rows over 16 of them, each held by 16.
        ((16, 16, 32), BatchShape(1024, 18432, 16), (16, 18432), (16, 4608)),
        ((16, 16, 32), BatchShape(1024, 18432), (16, 18432), (16, 4608)),
        ((2, 4, 8), BatchShape(64, 610), (16, 1024), (16, 256)),  # 2,048 tokens on each of 8
        ((1, 4, 8), BatchShape(64, 1026), (7, 1032), (7, 264)),
    ],
)
def test_devices_that_hold_a_row_together_divide_its_length(layout, shape, long, short):
    found = make_buckets(shape, 2, *layout)
    assert [(b.rows, b.length) for b in found] == [long, short]


# ---- The number of micro-batches.


def of_lengths(lengths, domains):
    prompt = np.ones(1, np.int32)
    return [
        Example(SampleKey("p", i), int(d), prompt, np.full(n - 1, 2, np.int32), 1.0)
        for i, (n, d) in enumerate(zip(lengths, domains, strict=True))
    ]


def test_there_is_room_for_any_lengths():
    rng = np.random.default_rng(0)
    for _ in range(300):
        longest, rows = int(rng.integers(2, 30)), int(rng.integers(1, 5))
        domains = int(rng.integers(1, 4))
        row_length, count = longest + int(rng.integers(0, 60)), int(rng.integers(1, 40))
        kind = rng.integers(3)
        if kind == 0:
            lengths = rng.integers(2, longest + 1, count)
        elif kind == 1:
            lengths = np.full(count, longest)  # nothing fits beside another
        else:  # just too long for one more in a row
            in_row = row_length // longest
            lengths = np.full(count, min(longest, max(2, row_length // (1 + in_row) + 1)))
        examples = of_lengths(lengths, rng.integers(0, domains, count))
        shape = BatchShape(count, longest, rows, row_length)
        _, slices = pack(examples, make_buckets(shape, domains, devices=1))
        assert len(slices) == count


@pytest.mark.parametrize(
    "count, longest, rows, row_length, needed",
    [(8, 10, 2, 10, 4), (9, 10, 2, 29, 3), (9, 10, 3, 29, 2)],
)
def test_the_longest_lengths_need_all_of_them(count, longest, rows, row_length, needed):
    (bucket,) = make_buckets(BatchShape(count, longest, rows, row_length), 1, devices=1)
    assert bucket == Bucket(needed, rows, row_length)
    batches, _ = pack(of_lengths([longest] * count, [0] * count), [bucket])
    assert batches[0].used == needed


TOO_SMALL = [
    (
        lambda _: make_buckets(BatchShape(6, 20, 2, 19), 1, 1),
        r"row_length=19: expected at least 20, the tokens of the longest example",
    ),
    (
        lambda _: make_buckets(BatchShape(6, 20, 2), 1, 4),
        r"rows_per_micro_batch=2: expected a multiple of 4",
    ),
    (
        lambda _: make_buckets(BatchShape(6, 20, 2, 36), 1, 2, 4, 8),
        r"row_length=36: expected a multiple of 8, for the devices on the context and tensor axes",
    ),
    (
        lambda examples: pack_one(examples, 6, 2, 19),
        r"the example of sample \('p', 0\) has 20 tokens: expected at most row_length=19",
    ),
    (
        lambda examples: pack_one(examples, 2, 2, 20),
        r"rows of 20 tokens need 3 micro-batches of 2 rows, but the step is compiled for 2",
    ),
]


@pytest.mark.parametrize("call, message", TOO_SMALL)
def test_errors_say_what_was_expected(call, message):
    examples = make_examples(6, prompt=(8, 8), response=(12, 12))
    with pytest.raises(ValueError, match=message):
        call(examples)


def test_predictions_begin_at_the_last_prompt_token():
    assert RowSlice(0, 2, 1, 5).predictions(3, 4) == (2, 1, slice(7, 11))
