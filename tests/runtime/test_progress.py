"""Progress: one line that fits in a terminal, few lines in a log file, one voice of many."""

import io
import re

import pytest
from rich.console import Console

from gopd_jax.runtime import processes, progress
from gopd_jax.runtime.progress import Bar


class Clock:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress.time, "perf_counter", clock)
    progress.tell()
    return clock


@pytest.fixture
def log(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, highlight=False, width=40))
    return stream


@pytest.fixture
def terminal(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, _environ={})
    monkeypatch.setattr(progress, "console", console)
    return stream


@pytest.fixture
def speaking_as():
    yield progress.speak_as
    progress.speak_as(0, 1)


def steps(bar, clock, seconds, note=""):
    for each in seconds:
        clock.now += each
        bar.advance(1, note)


def test_a_log_file_gets_a_line_in_ten_seconds(log, clock):
    with Bar("score", total=100, unit="rows") as bar:
        steps(bar, clock, [4] * 7)
    assert [line.split("  ") for line in log.getvalue().splitlines()] == [
        ["score 3/100", "4 s/row", "6 min left"],
        ["score 6/100", "4 s/row", "6 min left"],
    ]


def test_all_bars_together_get_a_line_in_ten_seconds(log, clock):
    """A run with an evaluation of a second after every step of a second."""
    with Bar("train", total=30, unit="steps") as bar:
        for _ in range(30):
            steps(bar, clock, [1])
            with bar.aside(), Bar("evaluate", total=2, unit="samples") as inner:
                steps(inner, clock, [0.5, 0.5])
    lines = log.getvalue().splitlines()
    assert len(lines) == 6  # of 60 seconds
    assert "evaluate 2/2  2 samples/s  0 s left" in lines


def test_a_short_phase_is_no_line(log, clock):
    for _ in range(3):
        with Bar("evaluate", total=2, unit="samples") as bar:
            steps(bar, clock, [1, 1], "[0.5]")
    assert log.getvalue() == ""


def test_the_first_step_does_not_count_for_the_time_left(clock, log):
    with Bar("train", total=151, unit="steps") as bar:
        steps(bar, clock, [42])
        assert bar.seconds_left is None
        steps(bar, clock, [2])
        assert bar.seconds_left == 149 * 2
        steps(bar, clock, [17, 2])  # another compilation
        assert bar.seconds_left == 147 * 2
        steps(bar, clock, [3] * 10)  # longer responses
        assert bar.seconds_left == 137 * 3
        clock.now += 1
        assert bar.seconds_left == 137 * 3 - 1


def test_evaluations_count_as_often_as_they_have_come(clock, log):
    with Bar("train", total=150, unit="steps", done=50) as bar:
        for step in range(51, 101):
            steps(bar, clock, [2])
            if step % 25 == 0:
                with bar.aside():
                    clock.now += 20
    # Two evaluations in 50 steps, and two more in the 50 that are left.
    assert bar.seconds_left == 50 * 2 + 2 * 20 - 20  # the last 20 s have passed since the step


def test_samples_that_finish_in_bursts_have_the_rate_of_all(clock, log):
    with Bar("generate", total=4000, unit="samples") as bar:
        for _ in range(20):
            clock.now += 5
            for _ in range(100):
                bar.advance()
                clock.now += 1e-6
    assert bar.seconds_left == pytest.approx(2000 / 100 * 5, rel=0.02)


@pytest.mark.parametrize("width", [30, 40, 60, 80, 120])
@pytest.mark.parametrize("name", ["train", "evaluate student at step 100: a_domain"])
def test_a_line_fits_the_terminal(clock, log, width, name):
    note = "reward 0.562  kl(teacher) 0.0123  length 8.03  grad 0.0456"
    with Bar(name, total=40_000, unit="samples") as bar:
        steps(bar, clock, [2] * 12, note)
        line = bar.line(width).plain
    assert len(line) <= width and "12/40000" in line and "h 13 min left" in line
    if width >= 60:
        assert "2 s/sample" in line and line.startswith(name[:10])
        assert "─" in line or name != "train"
    assert (note in line) == (width == 120 and name == "train")
    assert "…" not in line.split("12/40000")[1], "a note is shown as a whole or not at all"


def test_a_note_stays_until_there_is_another(log, clock):
    """The first step after a checkpoint has no figures yet."""
    with Bar("train", 40, "steps") as bar:
        steps(bar, clock, [11], "reward 0.5")
        steps(bar, clock, [11])
        steps(bar, clock, [11], "reward 0.6")
    first, second, third = log.getvalue().splitlines()
    assert first.endswith("reward 0.5") and second.endswith("reward 0.5")
    assert third.endswith("reward 0.6")


def test_a_terminal_gets_one_line_for_each_bar_that_is_not_inside_another(terminal, clock):
    with Bar("train", total=3, unit="steps") as bar:
        steps(bar, clock, [2, 2])
        with Bar("evaluate", total=2, unit="samples") as inner:
            steps(inner, clock, [1, 1])
        steps(bar, clock, [2], "reward 0.5")
    last = terminal.getvalue().splitlines()[-1]
    assert last.endswith("3/3  2.67 s/step  in 8 s  reward 0.5")
    assert sum("in 8 s" in line for line in terminal.getvalue().splitlines()) == 1
    assert "in 2 s" not in terminal.getvalue()


def test_an_error_leaves_no_line(terminal, clock):
    with pytest.raises(KeyboardInterrupt), Bar("train", total=3, unit="steps") as bar:
        steps(bar, clock, [2])
        raise KeyboardInterrupt
    assert "in 2 s" not in terminal.getvalue()
    with Bar("evaluate", total=1, unit="samples") as bar:
        steps(bar, clock, [2])
    assert "evaluate" in terminal.getvalue()


def test_only_the_first_process_speaks_and_each_says_its_errors(
    log, clock, capsys, speaking_as, monkeypatch
):
    monkeypatch.setenv("GOPD_DISTRIBUTED", "1")
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda **_: None)
    monkeypatch.setattr(processes.watch, "start", lambda *_: None)
    monkeypatch.setattr(processes.jax, "process_index", lambda: 3)
    monkeypatch.setattr(processes.jax, "process_count", lambda: 8)
    processes.start_processes()
    progress.say("note")
    progress.result("text", {})
    with Bar("score", total=100, unit="rows") as bar:
        steps(bar, clock, [20] * 3)
    progress.say_error("no such thing")
    assert log.getvalue() == "process 3: error: no such thing\n"
    assert capsys.readouterr().out == ""
    speaking_as(0, 8)
    progress.say("note")
    progress.say_error("no such thing")
    assert log.getvalue().endswith("note\nprocess 0: error: no such thing\n")


def test_nothing_is_read_as_markup(log):
    sentence = "[bold] a long sentence is not wrapped at the width of the console [/bold]"
    progress.say(sentence)
    assert log.getvalue() == f"{sentence}\n"


@pytest.mark.parametrize(
    "seconds, text",
    [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (11100, "3 h 05 min")],
)
def test_a_time_reads_well(seconds, text):
    assert progress.duration(seconds) == text


def test_a_log_file_gets_sentences_whole(log):
    words = "stopped by Ctrl-C after step 3 of 8, which is saved; the same command resumes it"
    progress.say(words)
    progress.say(words, fold=False)
    assert log.getvalue() == f"{words}\n{words}\n"


def plain(stream):
    """What was printed, without its colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


def test_a_terminal_gets_sentences_broken_between_words_and_commands_whole(terminal):
    progress.say("stopped by Ctrl-C after step 3 of 8, which is saved; the same command resumes it")
    assert plain(terminal).splitlines() == [
        "stopped by Ctrl-C after step 3 of 8, which is saved; the",
        "  same command resumes it",
    ]
    command = "python -m gopd_jax.export --workdir=runs/a_long_name_of_a_run --out=FOLDER"
    progress.say(command, fold=False)
    assert plain(terminal).endswith(f"\n{command}\n")
