"""Progress: few and complete lines in a log file, a bar in a terminal."""

import io

import pytest
from rich.console import Console

from gopd_jax.runtime import progress


@pytest.fixture
def out(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, highlight=False, width=40))
    return stream


def test_last_count_is_always_a_line_on_its_own(out):
    with progress.Bar("train", total=50, unit="step", done=10) as bar:
        for _ in range(39):
            bar.advance()
        assert out.getvalue() == ""
        bar.advance(1, "reward [0.81]")
    (line,) = out.getvalue().splitlines()
    assert line.startswith("train 50/50  ")
    assert line.endswith("step/s  left 0 s  reward [0.81]")


def test_lines_come_at_intervals(out, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))
    with progress.Bar("score", total=100, unit="rows") as bar:
        for _ in range(6):  # 4 seconds each
            bar.advance(2)
    assert [line.split("  ") for line in out.getvalue().splitlines()] == [
        ["score 6/100", "0.5 rows/s", "left 188 s"],
        ["score 12/100", "0.5 rows/s", "left 176 s"],
    ]


def test_nothing_is_read_as_markup(out):
    sentence = "[bold] a long sentence is not wrapped at the width of the console [/bold]"
    progress.say(sentence)
    assert out.getvalue() == f"{sentence}\n"


def test_a_terminal_gets_a_bar(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, force_terminal=True, width=120))
    with progress.Bar("train", total=3, unit="step") as bar:
        bar.advance(3, "done")
    assert "3/3" in stream.getvalue() and "done" in stream.getvalue()
