"""The phases of a run, as they begin: one JSON line each, read while the run goes on.

The driver writes them. `at` is `time.monotonic`, which all processes of a machine share.
"""

from collections.abc import Sequence
import json
import os
from pathlib import Path
import statistics
import time
from typing import NamedTuple

from tests.torture.plan import PHASES, happens

# Besides `PHASES`: "restored" (step: of the checkpoint, 0 for none), "between" phases, and "saved",
# the end of a save. A save goes on in the background, during the phases that follow.
BACKGROUND = ("save", "saved", "restored")


class Event(NamedTuple):
    phase: str
    step: int
    at: float


class Writer:
    """Appends events to a file, each with one system call: a kill leaves whole lines."""

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def __call__(self, phase: str, step: int) -> None:
        os.write(self._fd, (json.dumps([phase, step, time.monotonic()]) + "\n").encode())


class Reader:
    """The events of a file so far."""

    def __init__(self, path: Path):
        self._path, self._read = path, 0
        self.events: list[Event] = []

    def update(self) -> list[Event]:
        """Reads what has been added; returns all events."""
        if self._path.exists():
            with self._path.open() as file:
                file.seek(self._read)
                for line in iter(file.readline, ""):
                    self.events.append(Event(*json.loads(line)))
                self._read = file.tell()
        return self.events


def at_moment(events: Sequence[Event], moment: float) -> tuple[set[str], int]:
    """The phases that a run was in, and the step of the latest; "save" may go on beside another."""
    phase, saving, step = "", False, 0
    for event in events:
        if event.at > moment:
            break
        if event.phase in ("save", "saved"):
            saving = event.phase == "save"
        elif event.phase not in BACKGROUND:
            phase, step = event.phase, event.step
    return {name for name in (phase, "save" if saving else "") if name}, step


def usual_seconds(events: Sequence[Event]) -> dict[str, float]:
    """The median duration of each phase, without step 1, which compiles."""
    found: dict[str, list[float]] = {phase: [] for phase in PHASES}
    foreground = [e for e in events if e.phase not in BACKGROUND]
    saved = {e.step: e.at for e in events if e.phase == "saved"}
    for event, after in zip(foreground, foreground[1:], strict=False):
        if event.phase in found and event.step > 1 and happens(event.phase, event.step):
            found[event.phase].append(after.at - event.at)
    found["save"] = [saved[e.step] - e.at for e in events if e.phase == "save" and e.step in saved]
    return {phase: statistics.median(seconds) for phase, seconds in found.items()}
