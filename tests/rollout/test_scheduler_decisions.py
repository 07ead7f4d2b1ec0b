"""Single decisions of the scheduler: what is prefilled first, slot tables, narrower caches."""

import numpy as np
import pytest
from scheduler_cases import outcome, prompt_of, requests_of

from gopd_jax.rollout.sampling import prompt_number
from gopd_jax.rollout.scheduler import Scheduler, chunk_width


@pytest.mark.parametrize(
    "longest, widths",
    [
        (100, {1: 16, 16: 16, 17: 32, 33: 48, 49: 64, 65: 80, 81: 96, 97: 100, 100: 100}),
        (6, {1: 6, 6: 6}),
        (4096, {128: 128, 129: 160, 161: 192, 257: 320, 513: 640, 950: 1024, 2049: 2560}),
    ],
)
def test_chunk_widths_cut_each_octave_into_four(longest, widths):
    assert {tokens: chunk_width(tokens, longest) for tokens in widths} == widths


def test_new_prompts_are_spread_over_the_shards():
    scheduler = Scheduler(requests_of([5] * 4), 8, 4, 16)
    assert scheduler.place() == []
    batch = scheduler.prefill_batch(1, 64)
    np.testing.assert_array_equal(batch.rows[:, 0], [0] * 4)
    if batch.rows.shape[1] == 2:
        np.testing.assert_array_equal(batch.rows[:, 1], [2] * 4)
    np.testing.assert_array_equal(scheduler.table().active, [True, False] * 4)
    assert (scheduler.active, scheduler.busiest_shard(), scheduler.pending) == (4, 1, False)


def test_prompts_of_one_width_are_prefilled_together():
    scheduler = Scheduler(requests_of([40, 3, 33, 16, 17]), 5, 1, 64)
    scheduler.place()
    prompts = []
    while scheduler.prefilling:
        batch = scheduler.prefill_batch(5, 1000)
        first_tokens = batch.tokens[0, : batch.prompts, 0]
        prompts.append((batch.width, [prompt_of(t) for t in first_tokens]))
    assert prompts == [(16, [1, 3]), (32, [4]), (48, [0, 2])]


def test_chunks_that_complete_a_prompt_come_first():
    scheduler = Scheduler(requests_of([40, 10]), 2, 1, 16)
    scheduler.place()
    seen = []
    while scheduler.prefilling:
        batch = scheduler.prefill_batch(1, 16)
        prompt, length = prompt_of(batch.tokens[0, 0, 0]), int(batch.lengths[0, 0])
        seen.append((prompt, batch.prefix, length, batch.completes_prompt))
    assert seen == [(1, 0, 10, True), (0, 0, 16, False), (0, 16, 16, False), (0, 32, 8, True)]


@pytest.mark.parametrize("prompts, rows", [(1, 2), (4, 2), (7, 2), (8, 8), (9, 8)])
def test_a_batch_is_large_if_all_of_it_is_used(prompts, rows):
    scheduler = Scheduler(requests_of([16] * prompts), 32, 1, 16)
    scheduler.place()
    batch = scheduler.prefill_batch(2, 128)
    assert batch.rows.shape == (1, rows) and batch.prompts == min(prompts, rows)


def test_wide_chunks_of_a_small_batch_are_prefilled_one_by_one():
    scheduler = Scheduler(requests_of([300] * 3), 32, 1, 1024)
    scheduler.place()
    batch = scheduler.prefill_batch(2, 4096)
    assert batch.tokens.shape == (1, 1, 320) and batch.prompts == 1


def test_little_is_padded_when_long_prompts_are_prefilled():
    lengths = np.random.default_rng(0).integers(250, 951, 24)
    scheduler = Scheduler(requests_of([int(n) for n in lengths]), 32, 1, 950)
    scheduler.place()
    run = 0
    while scheduler.prefilling:
        run += scheduler.prefill_batch(2, 4096).tokens.size
    assert lengths.sum() < run <= 1.15 * lengths.sum()


def test_the_table_holds_active_slots_and_zeros_for_idle_ones():
    scheduler = Scheduler(requests_of([3, 7], samples=2, limit=5), 6, 2, 16)
    table = scheduler.table()
    dtypes = ("int32",) * 4 + ("uint32",) * 2 + ("bool",)
    for name, dtype in zip(table.__dict__, dtypes, strict=True):
        column = getattr(table, name)
        assert column.shape == (6,) and column.dtype == dtype and not column.any(), name

    scheduler.place()
    while scheduler.prefilling:
        scheduler.prefill_batch(1, 64)
    assert scheduler.place() == [(0, 1), (3, 4)]
    p0, p1 = prompt_number("p0"), prompt_number("p1")
    table = scheduler.table()
    np.testing.assert_array_equal(table.active, [True, True, False] * 2)
    np.testing.assert_array_equal(table.lengths, [2, 2, 0, 6, 6, 0])
    np.testing.assert_array_equal(table.tokens, [3, 3, 0, 1_000_007, 1_000_007, 0])
    np.testing.assert_array_equal(table.drawn, [0] * 6)
    np.testing.assert_array_equal(table.limits, [5, 5, 0] * 2)
    np.testing.assert_array_equal(table.prompts, [p0, p0, 0, p1, p1, 0])
    np.testing.assert_array_equal(table.samples, [0, 1, 0] * 2)

    (rollout,) = scheduler.record(
        outcome([4, 2, 0, 1, 4, 0], [True, False, False, True, True, False])
    )
    assert rollout.request.key == ("p0", 1)
    np.testing.assert_array_equal(rollout.tokens, [510, 511])
    table = scheduler.table()
    np.testing.assert_array_equal(table.active, [True, False, False, True, True, False])
    np.testing.assert_array_equal(table.lengths, [6, 0, 0, 7, 10, 0])
    np.testing.assert_array_equal(table.tokens, [503, 0, 0, 530, 543, 0])
    np.testing.assert_array_equal(table.drawn, [4, 0, 0, 1, 4, 0])
    np.testing.assert_array_equal(table.limits, [5, 0, 0, 5, 5, 0])
    np.testing.assert_array_equal(table.samples, [0, 0, 0, 0, 1, 0])
    assert (scheduler.active, scheduler.busiest_shard(), scheduler.longest()) == (3, 2, 10)


def test_shrinking_keeps_the_active_slots_of_each_shard():
    scheduler = Scheduler(requests_of([4] * 16), 16, 2, 16)
    scheduler.place()
    while scheduler.prefilling:
        scheduler.prefill_batch(8, 1000)
    stays = np.isin(np.arange(16), [2, 7, 13])
    assert len(list(scheduler.record(outcome([3] * 16, stays)))) == 13
    before = scheduler.table()
    rows = scheduler.shrink(4)
    assert rows.shape == (2, 2) and rows.dtype == np.int32
    assert list(rows[0]) == [2, 7] and rows[1, 0] == 13 - 8
    after = scheduler.table()
    for name in before.__dict__:
        old, new = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(new, [old[2], old[7], old[13], 0], err_msg=name)
    rollouts = list(scheduler.record(outcome([1] * 3 + [0], [False] * 4)))
    # What was drawn before the move is not lost.
    expected = [[*(500 + 10 * s + np.arange(3)), 500 + 10 * i] for i, s in enumerate((2, 7, 13))]
    np.testing.assert_array_equal([r.tokens for r in rollouts], expected)
    assert not scheduler.active and not scheduler.pending
