"""The scheduler decides which slot does what next.

In: requests. Out: batches of prompt chunks to prefill, copies of prompts from slot to slot, and a
table of the slots for each dispatch; it then takes in what the dispatch drew and returns finished
rollouts. A prompt is prefilled once; its other samples start from a slot that holds the prompt,
without a copy when that slot itself has become free.

Works on plain numbers on the host and uses neither clock nor randomness, so that every host takes
the same decisions. Does not touch the device.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import dataclasses

import numpy as np

from gopd_jax.rollout.device_programs import Outcome, SlotTable
from gopd_jax.rollout.sampling import prompt_number
from gopd_jax.runtime.errors import NonFiniteError
from gopd_jax.types import EncodedPrompt, Request, Rollout

MIN_CHUNK_WIDTH = 16  # tokens of the narrowest prefill program, and of the finest step of widths
SMALL_BATCH = 512  # tokens of a small batch, at most; wider chunks are prefilled one by one


@dataclasses.dataclass
class Group:
    """The samples of one prompt.

    number: keys the samples of the prompt; see `sampling.prompt_number`.
    waiting: requests that no slot draws yet.
    home: the slot that the prompt is prefilled in; -1 while it has none.
    prefilled: number of prompt tokens in the cache of that slot.
    """

    prompt: EncodedPrompt
    number: int
    waiting: deque[Request]
    home: int = -1
    prefilled: int = 0

    @property
    def ready(self) -> bool:
        return self.prefilled == len(self.prompt.tokens)


@dataclasses.dataclass
class Slot:
    """What a slot holds and draws.

    group: the samples of the prompt that the slot's cache holds; None if it holds none.
    request: the sample that the slot draws; None if the slot is idle.
    next_token: the token to feed next.
    drawn: number of response tokens drawn so far.
    tokens, logprobs: these tokens and their log-probs, one array for each dispatch.
    sums: what the dispatches have measured of a mixture, see `Outcome`.
    """

    group: Group | None = None
    request: Request | None = None
    next_token: int = 0
    drawn: int = 0
    tokens: list[np.ndarray] = dataclasses.field(default_factory=list)
    logprobs: list[np.ndarray] = dataclasses.field(default_factory=list)
    sums: list[np.ndarray] = dataclasses.field(default_factory=list)

    @property
    def active(self) -> bool:
        return self.request is not None

    @property
    def length(self) -> int:
        """Columns of the cache that an active slot has filled; `next_token` belongs in the next."""
        return len(self.group.prompt.tokens) - 1 + self.drawn


@dataclasses.dataclass(frozen=True)
class PrefillBatch:
    """Arguments of `device_programs.prefill`: chunks of up to r prompts for each of D shards.

    tokens: int32 [D, r, T], padded at the end with 0.
    starts: int32 [D, r], number of tokens of the same prompt that were prefilled before.
    lengths: int32 [D, r], number of real tokens; 0 for a row without a prompt.
    rows: int32 [D, r], slot within the shard.
    prefix: the start of every real row.
    completes_prompt: whether at least one of the prompts is complete after this batch.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    prefix: int
    completes_prompt: bool

    @property
    def width(self) -> int:
        return self.tokens.shape[-1]

    @property
    def prompts(self) -> int:
        """Number of rows that hold a chunk."""
        return int(np.count_nonzero(self.lengths))


def chunk_width(tokens: int, longest_chunk: int) -> int:
    """The width that a chunk is padded to.

    Each octave is cut into four, so that a program is compiled for few widths and at most a fifth
    of a wide chunk is padding: 16, 32, 48, 64, 80, 96, 112, 128, 160, 192, ..., and that of the
    longest chunk.
    """
    step = max(MIN_CHUNK_WIDTH, (1 << (tokens - 1).bit_length()) // 8)
    return min(longest_chunk, -(-tokens // step) * step)


def check_requests(
    requests: Sequence[Request], *, max_prompt_tokens: int, max_response_tokens: int
) -> None:
    """Raises ValueError, naming the prompt, for requests that the engine cannot draw."""
    tokens: dict[str, np.ndarray] = {}
    for r in requests:
        name, length = r.key.prompt_id, len(r.prompt.tokens)
        if not 0 < length <= max_prompt_tokens:
            raise ValueError(
                f"prompt {name!r} has {length} tokens: "
                f"expected 1 to max_prompt_tokens={max_prompt_tokens}"
            )
        if not 0 < r.max_tokens <= max_response_tokens:
            raise ValueError(
                f"prompt {name!r} asks for max_tokens={r.max_tokens}: "
                f"expected 1 to max_response_tokens={max_response_tokens}"
            )
        first = tokens.setdefault(name, r.prompt.tokens)
        if first is not r.prompt.tokens and not np.array_equal(first, r.prompt.tokens):
            raise ValueError(
                f"prompt id {name!r} stands for two different prompts: expected one id for each"
            )


class Scheduler:
    """The state of all slots while one list of requests is drawn.

    Args:
        requests: all samples of one prompt must have equal prompt tokens. Samples of one prompt
            start in the order in which they are given.
        slots: number of slots, a multiple of `shards`; slot s belongs to shard
            s // (slots / shards).
        longest_chunk: largest number of prompt tokens that are prefilled at once.
    """

    def __init__(self, requests: Sequence[Request], slots: int, shards: int, longest_chunk: int):
        self.shards, self.longest_chunk = shards, longest_chunk
        groups: dict[str, Group] = {}
        for r in requests:
            name = r.key.prompt_id
            if name not in groups:
                groups[name] = Group(r.prompt, prompt_number(name), deque())
            groups[name].waiting.append(r)
        by_width = sorted(
            groups.values(), key=lambda g: chunk_width(len(g.prompt.tokens), longest_chunk)
        )
        self._slots = [Slot() for _ in range(slots)]
        self._queue = deque(by_width)  # prompts that are not in the cache yet
        self._prefilling: list[Group] = []
        # By shard: prompts that are in the cache, or on their way, and have waiting samples.
        self._open: list[list[Group]] = [[] for _ in range(shards)]

    # ---- What is left to do.

    @property
    def slots(self) -> int:
        return len(self._slots)

    @property
    def active(self) -> int:
        """Number of slots that draw."""
        return sum(slot.active for slot in self._slots)

    @property
    def pending(self) -> bool:
        """Whether there are samples that no slot draws yet."""
        return bool(self._queue or self._prefilling or any(self._open))

    @property
    def prefilling(self) -> bool:
        """Whether some prompt is not complete in its slot yet."""
        return bool(self._prefilling)

    @property
    def _width(self) -> int:
        """Number of slots in each shard."""
        return self.slots // self.shards

    def busiest_shard(self) -> int:
        """Number of active slots in the shard that has the most."""
        return max(sum(slot.active for slot in self._slots_of(d)) for d in range(self.shards))

    def longest(self) -> int:
        """Largest number of cache columns that an active slot has filled."""
        return max((slot.length for slot in self._slots if slot.active), default=0)

    def prompt_length(self, slot: int) -> int:
        """Number of tokens of the prompt that a slot holds."""
        return len(self._slots[slot].group.prompt.tokens)

    def _slots_of(self, shard: int) -> list[Slot]:
        return self._slots[shard * self._width : (shard + 1) * self._width]

    # ---- Filling slots.

    def place(self) -> list[tuple[int, int]]:
        """Gives free slots something to do.

        A free slot that holds a prompt with waiting samples takes the next of them. Any other free
        slot takes a sample of a prompt that another slot of its shard holds, which must be copied;
        without such a prompt, it starts to prefill a new one.

        Returns:
            (source, target) slots of the prompts that must be copied before any other program runs.
        """
        homes = {g.home for g in self._prefilling}
        free = []
        for s, slot in enumerate(self._slots):
            if slot.active or s in homes:
                continue
            if slot.group is not None and slot.group.ready and slot.group.waiting:
                self._start(s, slot.group)
            else:
                free.append(s)
        copies, width = [], self._width
        # Looked up once: no prompt becomes ready here, and hundreds may be open for each free slot.
        ready = [deque(g for g in groups if g.ready) for groups in self._open]
        # One slot of each shard after the other, so that new prompts are spread over the shards.
        for s in sorted(free, key=lambda s: (s % width, s // width)):
            shard = s // width
            if ready[shard]:
                group = ready[shard][0]
                holds = [slot.group is group for slot in self._slots_of(shard)]
                copies.append((shard * width + holds.index(True), s))
                self._start(s, group)
                if not group.waiting:
                    ready[shard].popleft()
            elif self._queue:
                group = self._queue.popleft()
                group.home, self._slots[s].group = s, group
                self._open[shard].append(group)
                self._prefilling.append(group)
        return copies

    def _start(self, s: int, group: Group) -> None:
        """Slot s draws the next waiting sample of the group."""
        request = group.waiting.popleft()
        self._slots[s] = Slot(group, request, next_token=int(group.prompt.tokens[-1]))
        if not group.waiting:
            self._open[s // self._width].remove(group)

    def prefill_batch(self, few: int, max_tokens: int) -> PrefillBatch:
        """The next chunks to prefill, all of one width and after a prefix of one length.

        Chunks that complete a prompt come first. Batches have one of two sizes, so that few
        programs are compiled: as many rows as `max_tokens` allows if all of them would be used, and
        `few` rows or `SMALL_BATCH` tokens otherwise.

        Args:
            few: rows of a small batch, for each shard, unless they are wide.
            max_tokens: tokens of a large batch, padding included, for each shard.
        """
        groups = sorted(self._prefilling, key=lambda g: not self._is_last_chunk(g))
        bucket = width, prefix = self._bucket(groups[0])
        by_shard: list[list[Group]] = [[] for _ in range(self.shards)]
        for g in groups:
            if self._bucket(g) == bucket:
                by_shard[g.home // self._width].append(g)
        most = max(1, min(self._width, max_tokens // width))
        small = max(1, min(few, SMALL_BATCH // width, most))
        count = most if max(map(len, by_shard)) >= most else small

        tokens = np.zeros((self.shards, count, width), np.int32)
        starts, lengths, rows = np.zeros((3, self.shards, count), np.int32)
        completes_prompt = False
        for d, in_shard in enumerate(by_shard):
            for i, g in enumerate(in_shard[:count]):
                chunk = g.prompt.tokens[prefix : prefix + width]
                tokens[d, i, : len(chunk)] = chunk
                starts[d, i], lengths[d, i], rows[d, i] = prefix, len(chunk), g.home % self._width
                g.prefilled += len(chunk)
                if g.ready:
                    completes_prompt = True
                    self._prefilling.remove(g)
                    self._start(g.home, g)
        return PrefillBatch(tokens, starts, lengths, rows, prefix, completes_prompt)

    def _is_last_chunk(self, group: Group) -> bool:
        return len(group.prompt.tokens) - group.prefilled <= self.longest_chunk

    def _bucket(self, group: Group) -> tuple[int, int]:
        """Width of the group's next chunk, and number of prompt tokens before it."""
        left = len(group.prompt.tokens) - group.prefilled
        return chunk_width(left, self.longest_chunk), group.prefilled

    # ---- Dispatches.

    def table(self) -> SlotTable:
        """The slots as the next dispatch needs them; idle slots hold zeros."""

        def column(dtype: type, value: Callable[[Slot], int]) -> np.ndarray:
            return np.array([value(s) if s.active else 0 for s in self._slots], dtype)

        return SlotTable(
            lengths=column(np.int32, lambda s: s.length),
            tokens=column(np.int32, lambda s: s.next_token),
            drawn=column(np.int32, lambda s: s.drawn),
            limits=column(np.int32, lambda s: s.request.max_tokens),
            prompts=column(np.uint32, lambda s: s.group.number),
            samples=column(np.uint32, lambda s: s.request.sample_id),
            active=column(np.bool_, lambda s: s.active),
        )

    def record(self, outcome: Outcome) -> Iterator[Rollout]:
        """Takes in what a dispatch drew; yields the rollouts it finished, in order of slots.

        Raises:
            NonFiniteError: the model gave a token a log-prob that is not finite; names the prompt.
        """
        for s, slot in enumerate(self._slots):
            if not slot.active:
                continue
            n = int(outcome.counts[s])
            if n:
                slot.tokens.append(outcome.tokens[s, :n])
                slot.logprobs.append(outcome.logprobs[s, :n])
                if not np.isfinite(outcome.logprobs[s, :n]).all():
                    name = slot.request.key.prompt_id
                    raise NonFiniteError(f"the log-probs drawn for prompt {name!r} are not finite")
                if outcome.sums is not None:
                    slot.sums.append(outcome.sums[s])
                slot.drawn += n
                slot.next_token = int(outcome.tokens[s, n - 1])
            if not outcome.active[s]:
                reason = "stop" if outcome.stopped[s] else "length"
                request, slot.request = slot.request, None
                tokens, logprobs = np.concatenate(slot.tokens), np.concatenate(slot.logprobs)
                sums = np.sum(slot.sums, axis=0, dtype=np.float64) if slot.sums else None
                yield Rollout(request, tokens, logprobs, reason, sums)

    def shrink(self, slots: int) -> np.ndarray:
        """Keeps the active slots only, in fewer slots.

        Nothing may be pending, and no shard may have more active slots than it is left with.

        Returns:
            int32 [D, slots / D]: for each new slot, the slot of the same shard that it continues;
            0 for new slots that stay idle.
        """
        width = slots // self.shards
        rows = np.zeros((self.shards, width), np.int32)
        kept = []
        for d in range(self.shards):
            used = [i for i, slot in enumerate(self._slots_of(d)) if slot.active]
            rows[d, : len(used)] = used
            kept += [self._slots_of(d)[i] for i in used]
            kept += [Slot() for _ in range(width - len(used))]
        assert len(kept) == slots <= self.slots
        self._slots = kept
        return rows
