"""Packing: every token in its place, whatever the lengths and the order of arrival; and always enough micro-batches."""

import dataclasses

import jax
import numpy as np
import pytest
from step_cases import make_sequences, spot, trees_equal

from gopd_jax.learner.packing import Sequence, micro_batches_needed, pack


def _check(sequences, batch, places, row_length):
    """Every sequence stands where its place says, and nothing else stands anywhere."""
    expected = jax.tree.map(np.zeros_like, batch)
    seen = np.zeros(batch.tokens.shape, int)
    assert places.keys() == {s.name for s in sequences}
    for s in sequences:
        place = places[s.name]
        assert place.start + len(s) <= row_length
        here = place.micro, place.row, slice(place.start, place.start + len(s))
        seen[here] += 1
        expected.tokens[here] = np.concatenate([s.prompt, s.response])
        expected.positions[here] = np.arange(len(s))
        assert (
            len(set(batch.segments[here])) == 1
        )  # one number, 1 or more, that no neighbour has: checked below
        expected.segments[here] = batch.segments[here]
        there = spot(places, s)
        expected.targets[there] = s.response
        # In words: at each predicted position stands the token after it in the row.
        np.testing.assert_array_equal(
            batch.tokens[there[0], there[1], there[2].start + 1 : there[2].stop + 1], s.response
        )
        expected.weights[there] = s.weight
        expected.reward_scale[there] = s.reward_scale
        expected.advantages[there] = s.advantage
        if s.behaviour_logprobs is not None:
            expected.behaviour_logprobs[there] = s.behaviour_logprobs
        assert batch.domains[place.micro, place.row] == s.domain
    assert seen.max() == 1
    np.testing.assert_array_equal(batch.segments > 0, seen > 0)
    for row, place_count in np.ndenumerate(_count_by_row(batch, places)):
        assert set(batch.segments[row]) - {0} == set(range(1, place_count + 1))
    trees_equal(batch.replace(used=0, domains=0), expected.replace(used=0, domains=0))
    used = 1 + max(p.micro for p in places.values())
    assert batch.used == used
    for m in range(used):  # the rest of a micro-batch may be padding rows
        assert len({s.domain for s in sequences if places[s.name].micro == m}) == 1
        assert {s.domain for s in sequences if places[s.name].micro == m} == {batch.domains[m, 0]}


def _count_by_row(batch, places):
    counts = np.zeros(batch.tokens.shape[:2], int)
    for place in places.values():
        counts[place.micro, place.row] += 1
    return counts


@pytest.mark.parametrize("domains", [1, 2, 3])
def test_every_token_at_its_place(domains):
    sequences = make_sequences(21, domains, advantage=0.5)
    batch, places, filled = pack(sequences, 9, 2, 32)
    _check(sequences, batch, places, 32)
    assert filled == pytest.approx(sum(map(len, sequences)) / (batch.used * 2 * 32))
    assert (
        batch.tokens.shape == (9, 2, 32)
        and batch.tokens.dtype == np.int32
        and batch.weights.dtype == np.float32
    )


def test_order_of_arrival_changes_nothing():
    sequences = make_sequences(17, 2, response=(4, 5))  # many ties in length
    batch, places, filled = pack(sequences, 9, 2, 24)
    for seed in range(3):
        shuffled = [sequences[i] for i in np.random.default_rng(seed).permutation(17)]
        again = pack(shuffled, 9, 2, 24)
        trees_equal(again[0], batch)
        assert again[1:] == (places, filled)


def test_sequences_without_behaviour_logprobs():
    sequences = make_sequences(5, behaviour_logprobs=None)
    batch, places, _ = pack(sequences, 5, 2, 20)
    assert batch.behaviour_logprobs is None
    _check(sequences, batch, places, 20)


def test_no_sequence_is_an_empty_batch():
    batch, places, filled = pack([], 2, 2, 20)
    assert batch.used == 0 and not places and filled == 0 and not batch.segments.any()


def _of_lengths(lengths, domains):
    prompt = np.ones(1, np.int32)
    return [
        Sequence((i,), int(d), prompt, np.full(n - 1, 2, np.int32), 1.0)
        for i, (n, d) in enumerate(zip(lengths, domains, strict=True))
    ]


def test_micro_batches_needed_is_enough_for_any_lengths():
    rng = np.random.default_rng(0)
    for _ in range(300):
        longest, rows, domains = (
            int(rng.integers(2, 30)),
            int(rng.integers(1, 5)),
            int(rng.integers(1, 4)),
        )
        row_length, count = longest + int(rng.integers(0, 60)), int(rng.integers(1, 40))
        kind = rng.integers(3)
        if kind == 0:
            lengths = rng.integers(2, longest + 1, count)
        elif kind == 1:
            lengths = np.full(count, longest)  # nothing fits beside another
        else:  # just too long for one more in a row
            lengths = np.full(
                count, min(longest, max(2, row_length // (1 + row_length // longest) + 1))
            )
        sequences = _of_lengths(lengths, rng.integers(0, domains, count))
        needed = micro_batches_needed(count, longest, rows, row_length, domains)
        batch, places, _ = pack(sequences, needed, rows, row_length)
        assert len(places) == count
        assert batch.used <= needed


@pytest.mark.parametrize(
    "count, longest, rows, row_length, needed",
    [(8, 10, 2, 10, 4), (9, 10, 2, 29, 3), (9, 10, 3, 29, 2)],
)
def test_the_longest_lengths_need_all_of_them(count, longest, rows, row_length, needed):
    assert micro_batches_needed(count, longest, rows, row_length, 1) == needed
    batch, _, _ = pack(_of_lengths([longest] * count, [0] * count), needed, rows, row_length)
    assert batch.used == needed


def test_errors_say_what_was_wanted():
    sequences = make_sequences(6, prompt=(8, 8), response=(12, 12))
    with pytest.raises(
        ValueError, match=r"row_length=19 is shorter than the longest sequence, 20 tokens"
    ):
        micro_batches_needed(6, 20, 2, 19, 1)
    with pytest.raises(
        ValueError, match=r"sequence \('p', 0\) has 20 tokens, more than row_length=19"
    ):
        pack(sequences, 6, 2, 19)
    with pytest.raises(
        ValueError, match=r"6 rows of 20 tokens need 3 micro-batches of 2 rows, not 2"
    ):
        pack(sequences, 2, 2, 20)


def test_a_sequence_of_the_row_length_fits():
    sequences = make_sequences(2, prompt=(8, 8), response=(12, 12))
    batch, places, filled = pack(
        [*sequences, dataclasses.replace(sequences[0], name=("q", 0))], 3, 1, 20
    )
    assert filled == 1 and batch.used == 3 and {p.start for p in places.values()} == {0}
