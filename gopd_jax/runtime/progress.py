"""What a command says: its result on stdout; progress, notes and errors on stderr.

On a terminal, progress is one line that fits its width. Elsewhere, such as in a log file, all
progress together is at most one line in ten seconds. Of several processes only the first speaks;
errors are printed by each. Does not import JAX.
"""

import collections
from collections.abc import Iterator, Mapping
import contextlib
import json
import statistics
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gopd_jax.runtime.tables import folded

console = Console(stderr=True, highlight=False)
LOG_SECONDS = 10.0  # between two lines of progress where there is no terminal
RECENT = 10  # points from which the time left is computed
POINT_SECONDS = 0.1  # least time between two points: samples finish in bursts
BAR_WIDTHS = (24, 16, 10)
NAME_WIDTH = 16  # a name is cut to this before a rate is left out


class _Voice:
    """Which process this is, what it was asked to tell, and when it last logged progress."""

    index, count = 0, 1
    verbose = as_json = False
    logged = float("-inf")


def speak_as(index: int, count: int) -> None:
    """Says which of how many processes this is; one alone need not call it."""
    _Voice.index, _Voice.count = index, count


def tell(*, details: bool = False, as_json: bool = False) -> None:
    """Begins a command: says whether `detail` prints (--verbose), and `result` JSON (--json)."""
    _Voice.logged = float("-inf")
    _Voice.verbose, _Voice.as_json = details, as_json


def say(text: str, fold: bool = True) -> None:
    """Prints lines for the person who runs the command; only the first process does.

    Args:
        text: the lines.
        fold: whether a terminal gets long lines broken between words. A command to copy is not.
    """
    if _Voice.index == 0:
        console.print(fitted(text) if fold else text, soft_wrap=True, markup=False)


def fitted(text: str) -> str:
    """The lines as `say` breaks them; for signal handlers, which must not print through it."""
    return folded(text, console.width if _on_terminal() else None)


def result_width() -> int | None:
    """Columns of the terminal to which `result` prints its text; None for a file or a pipe."""
    stream = sys.stderr if _Voice.as_json else sys.stdout
    return console.width if stream.isatty() else None


def detail(text: str) -> None:
    """Prints lines for whoever works on this project; nothing unless --verbose is given."""
    if _Voice.verbose:
        say(text)


def result(text: str, record: Mapping[str, Any]) -> None:
    """Prints what a command found: text on stdout; with --json a line of JSON there, and the text
    on stderr. Only the first process does.
    """
    if _Voice.index == 0 and _Voice.as_json:
        print(json.dumps(record), flush=True)
    if _Voice.index == 0 and text:
        print(text, file=sys.stderr if _Voice.as_json else sys.stdout, flush=True)


def _on_terminal() -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def say_error(text: str) -> None:
    """Prints an error. Every process does; one of several gives its number."""
    who = f"process {_Voice.index}: " if _Voice.count > 1 else ""
    console.print(f"{who}error: {text}", soft_wrap=True, markup=False)


class Bar:
    """Progress of one piece of work; a context manager. Of nested bars the innermost is shown.

    Args:
        name: what is being done.
        total: how many units there are; None if that is not known.
        unit: what is counted, in the plural, such as "steps".
        done: units that an earlier start has done.

    Example:
        with Bar("train", total=150, unit="steps") as bar:
            bar.advance(1, "reward 0.81")
    """

    _open: "list[Bar]" = []  # the innermost last

    def __init__(self, name: str, total: int | None, unit: str, done: int = 0):
        self._name, self._total, self._unit = name, total, unit
        self._done = self._first = done
        self._note = ""
        self._points: collections.deque[float] = collections.deque(maxlen=RECENT)
        self._aside = self._all_aside = 0.0  # seconds, since the last point and in total
        self._point_done, self._is_first_point = done, True
        self._ended = ""
        self._live: Live | None = None

    def __enter__(self) -> "Bar":
        self._start = self._point = self._advanced = time.perf_counter()
        if not Bar._open and _Voice.logged == float("-inf"):
            _Voice.logged = self._start
        Bar._open.append(self)
        if len(Bar._open) == 1 and _on_terminal() and _Voice.index == 0:
            self._live = Live(
                get_renderable=lambda: Bar._open[-1].line(console.width),
                console=console,
                transient=True,
                refresh_per_second=4,
            )
            self._live.start()
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """Counts units that are done; the note is shown after them, until there is another."""
        self._done += count
        self._note = note or self._note
        now = self._advanced = time.perf_counter()
        seconds = now - self._point - self._aside
        if seconds >= POINT_SECONDS:
            if not self._is_first_point:  # the first one holds compilation
                self._points.append(seconds / max(self._done - self._point_done, 1))
            self._point, self._point_done, self._aside = now, self._done, 0.0
            self._is_first_point = False
        logs = _Voice.index == 0 and not _on_terminal()
        if logs and now - _Voice.logged >= LOG_SECONDS:
            _Voice.logged = now
            console.print(self.line(None), soft_wrap=True, markup=False)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Within this context the time is that of rare work, such as an evaluation.

        The time left counts it as often as it has come so far.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            self._aside += seconds
            self._all_aside += seconds

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, from the median of the last points; None while it is not known."""
        if self._total is None or not self._points:
            return None
        units = self._total - self._done
        each = statistics.median(self._points) + self._all_aside / (self._done - self._first)
        return max(units * each - (time.perf_counter() - self._advanced), 0.0)

    def line(self, width: int | None) -> Text:
        """The progress in one line of at most `width` columns; None sets no limit."""
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        seconds = self.seconds_left
        left = self._ended or ("" if seconds is None else f"{duration(seconds)} left")
        notes = self._note.split("  ") if self._note else []
        if width is None:
            return Text(
                "  ".join(filter(None, [f"{self._name} {count}", self._rate, left, *notes]))
            )
        room = width - len(count) - 1 - (len(left) + 2 if left else 0)
        with_rate = room - len(self._rate) - 2 >= min(len(self._name), NAME_WIDTH)
        parts = [self._rate if with_rate else "", left]
        room -= len(self._rate) + 2 if with_rate else 0
        name = _shortened(self._name, room)
        room -= len(name)
        # Notes before the bar grows: the first bar that leaves room for all of them, or the least.
        wanted = sum(len(note) + 2 for note in notes)
        bars = [w for w in BAR_WIDTHS if w + 2 <= room] if self._total else []
        bar = next((w for w in bars if w + 2 + wanted <= room), bars[-1] if bars else 0)
        room -= bar + 2 if bar else 0
        for note in notes:
            if len(note) + 2 > room:
                break
            parts.append(note)
            room -= len(note) + 2
        text = Text(f"{name} ", no_wrap=True, overflow="crop")
        if bar:
            filled = bar * self._done // self._total
            text.append("━" * filled, "bar.complete").append("─" * (bar - filled), "bar.back")
            text.append("  ")
        return text.append("  ".join(filter(None, [count, *parts])))

    @property
    def _rate(self) -> str:
        """Units per second, or seconds per unit where that is more."""
        if self._points:
            each = statistics.median(self._points)
        elif self._done > self._first:
            each = (self._advanced - self._start) / (self._done - self._first)
        else:
            return ""
        if each > 1:
            return f"{each:.3g} s/{self._unit.removesuffix('s')}"
        rate = 1 / max(each, 1e-9)
        return f"{rate:,.0f} {self._unit}/s" if rate >= 100 else f"{rate:.3g} {self._unit}/s"

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            if error is None:
                self._points.clear()  # so that the rate is that of all of it
                self._ended = f"in {duration(time.perf_counter() - self._start)}"
                console.print(self.line(console.width), soft_wrap=True)
        Bar._open.remove(self)


def duration(seconds: float) -> str:
    """A time for a person: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"
