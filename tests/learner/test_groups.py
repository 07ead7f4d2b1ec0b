"""Samples of one prompt in shared rows: what each of them sees, how they are cut, when it pays."""

import dataclasses

import numpy as np
import pytest
from step_cases import make_examples, make_samples

from gopd_jax.kernels.packed_attention import MEMBERS, prefix_of
from gopd_jax.learner import groups
from gopd_jax.learner.groups import Group, Sharing, by_prompt, filled, pieces
from gopd_jax.learner.packing import BatchShape, Bucket, fill, make_buckets, pack, plan
from gopd_jax.types import SampleKey

SHARING = Sharing(score=1e-3, blocks=(8,))


def of_sizes(prompt, *responses, name="p"):
    read = np.arange(1, prompt + 1, dtype=np.int32)
    (one,) = make_examples(1)
    return [
        dataclasses.replace(
            one,
            key=SampleKey(name, i),
            prompt=read,
            response=np.full(n, 70 + i, np.int32),
            behaviour_logprobs=np.full(n, -1.0, np.float32),
        )
        for i, n in enumerate(responses)
    ]


def test_a_shared_row_by_hand():
    first, second = of_sizes(4, 2, 3)
    (other,) = of_sizes(2, 1, name="q")
    row = [Group((first, second)), Group((other,))]
    arrays, starts = fill([row], 1, 15, ["behaviour_logprobs"])
    (tokens, positions, segments, targets) = (
        arrays[n][0] for n in ("tokens", "positions", "segments", "targets")
    )
    np.testing.assert_array_equal(tokens, [1, 2, 3, 4, 70, 70, 4, 71, 71, 71, 1, 2, 70, 0, 0])
    np.testing.assert_array_equal(positions, [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 0, 1, 2, 0, 0])
    np.testing.assert_array_equal(targets, [0, 0, 0, 70, 70, 0, 71, 71, 71, 0, 0, 70, 0, 0, 0])
    one = MEMBERS
    expected = [one] * 3 + [one + 1] * 3 + [one + 2] * 4 + [2 * one] * 3 + [0] * 2
    np.testing.assert_array_equal(segments, expected)
    np.testing.assert_array_equal(arrays["behaviour_logprobs"][0], -1.0 * (targets > 0))
    assert starts == {first.key: (0, 0), second.key: (0, 3), other.key: (0, 10)}
    assert len(row[0]) == 10 and row[0].sizes == [3, 4] and len(row[1]) == 3


def check(examples, buckets, sharing=SHARING):
    """Each response token is predicted from the prompt and the response before it alone.

    Returns:
        Tokens of the rows that are run.
    """
    batches, slices = pack(examples, buckets, sharing=sharing)
    assert slices.keys() == {e.key for e in examples}
    predicted = 0
    for e in examples:
        where = slices[e.key]
        micro, row, there = where.predictions(len(e.prompt), len(e.response))
        batch = batches[where.bucket]
        tokens, positions, segments = (
            x[micro, row] for x in (batch.tokens, batch.positions, batch.segments)
        )
        last = there.stop - 1
        mine = segments[last]
        seen = (segments == mine) | (segments == prefix_of(mine))
        seen[last + 1 :] = False
        whole = np.concatenate([e.prompt, e.response])[:-1]
        np.testing.assert_array_equal(tokens[seen], whole)
        np.testing.assert_array_equal(positions[seen], np.arange(len(whole)))
        assert tokens[last + 1] == e.response[-1] and segments[last + 1] == mine
        np.testing.assert_array_equal(batch.targets[micro, row, there], e.response)
        np.testing.assert_array_equal(
            batch.behaviour_logprobs[micro, row, there], e.behaviour_logprobs
        )
        assert (batch.weights[micro, row, there] == np.float32(e.weight)).all()
        assert (batch.domains[micro] == e.domain).all()
        predicted += len(e.response)
    assert sum(np.count_nonzero(b.targets) for b in batches) == predicted
    for batch in batches:
        padded = np.where(batch.segments > 0, batch.segments, np.iinfo(np.int32).max)
        assert (np.diff(padded, axis=-1) >= 0).all()
    return sum(b.tokens[: int(b.used)].size for b in batches)


def test_there_is_room_and_each_sample_sees_its_own_prompt():
    rng = np.random.default_rng(1)
    saved = []
    for seed in range(30):
        prompts, count = int(rng.integers(1, 9)), int(rng.integers(1, 9))
        domains = int(rng.integers(1, 3))
        limit = int(rng.choice([5, 60, 700]))
        examples = make_samples(prompts, count, (2, limit), (1, 200), seed, domains)
        shape = BatchShape(len(examples), limit + 200, rows=int(rng.integers(0, 3)))
        buckets = make_buckets(shape, domains, devices=1)
        sharing = Sharing(1e-3, (int(rng.choice([0, 8, 32])),) * len(buckets))
        tokens, alone = (check(examples, buckets, s) for s in (sharing, None))
        saved.append(1 - tokens / alone)
    assert max(saved) > 0.5 and sum(share > 0.1 for share in saved) >= 8


def test_the_order_of_arrival_changes_nothing():
    examples = make_samples(5, 4)
    shuffled = [examples[i] for i in np.random.default_rng(0).permutation(20)]
    buckets = [Bucket(9, 2, 300)]
    _, slices = pack(examples, buckets, sharing=SHARING)
    assert pack(shuffled, buckets, sharing=SHARING)[1] == slices


def lengths(found):
    return [(g.prefix, g.sizes) for g in found]


def test_a_group_is_cut_into_as_few_as_fit():
    (group,) = by_prompt(of_sizes(41, 9, 9, 19, 29, 4), SHARING)
    assert lengths([group]) == [(40, [10, 10, 20, 30, 5])]
    assert lengths(pieces([group], 80)) == [(40, [10, 10, 20]), (40, [30, 5])]
    assert lengths(pieces([group], 72)) == [(0, [70]), (40, [10, 10, 5]), (0, [60])]


def test_a_part_of_a_group_fills_a_row():
    """Two groups of 70 of 100 tokens: a member of one comes along with the other."""
    two = [g for n in "pq" for g in by_prompt(of_sizes(11, *[9] * 6, name=n), SHARING)]
    assert lengths(two) == [(10, [10] * 6)] * 2
    assert lengths(pieces(two, 100)) == lengths(two)
    assert lengths(filled(two, 100)) == [(10, [10] * 6), (10, [10] * 4), (10, [10] * 2)]


def test_a_group_has_fewer_members_than_numbers(monkeypatch):
    monkeypatch.setattr(groups, "MEMBERS", 4)
    found = pieces(by_prompt(of_sizes(11, *[3] * 8), SHARING), 1000)
    assert lengths(found) == [(10, [4] * 3), (10, [4] * 3), (10, [4] * 2)]


@pytest.mark.parametrize(
    "prompt, responses, block, shared",
    [
        (60, [9, 9], 8, True),
        (60, [9], 8, False),
        (1, [9, 9], 8, False),  # nothing but the last token, which each sample has
        (2, [900] * 8, 0, True),
        (2, [900] * 8, 32, False),  # 7 tokens, against another block of keys for each of 7,208
        (40, [900] * 8, 32, True),
    ],
)
def test_a_prompt_is_shared_where_that_saves_more_than_it_costs(prompt, responses, block, shared):
    found = by_prompt(of_sizes(prompt, *responses), Sharing(1e-3, (block,)))
    assert [len(g.members) for g in found] == ([len(responses)] if shared else [1] * len(responses))


def test_other_prompts_and_other_prompt_ids_are_not_shared():
    a, b = of_sizes(30, 3, 3)
    other = dataclasses.replace(b, prompt=b.prompt[::-1].copy())
    named = dataclasses.replace(b, key=SampleKey("q", 1))
    for second in (other, named):
        assert [len(g.members) for g in by_prompt([a, second], SHARING)] == [1, 1]


def test_rows_that_are_no_cheaper_are_not_shared():
    """Two samples that fill a row each with their prompt, and would not fit into one."""
    examples = of_sizes(11, 39, 39)
    (rows,) = plan(examples, [Bucket(2, 1, 50)], SHARING)
    assert [[len(g.members) for g in row] for row in rows] == [[1], [1]]
    # One more token, and a row holds both.
    (rows,) = plan(examples, [Bucket(2, 1, 90)], SHARING)
    assert [[len(g.members) for g in row] for row in rows] == [[2]]


def test_without_sharing_every_sample_has_a_group_of_its_own():
    (rows,) = plan(make_samples(3, 4), [Bucket(9, 2, 300)])
    assert {len(g.members) for row in rows for g in row} == {1}


def test_groups_that_are_ready_miss_no_company():
    whole, part = of_sizes(41, 9, 9, 9, name="p"), of_sizes(41, 19, 9, name="q")
    full, lone = of_sizes(41, 29, 29, 9, name="r")[:2], of_sizes(1, 5, name="s")
    given = {"samples": 3, "room": 100, "full": 95}
    found = groups.ready([*whole, *part, *full, *lone], SHARING, **given)
    # The two of "r" fill a row, and "s" has nothing to share.
    assert lengths(found) == [(40, [30, 30]), (40, [10] * 3), (0, [6])]
    assert {e.key.prompt_id for g in found for e in g.members} == {"p", "r", "s"}
    assert len(groups.ready(whole, None, **given)) == 3


def test_a_plan_that_the_step_has_no_room_for_is_not_taken():
    """Whole groups would cost less where scores are dear, and need a third row."""
    examples = [e for name in "pqr" for e in of_sizes(16, 17, 17, name=name)]
    assert check(examples, [Bucket(2, 1, 100)], Sharing(score=2.0, blocks=(1,))) == 200
    assert lengths(pieces(by_prompt(examples, SHARING), 100)) == [(15, [18, 18])] * 3
