"""The scheduler against a made-up device: each sample once, each prompt once, slots that are seldom idle."""

import dataclasses
import functools

import numpy as np
import pytest

from gopd_jax.rollout.programs import Outcome
from gopd_jax.rollout.sampling import prompt_number
from gopd_jax.rollout.scheduler import Scheduler, piece_width
from gopd_jax.types import EncodedPrompt, Prompt, Request

GARBAGE = -7


@dataclasses.dataclass(frozen=True)
class Case:
    slots: int
    shards: int = 1
    steps: int = 16
    prompts: int = 24
    samples: int = 1
    longest_piece: int = 64
    prefill_tokens: int = 128
    longest_prompt: int = 40
    limit: int = 30
    mean: float = 8.0
    seed: int = 0


CASES = [
    Case(1, steps=1, prompts=5, samples=2),
    Case(4, steps=3, samples=8),  # more samples than slots
    Case(8, steps=4, prompts=3, samples=8),
    Case(8, shards=4, steps=5, samples=8, seed=1),  # more samples than slots of a shard
    Case(12, shards=2, steps=16, samples=3, longest_piece=6, prefill_tokens=12, seed=2),
    Case(16, shards=4, steps=7, samples=5, longest_piece=17, prefill_tokens=1000, seed=3),
    Case(64, prompts=9, samples=4),  # more slots than requests
]


def make_case(case):
    """Requests in a random order, and the whole response of each. Every token tells its prompt, sample and position."""
    rng = np.random.default_rng(case.seed)
    requests, responses = [], {}
    for p in range(case.prompts):
        tokens = (
            1_000_000 * p + 1 + np.arange(rng.integers(1, case.longest_prompt + 1), dtype=np.int32)
        )
        prompt = EncodedPrompt(
            Prompt(f"p{p}", ({"role": "user", "content": "?"},), "math", ""),
            tokens.astype(np.int32),
        )
        for s in range(case.samples):
            limit = (
                int(rng.integers(case.limit // 2, case.limit + 1))
                if case.limit < 100
                else case.limit
            )
            length = min(
                int(rng.geometric(1 / case.mean)), limit + 1
            )  # one more than the limit: no stop token
            requests.append(Request(prompt, s, limit))
            responses[p, s] = 1_000_000 * p + 1_000 * (s + 1) + np.arange(length, dtype=np.int32)
    return [requests[i] for i in rng.permutation(len(requests))], responses


class Driver:
    """The rules of the engine with a fake device: a list of tokens for each slot in place of a cache, and a log."""

    def __init__(self, case, widths=()):
        self.case, self.widths = case, [case.slots, *widths]
        self.requests, self.responses = make_case(case)
        self.prompts = {r.key.prompt_id: r.prompt.tokens for r in self.requests}
        self.by_number = {prompt_number(name): int(name[1:]) for name in self.prompts}
        self.scheduler = Scheduler(self.requests, case.slots, case.shards, case.longest_piece)
        self.cache = [[] for _ in range(case.slots)]
        self.copies, self.pieces, self.tables, self.moves, self.rollouts = [], [], [], [], []
        self.steps = self.slot_steps = self.tokens = 0
        self.unfinished = set()  # slots that hold a part of a prompt
        for _ in range(10_000):
            if not (self.scheduler.pending or self.scheduler.active):
                return
            self.fill()
            self.narrow()
            self.decode()
        raise AssertionError("it goes on for ever")

    def fill(self):
        case, scheduler = self.case, self.scheduler
        few = max(1, scheduler.slots // case.shards // 16)
        while True:
            before = scheduler.table().active
            copies, after = scheduler.place(), scheduler.table()
            assert len({target for _, target in copies}) == len(copies)
            for source, target in copies:
                self.copies.append(
                    {
                        "source": source,
                        "target": target,
                        "free": not before[target] and target not in self.unfinished,
                        "held": tuple(self.cache[source]),
                        "prompt": self.by_number[int(after.prompts[target])],
                    }
                )
                self.cache[target] = list(self.cache[source])
            if not scheduler.prefilling:
                return
            batch, width, prefix, unfinished = scheduler.pieces(few, case.prefill_tokens)
            finished = self.prefill(batch)
            self.pieces.append((batch, width, prefix, unfinished, finished, few))
            if unfinished and scheduler.active:
                return

    def prefill(self, batch):
        """Writes a piece into the made-up cache; returns how many prompts it finished."""
        slots, finished = self.scheduler.slots // self.case.shards, 0
        for d, r in np.argwhere(batch.lengths > 0):
            slot, start, length = (
                d * slots + batch.rows[d, r],
                batch.starts[d, r],
                batch.lengths[d, r],
            )
            self.cache[slot] = [*self.cache[slot][:start], *map(int, batch.tokens[d, r, :length])]
            whole = len(self.cache[slot]) == len(
                self.prompts[f"p{self.cache[slot][0] // 1_000_000}"]
            )
            (self.unfinished.discard if whole else self.unfinished.add)(slot)
            finished += whole
        return finished

    def narrow(self):
        scheduler, shards = self.scheduler, self.case.shards
        if scheduler.pending:
            return
        width = min(w for w in self.widths if w >= scheduler.busiest_shard() * shards)
        if width >= scheduler.slots:
            return
        old, before = scheduler.slots // shards, scheduler.table()
        rows = scheduler.shrink(width)
        from_slot = (rows + old * np.arange(shards)[:, None]).ravel()
        self.moves.append((before, scheduler.table(), from_slot, old))
        self.cache = [list(self.cache[s]) for s in from_slot]

    def decode(self):
        scheduler, K = self.scheduler, self.case.steps
        active, table = scheduler.active, scheduler.table()
        if scheduler.pending:
            exit_at = active - max(1, scheduler.slots // 16)
        else:
            exit_at = max((w for w in self.widths if w < active), default=0)
            if scheduler.busiest_shard() * self.case.shards > active:
                exit_at = min(exit_at, active - 1)
        held = [tuple(self.cache[s][: table.lengths[s]]) for s in range(scheduler.slots)]
        self.tables.append((table, held, set(self.unfinished)))
        outcome = self.device(table, K, max(0, exit_at))
        self.steps += outcome.steps
        self.slot_steps += outcome.steps * scheduler.slots
        self.tokens += int(outcome.counts.sum())
        self.rollouts += scheduler.record(outcome)

    def device(self, table, K, exit_at):
        B = len(table.active)
        tokens, counts, active = (
            np.full((B, K), GARBAGE, np.int32),
            np.zeros(B, np.int32),
            table.active.copy(),
        )
        stopped, steps = np.zeros(B, bool), 0
        while steps < K and active.sum() > exit_at:
            for s in np.flatnonzero(active):
                response = self.responses[
                    self.by_number[int(table.prompts[s])], int(table.samples[s])
                ]
                drawn = table.drawn[s] + steps
                tokens[s, steps] = response[drawn]
                counts[s] += 1
                stopped[s] = drawn + 1 == len(response) <= table.limits[s]
                active[s] = not stopped[s] and drawn + 1 < table.limits[s]
            steps += 1
        for s in np.flatnonzero(
            table.active
        ):  # a slot that has finished is written to till the end
            fed = [int(table.tokens[s]), *map(int, tokens[s])]
            self.cache[s] = [*self.cache[s][: table.lengths[s]], *fed[:steps]]
        return Outcome(tokens, tokens.astype(np.float32), counts, active, stopped, steps)


@functools.cache
def driven(case, widths=()):
    return Driver(case, widths)


def prompt_of(token):
    return int(token) // 1_000_000


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
def test_every_slot_goes_on_where_its_cache_ends(case):
    """Columns of the slot and the token to feed are a beginning of prompt + response: nothing is left out, nothing twice."""
    run, dispatches = driven(case), 0
    for table, held, unfinished in run.tables:
        assert not unfinished & set(np.flatnonzero(table.active))
        for s in np.flatnonzero(table.active):
            p = run.by_number[int(table.prompts[s])]
            whole = [*run.prompts[f"p{p}"], *run.responses[p, int(table.samples[s])]]
            np.testing.assert_array_equal(
                [*held[s], table.tokens[s]], whole[: table.lengths[s] + 1]
            )
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
    np.testing.assert_equal(
        [x[0].__dict__ for x in one.pieces], [x[0].__dict__ for x in two.pieces]
    )
    np.testing.assert_equal(
        [x[0].__dict__ for x in one.tables], [x[0].__dict__ for x in two.tables]
    )
    names = [[r.request.key for r in x.rollouts] for x in (one, two)]
    assert names[0] == names[1]


# ---- Each prompt once.


@every_case
def test_every_prompt_is_prefilled_once_in_order(case):
    run = driven(case)
    done = {name: 0 for name in run.prompts}
    for batch, width, prefix, unfinished, finished, _ in run.pieces:
        assert batch.tokens.shape == (*batch.rows.shape, width) and width <= case.longest_piece
        assert unfinished == (finished == 0)
        for d, r in np.argwhere(batch.lengths > 0):
            start, length = batch.starts[d, r], batch.lengths[d, r]
            name = f"p{prompt_of(batch.tokens[d, r, 0])}"
            assert start == done[name] == prefix and 0 < length <= width
            np.testing.assert_array_equal(
                batch.tokens[d, r, :length], run.prompts[name][start : start + length]
            )
            done[name] += length
    assert done == {name: len(tokens) for name, tokens in run.prompts.items()}
    assert sum(int(x[0].lengths.sum()) for x in run.pieces) == sum(map(len, run.prompts.values()))
    if case.longest_piece < case.longest_prompt:
        assert any(prefix for _, _, prefix, *_ in run.pieces) and any(
            unfinished for _, _, _, unfinished, *_ in run.pieces
        )


@every_case
def test_rows_beyond_the_batch_are_empty(case):
    beyond = 0
    for batch, width, _, _, _, few in driven(case).pieces:
        slots = case.slots // case.shards
        real = batch.lengths > 0
        assert real.sum() == batch.prompts > 0
        assert (
            not batch.tokens[~real].any()
            and not batch.starts[~real].any()
            and (batch.rows < slots).all()
        )
        assert all(
            len(set(rows[here])) == sum(here) for rows, here in zip(batch.rows, real, strict=True)
        )
        assert not batch.tokens[np.arange(width) >= batch.lengths[..., None]].any()
        most = max(1, min(slots, case.prefill_tokens // width))
        assert batch.rows.shape[1] in (most, min(few, most))  # two buckets for each width
        beyond += (~real).sum()
    assert beyond or case.shards == 1  # shards have not always the same to do


@every_case
def test_copies_come_from_a_slot_that_holds_the_prompt_and_go_to_a_free_one(case):
    run, width = driven(case), case.slots // case.shards
    for copy in run.copies:
        prompt = tuple(run.prompts[f"p{copy['prompt']}"])
        assert copy["held"][: len(prompt)] == prompt
        assert copy["free"] and copy["source"] != copy["target"]
        assert copy["source"] // width == copy["target"] // width
    assert bool(run.copies) == (case.samples > 1 and case.slots > 1)
    assert len(run.copies) <= len(run.requests) - case.prompts


def test_a_slot_that_holds_the_prompt_takes_its_next_sample_without_a_copy():
    run = driven(Case(4, prompts=1, samples=32))
    assert len(run.copies) == 3 and len(run.rollouts) == 32


# ---- What comes first.


def requests_of(lengths, samples=1, limit=9):
    requests = []
    for p, length in enumerate(lengths):
        tokens = (1_000_000 * p + 1 + np.arange(length)).astype(np.int32)
        prompt = EncodedPrompt(
            Prompt(f"p{p}", ({"role": "user", "content": "?"},), "math", ""), tokens
        )
        requests += [Request(prompt, s, limit) for s in range(samples)]
    return requests


def test_pieces_are_powers_of_two_from_sixteen_or_the_longest():
    assert [piece_width(n, 100) for n in (1, 16, 17, 32, 33, 64, 65, 100)] == [
        16,
        16,
        32,
        32,
        64,
        64,
        100,
        100,
    ]
    assert [piece_width(n, 6) for n in (1, 6)] == [6, 6]


def test_new_prompts_are_spread_over_the_shards():
    scheduler = Scheduler(requests_of([5] * 4), 8, 4, 16)
    assert scheduler.place() == []
    batch, *_ = scheduler.pieces(1, 64)
    np.testing.assert_array_equal(
        batch.rows, [[0, 2]] * 4 if batch.rows.shape[1] == 2 else [[0]] * 4
    )
    np.testing.assert_array_equal(scheduler.table().active, [True, False] * 4)
    assert (scheduler.active, scheduler.busiest_shard(), scheduler.pending) == (4, 1, False)


def test_prompts_of_one_width_are_prefilled_together():
    scheduler = Scheduler(requests_of([40, 3, 33, 16, 17]), 5, 1, 64)
    scheduler.place()
    prompts = []
    while scheduler.prefilling:
        batch, width, *_ = scheduler.pieces(5, 1000)
        prompts.append((width, [prompt_of(t) for t in batch.tokens[0, : batch.prompts, 0]]))
    assert prompts == [(16, [1, 3]), (32, [4]), (64, [0, 2])]


def test_pieces_that_finish_a_prompt_come_first():
    scheduler = Scheduler(requests_of([40, 10]), 2, 1, 16)
    scheduler.place()
    seen = []
    while scheduler.prefilling:
        batch, width, prefix, unfinished = scheduler.pieces(1, 16)
        seen.append(
            (prompt_of(batch.tokens[0, 0, 0]), prefix, int(batch.lengths[0, 0]), unfinished)
        )
    assert seen == [(1, 0, 10, False), (0, 0, 16, True), (0, 16, 16, True), (0, 32, 8, False)]


@pytest.mark.parametrize("there, rows", [(1, 2), (4, 2), (5, 8), (8, 8), (9, 8)])
def test_a_batch_is_large_where_more_than_half_of_it_is_there(there, rows):
    scheduler = Scheduler(requests_of([16] * there), 32, 1, 16)
    scheduler.place()
    batch, *_ = scheduler.pieces(2, 128)
    assert batch.rows.shape == (1, rows) and batch.prompts == min(there, rows)


# ---- Tables and narrower caches.


def outcome(counts, active, stopped=None, K=4):
    counts, active = np.array(counts, np.int32), np.array(active)
    tokens = np.where(
        np.arange(K) < counts[:, None],
        500 + np.arange(K) + 10 * np.arange(len(counts))[:, None],
        GARBAGE,
    )
    stopped = np.zeros(len(counts), bool) if stopped is None else np.array(stopped)
    return Outcome(
        tokens.astype(np.int32), np.zeros(tokens.shape, np.float32), counts, active, stopped, K
    )


def test_the_table_holds_active_slots_and_zeros_for_idle_ones():
    scheduler = Scheduler(requests_of([3, 7], samples=2, limit=5), 6, 2, 16)
    table = scheduler.table()
    for name, dtype in zip(
        table.__dict__, ("int32",) * 4 + ("uint32",) * 2 + ("bool",), strict=True
    ):
        column = getattr(table, name)
        assert column.shape == (6,) and column.dtype == dtype and not column.any(), name

    scheduler.place()
    while scheduler.prefilling:
        scheduler.pieces(1, 64)
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
        scheduler.pieces(8, 1000)
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


@pytest.mark.parametrize(
    "case", [Case(64, samples=4, steps=3), Case(32, shards=2, samples=2, steps=8, seed=4)], ids=str
)
def test_narrowing_changes_no_rollout_and_moves_every_active_slot(case):
    widths = [case.slots // 4, case.slots // 16 // case.shards * case.shards]
    run = driven(case, tuple(widths))
    for before, after, from_slot, old in run.moves:
        used = np.flatnonzero(after.active)
        assert len(from_slot) == len(after.active) < len(before.active)
        assert sorted(from_slot[used]) == list(np.flatnonzero(before.active))
        np.testing.assert_array_equal(
            from_slot // old, np.arange(len(from_slot)) // (len(from_slot) // case.shards)
        )
        for name in before.__dict__:
            np.testing.assert_array_equal(
                getattr(after, name)[used], getattr(before, name)[from_slot[used]]
            )
    assert {len(after.active) for _, after, _, _ in run.moves} == set(widths)
    whole = driven(case)
    drawn = [
        {(prompt_of(r.tokens[0]), r.request.sample_id): r for r in x.rollouts} for x in (run, whole)
    ]
    assert drawn[0].keys() == drawn[1].keys() and len(drawn[0]) == len(run.requests)
    for name, rollout in drawn[0].items():
        np.testing.assert_array_equal(rollout.tokens, drawn[1][name].tokens)
    assert run.slot_steps < whole.slot_steps


LONG_TAIL = dict(longest_prompt=200, limit=256, mean=64.0, longest_piece=256, prefill_tokens=4096)


@pytest.mark.parametrize("prompts, samples", [(1024, 1), (128, 8)])
def test_slots_draw_nine_tenths_of_the_time(prompts, samples):
    """1,024 geometric response lengths of mean 64, cut at 256, on 64 slots."""
    run = driven(Case(64, prompts=prompts, samples=samples, **LONG_TAIL), (16, 4))
    lengths = [len(r.tokens) for r in run.rollouts]
    utilisation = run.tokens / run.slot_steps
    print(
        f"utilisation {utilisation:.3f}, mean {np.mean(lengths):.1f}, longest {max(lengths)}, {run.steps} steps"
    )
    assert len(lengths) == 1024 and max(lengths) == 256 and run.tokens == sum(lengths)
    assert utilisation > 0.9
