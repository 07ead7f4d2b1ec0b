"""Verified rewards: (kind, response, ground truth) in, 0 or 1 out. Flow: Rollout, as text -> Verdict -> advantages, metrics.

`Verifier` keeps worker processes, each with one kind's judge (`math.py`, `code.py`); nothing a model wrote is parsed or run in
the trainer's process. Nothing here imports jax, the workers least of all.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
import dataclasses
import difflib
import functools
import hashlib
import logging
import os
from pathlib import Path
import subprocess
import sys
import threading
import time
from typing import Any

from gopd_jax.rewards import code, math, wire

KINDS = {"math": math, "code": code}
CACHE_SIZE = 1 << 16
START_S = 120.0  # for a worker to import what it needs
GRACE_S = 3.0  # a worker keeps the time limit itself; this much later it is killed

_log = logging.getLogger(__name__)
_WITHOUT = {  # what a machine may lack, and what that means
    "seccomp": "no system-call filter on this machine: programs are held by resource limits alone",
    "landlock": "no Landlock on this machine (Linux 5.13 or newer): programs can read every file that this user can read",
    "scratch": "no user namespaces or no Landlock of version 3 (Linux 6.2) on this machine: programs can write no file at all",
}


@functools.cache  # not once for each worker
def _warn_once(warning: str) -> None:
    _log.warning(warning)


def _warn(guards: dict[str, bool]) -> None:
    for guard, warning in _WITHOUT.items():
        if not guards[guard]:
            _warn_once(warning)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """reward: 0.0 or 1.0. detail: "correct", "wrong", "no answer", "timeout", "memory" or "error: ..."."""

    reward: float
    detail: str


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        nearest = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"reward kind {kind!r}: wanted one of {sorted(KINDS)}; nearest: {nearest!r}"
        )


def check_ground_truth(kind: str, ground_truth: str) -> None:
    """Raises ValueError naming what is wrong with an unknown kind or a ground truth that its verifier cannot use."""
    _check_kind(kind)
    KINDS[kind].check_ground_truth(ground_truth)


class _Worker:
    """One worker process for one kind, started when first needed and again after it had to be killed."""

    def __init__(self, kind: str, timeout_s: float, memory_mb: int):
        self._arguments = [kind, str(timeout_s), str(memory_mb)]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        root = str(Path(__file__).parents[2])
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": root,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment |= {
            "PYTHONHASHSEED": "0",
            "PYTHONNOUSERSITE": "1",
        }  # a set prints in the same order every time
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gopd_jax.rewards._worker", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the trainer alone
        )
        try:
            hello = wire.receive(self._process.stdout.fileno(), time.monotonic() + START_S)
        except (EOFError, TimeoutError) as error:
            self.close()
            raise RuntimeError(
                f"the {self._arguments[0]} worker did not start ({type(error).__name__}): see its stderr"
            ) from error
        _warn(hello)
        return self._process

    def __call__(self, response: str, ground_truth: str) -> Verdict:
        process = self._process or self._start()
        try:
            replies = process.stdout.fileno()
            wire.send(process.stdin.fileno(), [response, ground_truth])
            seconds = wire.receive(replies, time.monotonic() + self._timeout_s + GRACE_S)
            reward, detail = wire.receive(replies, time.monotonic() + seconds + GRACE_S)
            return Verdict(reward, detail)
        except TimeoutError:
            self.close()
            return Verdict(0.0, "timeout")
        except (EOFError, OSError):
            self.close()
            return Verdict(0.0, "error: worker died")

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # its children see the socket close, or get SIGKILL with it
            process.wait()
            process.stdin.close()
            process.stdout.close()


class Verifier:
    """Scores responses in worker processes; a context manager.

    Args:
        workers: worker processes per kind, each started when first needed; items are spread over them. 0: half the CPU cores.
        timeout_s: wall-clock limit of one item, all its tests together; a ground truth can have one of its own for each test.
        memory_mb: address space one program may use on top of the interpreter's (math: at least 1024).

    Example:
        with Verifier(workers=4) as verify:
            verdicts = verify([("math", r"so \\boxed{0.5}", r"\\frac{1}{2}")])
    """

    def __init__(self, workers: int = 1, timeout_s: float = 2.0, memory_mb: int = 256):
        workers = workers or max(1, (os.cpu_count() or 2) // 2)
        if workers < 1 or timeout_s <= 0 or memory_mb < 1:
            raise ValueError(
                f"workers={workers}, timeout_s={timeout_s}, memory_mb={memory_mb}: wanted positive numbers"
            )
        self._slots = [
            {kind: _Worker(kind, timeout_s, memory_mb) for kind in KINDS} for _ in range(workers)
        ]
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, items: Sequence[tuple[str, str, str]]) -> list[Verdict]:
        """Verdicts for (kind, response text, ground truth), in order; equal items are verified once."""
        for kind, _, _ in items:
            _check_kind(kind)
        keys = [_key(item) for item in items]
        with self._lock:
            if self._closed:
                raise ValueError("this Verifier is closed")
            known = {key: self._cache[key] for key in keys if key in self._cache}
            new = deque(
                {
                    key: item for key, item in zip(keys, items, strict=True) if key not in known
                }.items()
            )

            def work(slot: dict[str, _Worker]) -> None:
                while True:
                    try:
                        key, (kind, response, ground_truth) = new.popleft()
                    except IndexError:
                        return
                    known[key] = slot[kind](response, ground_truth)

            busy = self._slots[: len(new)]
            if len(busy) > 1:
                with ThreadPoolExecutor(len(busy)) as threads:
                    list(threads.map(work, busy))
            elif busy:
                work(busy[0])
            for key in keys:
                self._cache[key] = known[key]
                self._cache.move_to_end(key)
            while len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)
        return [known[key] for key in keys]

    def close(self) -> None:
        """Kill the workers and what they started."""
        with self._lock:
            self._closed = True
            for slot in self._slots:
                for worker in slot.values():
                    worker.close()

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _key(item: tuple[str, str, str]) -> bytes:
    """A short stand-in for an item: responses of 16k tokens would fill the cache with gigabytes."""
    return hashlib.blake2b(repr(tuple(item)).encode(), digest_size=16).digest()
