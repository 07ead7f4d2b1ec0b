"""Whole runs of the scheduler with a fake device: each sample once, each prompt prefilled once."""

import numpy as np
import pytest
from scheduler_cases import CASES, Case, Driver, driven, prompt_of

every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c.slots}-{c.shards}-{c.steps}-{c.samples}"
)


# ---- Each sample once, with its tokens.


@every_case
def test_every_request_is_drawn_once_with_its_tokens_in_order(case):
    run = driven(case)
    names = [r.request.key for r in run.rollouts]
    assert sorted(names) == sorted(r.key for r in run.requests)
    for rollout in run.rollouts:
        request = rollout.request
        whole = run.responses[int(request.key.prompt_id[1:]), request.sample_id]
        np.testing.assert_array_equal(rollout.tokens, whole[: request.max_tokens])
        np.testing.assert_array_equal(rollout.behaviour_logprobs, rollout.tokens.astype(np.float32))
        assert rollout.tokens.dtype == np.int32
        assert rollout.finish_reason == ("stop" if len(whole) <= request.max_tokens else "length")
    assert {r.finish_reason for r in run.rollouts} == {"stop", "length"}
    assert run.tokens == sum(len(r.tokens) for r in run.rollouts)


@every_case
def test_every_slot_continues_where_its_cache_ends(case):
    """A slot's columns and the token to feed are a beginning of prompt + response, without gaps."""
    run, dispatches = driven(case), 0
    for table, held, unfinished in run.tables:
        assert not unfinished & set(np.flatnonzero(table.active))
        for s in np.flatnonzero(table.active):
            p = run.by_number[int(table.prompts[s])]
            whole = [*run.prompts[f"p{p}"], *run.responses[p, int(table.samples[s])]]
            fed = [*held[s], table.tokens[s]]
            np.testing.assert_array_equal(fed, whole[: table.lengths[s] + 1])
            assert table.lengths[s] == len(run.prompts[f"p{p}"]) - 1 + table.drawn[s]
            dispatches += 1
    assert dispatches >= len(run.requests)


@every_case
def test_samples_of_a_prompt_stay_in_one_shard(case):
    run, shard_of = driven(case), {}
    for table, _, _ in run.tables:
        width = len(table.active) // case.shards
        for s in np.flatnonzero(table.active):
            assert shard_of.setdefault(int(table.prompts[s]), s // width) == s // width
    assert set(shard_of.values()) == set(range(case.shards))


@every_case
def test_the_same_outcomes_lead_to_the_same_decisions(case):
    one, two = driven(case), Driver(case)
    assert one.copies == two.copies
    for name in ("batches", "tables"):
        logs = [[entry[0].__dict__ for entry in getattr(run, name)] for run in (one, two)]
        np.testing.assert_equal(*logs)
    names = [[r.request.key for r in run.rollouts] for run in (one, two)]
    assert names[0] == names[1]


# ---- Each prompt once.


@every_case
def test_every_prompt_is_prefilled_once_in_order(case):
    run = driven(case)
    done = {name: 0 for name in run.prompts}
    for batch, finished in run.batches:
        assert batch.tokens.shape == (*batch.rows.shape, batch.width)
        assert batch.width <= case.longest_chunk
        assert batch.completes_prompt == (finished > 0)
        for d, r in np.argwhere(batch.lengths > 0):
            start, length = batch.starts[d, r], batch.lengths[d, r]
            name = f"p{prompt_of(batch.tokens[d, r, 0])}"
            assert start == done[name] == batch.prefix and 0 < length <= batch.width
            chunk = run.prompts[name][start : start + length]
            np.testing.assert_array_equal(batch.tokens[d, r, :length], chunk)
            done[name] += length
    assert done == {name: len(tokens) for name, tokens in run.prompts.items()}
    prefilled = sum(int(batch.lengths.sum()) for batch, _ in run.batches)
    assert prefilled == sum(map(len, run.prompts.values()))
    if case.longest_chunk < case.longest_prompt:
        assert any(batch.prefix for batch, _ in run.batches)
        assert not all(batch.completes_prompt for batch, _ in run.batches)


@every_case
def test_rows_beyond_the_batch_are_empty(case):
    run, beyond = driven(case), 0
    slots = case.slots // case.shards
    for batch, _ in run.batches:
        real = batch.lengths > 0
        assert real.sum() == batch.prompts > 0
        assert not batch.tokens[~real].any() and not batch.starts[~real].any()
        assert (batch.rows < slots).all()
        for rows, here in zip(batch.rows, real, strict=True):
            assert len(set(rows[here])) == sum(here)
        assert not batch.tokens[np.arange(batch.width) >= batch.lengths[..., None]].any()
        most = max(1, min(slots, case.prefill_tokens // batch.width))
        assert batch.rows.shape[1] in (most, min(run.few, most))  # two buckets for each width
        beyond += (~real).sum()
    assert beyond or case.shards == 1  # the shards do not always have the same work


@every_case
def test_copies_come_from_a_slot_that_holds_the_prompt_and_go_to_a_free_one(case):
    run, width = driven(case), case.slots // case.shards
    for copy in run.copies:
        prompt = tuple(run.prompts[f"p{copy.prompt}"])
        assert copy.held[: len(prompt)] == prompt
        assert copy.free and copy.source != copy.target
        assert copy.source // width == copy.target // width
    assert bool(run.copies) == (case.samples > 1 and case.slots > 1)
    assert len(run.copies) <= len(run.requests) - case.prompts


def test_a_slot_that_holds_the_prompt_takes_its_next_sample_without_a_copy():
    run = driven(Case(4, prompts=1, samples=32))
    assert len(run.copies) == 3 and len(run.rollouts) == 32


# ---- Few idle slots.


@pytest.mark.parametrize(
    "case", [Case(64, samples=4, steps=3), Case(32, shards=2, samples=2, steps=8, seed=4)], ids=str
)
def test_narrowing_changes_no_rollout_and_moves_every_active_slot(case):
    widths = [case.slots // 4, case.slots // 16 // case.shards * case.shards]
    run, whole = driven(case, tuple(widths)), driven(case)
    for before, after, from_slot, old in run.moves:
        used = np.flatnonzero(after.active)
        assert len(from_slot) == len(after.active) < len(before.active)
        assert sorted(from_slot[used]) == list(np.flatnonzero(before.active))
        shard = np.arange(len(from_slot)) // (len(from_slot) // case.shards)
        np.testing.assert_array_equal(from_slot // old, shard)
        for name in before.__dict__:
            moved = getattr(before, name)[from_slot[used]]
            np.testing.assert_array_equal(getattr(after, name)[used], moved)
    assert {len(after.active) for _, after, _, _ in run.moves} == set(widths)

    drawn, expected = (
        {(prompt_of(r.tokens[0]), r.request.sample_id): r.tokens for r in x.rollouts}
        for x in (run, whole)
    )
    assert drawn.keys() == expected.keys() and len(drawn) == len(run.requests)
    for name, tokens in drawn.items():
        np.testing.assert_array_equal(tokens, expected[name])
    assert run.slot_steps < whole.slot_steps


LONG_TAIL = dict(longest_prompt=200, limit=256, mean=64.0, longest_chunk=256, prefill_tokens=4096)


@pytest.mark.parametrize("prompts, samples", [(1024, 1), (128, 8)])
def test_slots_draw_nine_tenths_of_the_time(prompts, samples):
    """1,024 geometric response lengths of mean 64, cut at 256, on 64 slots."""
    run = driven(Case(64, prompts=prompts, samples=samples, **LONG_TAIL), (16, 4))
    lengths = [len(r.tokens) for r in run.rollouts]
    utilisation = run.tokens / run.slot_steps
    print(f"utilisation {utilisation:.3f}, mean length {np.mean(lengths):.1f}, {run.steps} steps")
    assert len(lengths) == 1024 and max(lengths) == 256 and run.tokens == sum(lengths)
    assert utilisation > 0.9
