"""Where the wall clock of the training loop goes: seconds of each phase, from step to step.

Nothing is in two phases and nothing in none: what is in no named phase is "other".
"""

from collections.abc import Iterator
import contextlib
import time

PHASES = (
    "data",
    "weight_sync",
    "rollout",
    "verify",
    "score",
    "update",
    "checkpoint",
    "evaluation",
    "other",
)
# Not a part of training: a run without them learns the same.
ASIDE = ("checkpoint", "evaluation")


class Clock:
    """Measures the phases of the loop.

    A phase within a phase takes its seconds from the outer one: waiting for verdicts while the log
    is written counts as "verify" alone.
    """

    def __init__(self) -> None:
        self._phase, self._since = "other", time.perf_counter()
        self._laps: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the time within this context as that of a phase, one of `PHASES`."""
        outer = self._switch(name)
        try:
            yield
        finally:
            self._switch(outer)

    def lap(self) -> dict[str, float]:
        """Seconds of each phase since the last lap, or since the clock was made.

        All of `PHASES` are among them; their sum is the whole time.
        """
        self._switch(self._phase)
        laps, self._laps = self._laps, {}
        return {name: laps.get(name, 0.0) for name in PHASES}

    def _switch(self, name: str) -> str:
        """Begins a phase; returns the one that ends."""
        now, ended = time.perf_counter(), self._phase
        self._laps[ended] = self._laps.get(ended, 0.0) + now - self._since
        self._phase, self._since = name, now
        return ended
