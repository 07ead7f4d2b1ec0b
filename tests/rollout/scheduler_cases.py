"""The scheduler with a fake device: a list of tokens per slot instead of a cache, and a log."""

import dataclasses
import functools

import numpy as np

from gopd_jax.rollout.device_programs import Outcome
from gopd_jax.rollout.sampling import prompt_number
from gopd_jax.rollout.scheduler import Scheduler
from gopd_jax.types import EncodedPrompt, Prompt, Request

GARBAGE = -7  # tokens of an outcome beyond its counts
PROMPT_STRIDE = 1_000_000  # tokens of prompt p are at least p times this


@dataclasses.dataclass(frozen=True)
class Case:
    """Requests of random lengths, and the settings of an engine that draws them."""

    slots: int
    shards: int = 1
    steps: int = 16
    prompts: int = 24
    samples: int = 1
    longest_chunk: int = 64
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
    Case(12, shards=2, steps=16, samples=3, longest_chunk=6, prefill_tokens=12, seed=2),
    Case(16, shards=4, steps=7, samples=5, longest_chunk=17, prefill_tokens=1000, seed=3),
    Case(64, prompts=9, samples=4),  # more slots than requests
]


def prompt_of(token):
    """The number of the prompt that a token belongs to."""
    return int(token) // PROMPT_STRIDE


def encoded_prompt(p, length):
    tokens = (PROMPT_STRIDE * p + 1 + np.arange(length)).astype(np.int32)
    source = Prompt(f"p{p}", ({"role": "user", "content": "?"},), "math", "")
    return EncodedPrompt(source, tokens)


def make_case(case):
    """Requests in a random order, and the whole response to each, by (prompt, sample).

    Every token tells its prompt, sample and position.
    """
    rng = np.random.default_rng(case.seed)
    requests, responses = [], {}
    for p in range(case.prompts):
        prompt = encoded_prompt(p, rng.integers(1, case.longest_prompt + 1))
        for s in range(case.samples):
            limit = case.limit
            if limit < 100:
                limit = int(rng.integers(limit // 2, limit + 1))
            # A response of one token more than the limit has no stop token within it.
            length = min(int(rng.geometric(1 / case.mean)), limit + 1)
            requests.append(Request(prompt, s, limit))
            first = PROMPT_STRIDE * p + 1_000 * (s + 1)
            responses[p, s] = first + np.arange(length, dtype=np.int32)
    return [requests[i] for i in rng.permutation(len(requests))], responses


@dataclasses.dataclass(frozen=True)
class Copy:
    """A copy of a prompt. free: the target was idle and complete. held: the source's cache."""

    source: int
    target: int
    free: bool
    held: tuple[int, ...]
    prompt: int


class Driver:
    """Draws a case by the rules of the engine, and keeps a log of all decisions."""

    def __init__(self, case, widths=()):
        self.case, self.widths = case, [case.slots, *widths]
        self.requests, self.responses = make_case(case)
        self.prompts = {r.key.prompt_id: r.prompt.tokens for r in self.requests}
        self.by_number = {prompt_number(name): int(name[1:]) for name in self.prompts}
        self.scheduler = Scheduler(self.requests, case.slots, case.shards, case.longest_chunk)
        self.few = max(1, case.slots // case.shards // 16)
        self.cache = [[] for _ in range(case.slots)]
        self.copies, self.batches, self.tables, self.moves, self.rollouts = [], [], [], [], []
        self.steps = self.slot_steps = self.tokens = 0
        self.unfinished = set()  # slots that hold a part of a prompt
        for _ in range(10_000):
            if not (self.scheduler.pending or self.scheduler.active):
                return
            self.fill()
            self.narrow()
            self.decode()
        raise AssertionError("the scheduler does not come to an end")

    def fill(self):
        scheduler = self.scheduler
        while True:
            self.place()
            if not scheduler.prefilling:
                return
            batch = scheduler.prefill_batch(self.few, self.case.prefill_tokens)
            finished = self.prefill(batch)
            self.batches.append((batch, finished))
            if scheduler.active and not batch.completes_prompt:
                return

    def place(self):
        before = self.scheduler.table().active
        copies, after = self.scheduler.place(), self.scheduler.table()
        assert len({target for _, target in copies}) == len(copies)
        for source, target in copies:
            free = not before[target] and target not in self.unfinished
            prompt = self.by_number[int(after.prompts[target])]
            self.copies.append(Copy(source, target, free, tuple(self.cache[source]), prompt))
            self.cache[target] = list(self.cache[source])

    def prefill(self, batch):
        """Writes the chunks into the fake cache; returns the number of prompts it finished."""
        slots, finished = self.scheduler.slots // self.case.shards, 0
        for d, r in np.argwhere(batch.lengths > 0):
            slot = d * slots + batch.rows[d, r]
            start, length = batch.starts[d, r], batch.lengths[d, r]
            self.cache[slot] = [*self.cache[slot][:start], *map(int, batch.tokens[d, r, :length])]
            prompt = self.prompts[f"p{prompt_of(self.cache[slot][0])}"]
            whole = len(self.cache[slot]) == len(prompt)
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
        scheduler = self.scheduler
        active, table = scheduler.active, scheduler.table()
        if scheduler.pending:
            exit_at = active - max(1, scheduler.slots // 16)
        else:
            exit_at = max((w for w in self.widths if w < active), default=0)
            if scheduler.busiest_shard() * self.case.shards > active:
                exit_at = min(exit_at, active - 1)
        held = [tuple(self.cache[s][: table.lengths[s]]) for s in range(scheduler.slots)]
        self.tables.append((table, held, set(self.unfinished)))
        outcome = self.device(table, max(0, exit_at))
        self.steps += outcome.steps
        self.slot_steps += outcome.steps * scheduler.slots
        self.tokens += int(outcome.counts.sum())
        self.rollouts += scheduler.record(outcome)

    def device(self, table, exit_at):
        """What the decode program would return for the responses of the case."""
        B, K = len(table.active), self.case.steps
        tokens, counts = np.full((B, K), GARBAGE, np.int32), np.zeros(B, np.int32)
        active, stopped, steps = table.active.copy(), np.zeros(B, bool), 0
        while steps < K and active.sum() > exit_at:
            for s in np.flatnonzero(active):
                prompt = self.by_number[int(table.prompts[s])]
                response = self.responses[prompt, int(table.samples[s])]
                drawn = table.drawn[s] + steps
                tokens[s, steps] = response[drawn]
                counts[s] += 1
                stopped[s] = drawn + 1 == len(response) <= table.limits[s]
                active[s] = not stopped[s] and drawn + 1 < table.limits[s]
            steps += 1
        # A slot that has finished is written to until the dispatch ends.
        for s in np.flatnonzero(table.active):
            fed = [int(table.tokens[s]), *map(int, tokens[s])]
            self.cache[s] = [*self.cache[s][: table.lengths[s]], *fed[:steps]]
        return Outcome(tokens, tokens.astype(np.float32), counts, active, stopped, steps)


@functools.cache
def driven(case, widths=()):
    return Driver(case, widths)


def requests_of(lengths, samples=1, limit=9):
    """Requests for prompts of the given lengths, in order."""
    prompts = [encoded_prompt(p, length) for p, length in enumerate(lengths)]
    return [Request(prompt, s, limit) for prompt in prompts for s in range(samples)]


def outcome(counts, active, stopped=None, K=4):
    """An outcome in which slot s draws the tokens 500 + 10 s, 500 + 10 s + 1, ..."""
    counts, active = np.array(counts, np.int32), np.array(active)
    column, slot = np.arange(K), np.arange(len(counts))[:, None]
    tokens = np.where(column < counts[:, None], 500 + column + 10 * slot, GARBAGE)
    logprobs = np.zeros(tokens.shape, np.float32)
    stopped = np.zeros(len(counts), bool) if stopped is None else np.array(stopped)
    return Outcome(tokens.astype(np.int32), logprobs, counts, active, stopped, K)
