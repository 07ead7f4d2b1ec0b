"""Verified rewards: (kind, response, ground truth) -> `Verdict` -> advantages and metrics.

Comes in: the text of responses. Goes out: a reward in [0, 1] and a detail for each. `Verifier`
spreads the items over worker processes (`worker_handle.py`), each with the judge of one kind.
Nothing that a model wrote is parsed or run in the trainer's process. Imports no JAX.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import difflib
import hashlib
import math
import os
import threading
from types import TracebackType

from gopd_jax.rewards.kinds import KINDS
from gopd_jax.rewards.own import DETAIL, RewardError, is_own
from gopd_jax.rewards.worker_handle import WorkerHandle
from gopd_jax.runtime.errors import NonFiniteError

# Kind, response, ground truth. A reward function of the user, "package.module:function", is a kind
# too; in the place of the ground truth it gets the row of the prompt as JSON.
Item = tuple[str, str, str]

CACHE_SIZE = 1 << 16  # verdicts that a Verifier remembers


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of one response.

    Attributes:
        reward: 0.0 or 1.0; in [0, 1] from a reward function of the user.
        detail: "correct", "wrong", "no answer", "timeout", "memory" or "error: ..."; "judged" by a
            reward function of the user.
        metrics: the further numbers that such a function has named.
        feedback: what more there is to say: the test of a program that failed and how, or the
            "feedback" of a reward function of the user.

    Raises:
        NonFiniteError: the reward is NaN or infinite.
    """

    reward: float
    detail: str
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    feedback: str = dataclasses.field(default="", compare=False)

    @property
    def in_words(self) -> str:
        """The feedback, or else the detail; "" from a reward function that says nothing.

        Always text that a tokenizer takes: half a surrogate pair, which a program can put into its
        exception, becomes "?".
        """
        words = self.feedback or ("" if self.detail == DETAIL else self.detail)
        return words.encode(errors="replace").decode()

    def __post_init__(self):
        if not math.isfinite(self.reward):
            raise NonFiniteError(f"a judge gave the reward {self.reward} ({self.detail!r})")


def check_ground_truth(kind: str, ground_truth: str) -> None:
    """Checks that the judge of `kind` can use a ground truth.

    Raises:
        ValueError: for an unknown kind, or naming what is wrong with the ground truth.
    """
    _check_kind(kind)
    KINDS[kind].check_ground_truth(ground_truth)


class Verifier:
    r"""Verifies responses in worker processes; a context manager.

    Args:
        workers: worker processes for each kind, started when first needed; items are spread over
            them. 0 takes half of the CPU cores.
        timeout_s: wall-clock seconds one item may take, all of its tests together. A ground truth
            may set its own limit for each test instead.
        memory_mb: address space in MiB that one program may use on top of the interpreter's; for
            math at least 1024.

    Raises:
        ValueError: for a negative number of workers, or a limit that is not positive.

    Example::

        with Verifier(workers=4) as verify:
            verdicts = verify([("math", r"so \boxed{0.5}", r"\frac{1}{2}")])
    """

    def __init__(self, workers: int = 1, timeout_s: float = 2.0, memory_mb: int = 256):
        workers = workers or max(1, (os.cpu_count() or 2) // 2)
        if workers < 1 or timeout_s <= 0 or memory_mb < 1:
            raise ValueError(
                f"workers={workers}, timeout_s={timeout_s}, memory_mb={memory_mb}: expected "
                "positive numbers"
            )
        self.timeout_s, self.memory_mb = timeout_s, memory_mb
        self._slots: list[dict[str, WorkerHandle]] = [{} for _ in range(workers)]
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, items: Sequence[Item]) -> list[Verdict]:
        """Verifies (kind, response, ground truth) items; equal items are verified once.

        Returns:
            A verdict for each item, in order.

        Raises:
            ValueError: for an unknown kind, or if this Verifier is closed.
            RewardError: a reward function of the user has failed.
        """
        for kind, _, _ in items:
            _check_kind(kind)
        keys = [_key(item) for item in items]
        with self._lock:
            if self._closed:
                raise ValueError("this Verifier is closed")
            known = {key: self._cache[key] for key in keys if key in self._cache}
            new = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
            known |= self._verify(new)
            for key in keys:
                self._cache[key] = known[key]
                self._cache.move_to_end(key)
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return [known[key] for key in keys]

    def _verify(self, items: dict[bytes, Item]) -> dict[bytes, Verdict]:
        """Spreads the items over the workers: each takes the next one when it is free."""
        waiting = deque(items.items())
        verdicts: dict[bytes, Verdict] = {}

        def work(slot: dict[str, WorkerHandle]) -> None:
            while True:
                try:
                    key, (kind, response, ground_truth) = waiting.popleft()
                except IndexError:
                    return
                try:
                    worker = self._worker(slot, kind)
                    verdicts[key] = Verdict(*worker(response, ground_truth))
                except RewardError:
                    waiting.clear()
                    raise

        busy = self._slots[: len(waiting)]
        if len(busy) > 1:
            with ThreadPoolExecutor(len(busy)) as threads:
                list(threads.map(work, busy))
        elif busy:
            work(busy[0])
        return verdicts

    def _worker(self, slot: dict[str, WorkerHandle], kind: str) -> WorkerHandle:
        if kind not in slot:
            slot[kind] = WorkerHandle(kind, self.timeout_s, self.memory_mb)
        return slot[kind]

    def source(self, reward: str) -> str:
        """sha256 hex of the module of a reward function of the user, imported in a worker.

        Raises:
            RewardError: there is no such module or function.
        """
        with self._lock:
            return self._worker(self._slots[0], reward).source()

    def close(self) -> None:
        """Kills the workers and everything they started."""
        with self._lock:
            self._closed = True
            for slot in self._slots:
                for worker in slot.values():
                    worker.close()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_kind(kind: str) -> None:
    if kind not in KINDS and not is_own(kind):
        nearest = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"reward kind {kind!r}: expected one of {sorted(KINDS)}; nearest: {nearest!r}"
        )


def _key(item: Item) -> bytes:
    """A hash of an item: with the items themselves, the cache could grow to gigabytes."""
    return hashlib.blake2b(repr(tuple(item)).encode(), digest_size=16).digest()
