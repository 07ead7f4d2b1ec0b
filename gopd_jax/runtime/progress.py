"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)
LOG_SECONDS = 10.0  # between lines where there is no terminal


class Bar:
    """Progress of one piece of work; a context manager.

    Args:
        name: what is being done.
        total: how many units there are; None if that is not known.
        unit: what is counted, such as "steps".
        done: units that an earlier start has done.

    Example:
        with Bar("train", total=150, unit="steps") as bar:
            bar.advance(1, "reward 0.81")
    """

    def __init__(self, name: str, total: int | None, unit: str, done: int = 0):
        self._name, self._total, self._unit, self._done, self._first = name, total, unit, done, done
        self._bar = None
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = Progress(*columns, console=console)

    def __enter__(self) -> "Bar":
        self._start = self._printed = time.perf_counter()
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                self._name, total=self._total, completed=self._done, note="", rate=""
            )
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        self._done += count
        now = time.perf_counter()
        rate = (self._done - self._first) / max(now - self._start, 1e-9)
        if self._bar:
            self._bar.update(
                self._task, completed=self._done, note=note, rate=f"{rate:.3g} {self._unit}/s"
            )
        elif self._done == self._total or now - self._printed >= LOG_SECONDS:
            self._printed = now
            of, left = "", ""
            if self._total is not None:
                of, left = f"/{self._total}", f"  left {(self._total - self._done) / rate:.0f} s"
            line = f"{self._name} {self._done}{of}  {rate:.3g} {self._unit}/s{left}  {note}"
            console.print(line.rstrip(), soft_wrap=True, markup=False)

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()


def say(text: str) -> None:
    """Prints lines for the person who runs the command."""
    console.print(text, soft_wrap=True, markup=False)
