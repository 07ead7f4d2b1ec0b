"""Which slot does what next: plain numbers on the host, the same on every host, no clock and no chance in it.

In: requests. Out: prompt pieces to prefill, copies of prompts between slots, a table of the slots for each dispatch; then what
the dispatch drew. A prompt is prefilled once; its other samples start from a slot that holds it, without a copy when that slot
has become free itself.
"""

from collections import deque
from collections.abc import Iterator, Sequence
import dataclasses

import numpy as np

from gopd_jax.rollout.programs import Outcome, SlotTable
from gopd_jax.rollout.sampling import prompt_number
from gopd_jax.types import EncodedPrompt, Request, Rollout

SHORTEST = 16  # tokens of the smallest piece that is compiled for


@dataclasses.dataclass
class Group:
    """The samples of one prompt: requests not yet placed, and how much of the prompt is in the cache (in slot `home`)."""

    prompt: EncodedPrompt
    waiting: deque[Request]
    home: int = -1
    prefilled: int = 0

    @property
    def ready(self) -> bool:
        return self.prefilled == len(self.prompt.tokens)


@dataclasses.dataclass(frozen=True)
class PieceBatch:
    """Arguments of `programs.prefill`: tokens [D, r, T], starts, lengths, rows [D, r]; prompts is how many there are."""

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    prompts: int


def piece_width(tokens: int, longest: int) -> int:
    """The bucket of a piece: a power of two from 16, or the longest piece."""
    return min(longest, max(SHORTEST, 1 << (tokens - 1).bit_length()))


class Scheduler:
    """The state of all slots while one list of requests is drawn.

    Args:
        requests: samples of one prompt must share its `EncodedPrompt` tokens; their order among each other is kept.
        slots: how many; a multiple of `shards`, and slot s belongs to shard s // (slots / shards).
        longest_piece: tokens of a prompt that are prefilled at once.
    """

    def __init__(self, requests: Sequence[Request], slots: int, shards: int, longest_piece: int):
        self.slots, self.shards, self.longest_piece = slots, shards, longest_piece
        groups: dict[str, Group] = {}
        for r in requests:
            group = groups.setdefault(r.key.prompt_id, Group(r.prompt, deque()))
            group.waiting.append(r)
        by_bucket = sorted(
            groups.values(),
            key=lambda g: piece_width(min(len(g.prompt.tokens), longest_piece), longest_piece),
        )
        self._queue = deque(by_bucket)
        self._open: list[list[Group]] = [
            [] for _ in range(shards)
        ]  # prefilled or being so, with samples waiting
        self._prefilling: list[Group] = []
        self._clear(slots)

    def _clear(self, slots: int) -> None:
        self.slots = slots
        self._group: list[Group | None] = [None] * slots  # whose prompt the slot holds
        self._request: list[Request | None] = [None] * slots
        self._tokens: list[list[np.ndarray]] = [[] for _ in range(slots)]
        self._logprobs: list[list[np.ndarray]] = [[] for _ in range(slots)]
        self._drawn = np.zeros(slots, np.int32)
        self._next = np.zeros(slots, np.int32)

    # ---- What there is to do.

    @property
    def active(self) -> int:
        """Slots that draw."""
        return sum(r is not None for r in self._request)

    @property
    def pending(self) -> bool:
        """Whether there are samples that no slot draws yet."""
        return bool(self._queue or self._prefilling or any(self._open))

    @property
    def prefilling(self) -> bool:
        return bool(self._prefilling)

    def busiest_shard(self) -> int:
        """Active slots of the shard that has most."""
        width = self.slots // self.shards
        return max(
            sum(r is not None for r in self._request[d * width : (d + 1) * width])
            for d in range(self.shards)
        )

    def longest(self) -> int:
        """Columns that the longest active slot has in the cache."""
        return max(
            (self._length(s) for s in range(self.slots) if self._request[s] is not None), default=0
        )

    def _length(self, slot: int) -> int:
        return len(self._group[slot].prompt.tokens) - 1 + int(self._drawn[slot])

    # ---- Filling slots.

    def place(self) -> list[tuple[int, int]]:
        """Gives free slots something to do. Returns (source, target) slots of prompts to copy, before anything else is run.

        A slot that holds a prompt with samples waiting takes the next of them; other free slots take a sample of an open group
        of their shard, which is copied, or else start a new prompt.
        """
        free = [s for s in range(self.slots) if self._request[s] is None and not self._reserved(s)]
        for slot in list(free):
            group = self._group[slot]
            if group is not None and group.ready and group.waiting:
                self._start(slot, group)
                free.remove(slot)
        copies = []
        width = self.slots // self.shards
        for slot in sorted(
            free, key=lambda s: (s % width, s // width)
        ):  # new prompts are spread over the shards
            shard = slot // width
            group = next((g for g in self._open[shard] if g.ready), None)
            if group is not None:
                shard_slots = range(shard * width, (shard + 1) * width)
                copies.append((next(s for s in shard_slots if self._group[s] is group), slot))
                self._start(slot, group)
            elif self._queue:
                group = self._queue.popleft()
                group.home, self._group[slot] = slot, group
                self._open[shard].append(group)
                self._prefilling.append(group)
        return copies

    def _reserved(self, slot: int) -> bool:
        return any(g.home == slot for g in self._prefilling)

    def _start(self, slot: int, group: Group) -> None:
        self._group[slot], self._request[slot] = group, group.waiting.popleft()
        self._drawn[slot], self._next[slot] = 0, group.prompt.tokens[-1]
        self._tokens[slot], self._logprobs[slot] = [], []
        if not group.waiting:
            self._open[slot * self.shards // self.slots].remove(group)

    def pieces(self, few: int, tokens: int) -> tuple[PieceBatch, int, int, bool]:
        """The next pieces to prefill, all of one bucket: (batch, bucket width, tokens of their prefix, whether they leave all
        their prompts unfinished). Pieces that finish a prompt come first.

        Args:
            few, tokens: prompts of one batch for each shard: as many as `tokens` allow where more than half of them are there,
                otherwise `few`.
        """
        first = sorted(self._prefilling, key=lambda g: not self._last_piece(g))  # a stable sort
        bucket = self._bucket(first[0])
        width, prefix = bucket
        slots = self.slots // self.shards
        by_shard = [
            [g for g in first if self._bucket(g) == bucket and g.home // slots == d]
            for d in range(self.shards)
        ]
        most = max(1, min(slots, tokens // width))
        rows = most if 2 * max(map(len, by_shard)) > most else min(few, most)
        shape = (self.shards, rows)
        batch = PieceBatch(
            np.zeros((*shape, width), np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int32),
            sum(min(len(part), rows) for part in by_shard),
        )
        unfinished = True
        for d, groups in enumerate(by_shard):
            for i, g in enumerate(groups[:rows]):
                part = g.prompt.tokens[g.prefilled : g.prefilled + width]
                batch.tokens[d, i, : len(part)] = part
                batch.starts[d, i], batch.lengths[d, i], batch.rows[d, i] = (
                    g.prefilled,
                    len(part),
                    g.home % slots,
                )
                g.prefilled += len(part)
                if g.ready:
                    unfinished = False
                    self._prefilling.remove(g)
                    self._start(g.home, g)
        return batch, width, prefix, unfinished

    def prompt_length(self, slot: int) -> int:
        """Tokens of the prompt that a slot holds."""
        return len(self._group[slot].prompt.tokens)

    def _last_piece(self, group: Group) -> bool:
        return len(group.prompt.tokens) - group.prefilled <= self.longest_piece

    def _bucket(self, group: Group) -> tuple[int, int]:
        """Width of the group's next piece, and how much comes before it."""
        left = len(group.prompt.tokens) - group.prefilled
        return piece_width(min(left, self.longest_piece), self.longest_piece), group.prefilled

    # ---- Dispatches.

    def table(self) -> SlotTable:
        """The slots as the next dispatch needs them."""
        active = np.array([r is not None for r in self._request])
        used = np.flatnonzero(active)

        def column(value, dtype):
            out = np.zeros(self.slots, dtype)
            out[used] = [value(s) for s in used]
            return out

        return SlotTable(
            lengths=column(self._length, np.int32),
            tokens=np.where(active, self._next, 0).astype(np.int32),
            drawn=np.where(active, self._drawn, 0).astype(np.int32),
            limits=column(lambda s: self._request[s].max_tokens, np.int32),
            prompts=column(
                lambda s: prompt_number(self._request[s].prompt.source.prompt_id), np.uint32
            ),
            samples=column(lambda s: self._request[s].sample_id, np.uint32),
            active=active,
        )

    def record(self, outcome: Outcome) -> Iterator[Rollout]:
        """Takes in what a dispatch drew; yields the samples that it finished, in the order of their slots."""
        for slot in range(self.slots):
            if self._request[slot] is None:
                continue
            n = int(outcome.counts[slot])
            if n:
                self._tokens[slot].append(outcome.tokens[slot, :n])
                self._logprobs[slot].append(outcome.logprobs[slot, :n])
                self._drawn[slot] += n
                self._next[slot] = outcome.tokens[slot, n - 1]
            if not outcome.active[slot]:
                reason = "stop" if outcome.stopped[slot] else "length"
                tokens, logprobs = (
                    np.concatenate(self._tokens[slot]),
                    np.concatenate(self._logprobs[slot]),
                )
                request, self._request[slot] = self._request[slot], None
                yield Rollout(request, tokens, logprobs, reason)

    def shrink(self, slots: int) -> np.ndarray:
        """Keeps the active slots only, in fewer slots. Returns the slot, within its shard, that each new one comes from:
        int32 [D, slots / D]. Nothing may be pending, and no shard may have more active slots than there is room."""
        old, width, fewer = self.slots, self.slots // self.shards, slots // self.shards
        rows = np.zeros((self.shards, fewer), np.int32)
        kept: list[int | None] = []
        for d in range(self.shards):
            used = [s for s in range(d * width, (d + 1) * width) if self._request[s] is not None]
            rows[d, : len(used)] = [s % width for s in used]
            kept += used + [None] * (fewer - len(used))
        before = self._group, self._request, self._tokens, self._logprobs, self._drawn, self._next
        assert len(kept) == slots <= old
        self._clear(slots)
        for new, s in enumerate(kept):
            if s is not None:
                self._group[new], self._request[new] = before[0][s], before[1][s]
                self._tokens[new], self._logprobs[new] = before[2][s], before[3][s]
                self._drawn[new], self._next[new] = before[4][s], before[5][s]
        return rows
