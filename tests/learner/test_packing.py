"""Packing: every token in its place, for any lengths and any order, and enough micro-batches."""

import dataclasses

import jax
import numpy as np
import pytest
from step_cases import make_examples, predictions, trees_equal

from gopd_jax.learner.packing import (
    Example,
    RowSlice,
    as_teachers_read,
    gather_index,
    micro_batches_needed,
    pack,
    padding_hint,
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
        assert set(batch.segments[row]) - {0} == set(range(1, count + 1))
    trees_equal(batch.replace(used=0, domains=0), expected.replace(used=0, domains=0))
    assert batch.used == 1 + max(where.micro for where in slices.values())
    for m in range(batch.used):  # the rest of a micro-batch may be padding rows
        domains = {e.domain for e in examples if slices[e.key].micro == m}
        assert len(domains) == 1
        assert domains == {batch.domains[m, 0]}


@pytest.mark.parametrize("domains", [1, 2, 3])
def test_every_token_at_its_place(domains):
    examples = make_examples(21, domains, advantage=0.5)
    batch, slices, filled = pack(examples, 9, 2, 32)
    check(examples, batch, slices, 32)
    assert filled == pytest.approx(sum(map(len, examples)) / (batch.used * 2 * 32))
    assert batch.tokens.shape == (9, 2, 32)
    assert batch.tokens.dtype == np.int32
    assert batch.weights.dtype == np.float32


def test_order_of_arrival_changes_nothing():
    examples = make_examples(17, 2, response=(4, 5))  # many ties in length
    batch, slices, filled = pack(examples, 9, 2, 24)
    for seed in range(3):
        shuffled = [examples[i] for i in np.random.default_rng(seed).permutation(17)]
        again = pack(shuffled, 9, 2, 24)
        trees_equal(again[0], batch)
        assert again[1:] == (slices, filled)


def test_examples_without_behaviour_logprobs():
    examples = make_examples(5, behaviour_logprobs=None)
    batch, slices, _ = pack(examples, 5, 2, 20)
    assert batch.behaviour_logprobs is None
    check(examples, batch, slices, 20)


def test_no_example_is_an_empty_batch():
    batch, slices, filled = pack([], 2, 2, 20)
    assert batch.used == 0 and not slices and filled == 0 and not batch.segments.any()


def test_an_example_of_the_row_length_fits():
    examples = make_examples(2, prompt=(8, 8), response=(12, 12))
    third = dataclasses.replace(examples[0], key=SampleKey("q", 0))
    batch, slices, filled = pack([*examples, third], 3, 1, 20)
    assert filled == 1 and batch.used == 3
    assert {where.start for where in slices.values()} == {0}


def test_a_batch_that_is_nearly_all_padding_is_named():
    examples = make_examples(2, prompt=(8, 8), response=(12, 12))
    roomy, tight = (pack(examples, 1, rows, 40)[2] for rows in (16, 1))
    assert "94% of what the first update computes" in padding_hint(roomy, 16, 40)
    assert padding_hint(tight, 1, 40) == ""


# ---- The number of micro-batches.


def of_lengths(lengths, domains):
    prompt = np.ones(1, np.int32)
    return [
        Example(SampleKey("p", i), int(d), prompt, np.full(n - 1, 2, np.int32), 1.0)
        for i, (n, d) in enumerate(zip(lengths, domains, strict=True))
    ]


def test_micro_batches_needed_is_enough_for_any_lengths():
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
        needed = micro_batches_needed(count, longest, rows, row_length, domains)
        batch, slices, _ = pack(examples, needed, rows, row_length)
        assert len(slices) == count
        assert batch.used <= needed


@pytest.mark.parametrize(
    "count, longest, rows, row_length, needed",
    [(8, 10, 2, 10, 4), (9, 10, 2, 29, 3), (9, 10, 3, 29, 2)],
)
def test_the_longest_lengths_need_all_of_them(count, longest, rows, row_length, needed):
    assert micro_batches_needed(count, longest, rows, row_length, 1) == needed
    batch, _, _ = pack(of_lengths([longest] * count, [0] * count), needed, rows, row_length)
    assert batch.used == needed


TOO_SMALL = [
    (
        lambda _: micro_batches_needed(6, 20, 2, 19, 1),
        r"row_length=19: expected at least 20, the tokens of the longest example",
    ),
    (
        lambda examples: pack(examples, 6, 2, 19),
        r"the example of sample \('p', 0\) has 20 tokens: expected at most row_length=19",
    ),
    (
        lambda examples: pack(examples, 2, 2, 20),
        r"6 rows of 20 tokens need 3 micro-batches of 2 rows, but the step is compiled for 2",
    ),
]


@pytest.mark.parametrize("call, message", TOO_SMALL)
def test_errors_say_what_was_expected(call, message):
    examples = make_examples(6, prompt=(8, 8), response=(12, 12))
    with pytest.raises(ValueError, match=message):
        call(examples)


# ---- Teachers that read a prompt of their own.


def test_the_index_from_the_students_batch_into_the_teachers():
    """Every response token of an example with a teacher prompt is found; all others are -1."""
    longer = np.arange(1, 15, dtype=np.int32)
    examples = [
        dataclasses.replace(e, teacher_prompt=longer[: 8 + i] if e.domain else None)
        for i, e in enumerate(make_examples(6, 2))
    ]
    read = as_teachers_read(examples)
    assert [e.key for e in read] == [e.key for e in examples if e.domain]
    batch, slices, _ = pack(examples, 4, 2, 32)
    view, view_slices, _ = pack(read, 4, 2, 32)
    index = gather_index(examples, slices, view_slices, batch.tokens.shape)
    assert index.dtype == np.int32
    expected = np.full(batch.tokens.shape, -1)
    flat = np.arange(expected.size).reshape(expected.shape)
    for e in examples:
        if e.domain:
            as_read = dataclasses.replace(e, prompt=e.teacher_prompt)
            expected[predictions(slices, e)] = flat[predictions(view_slices, as_read)]
    np.testing.assert_array_equal(index, expected)
    found = index >= 0
    np.testing.assert_array_equal(view.targets.ravel()[index[found]], batch.targets[found])


def test_predictions_begin_at_the_last_prompt_token():
    assert RowSlice(2, 1, 5).predictions(3, 4) == (2, 1, slice(7, 11))
