"""The plan of strikes and the record of phases; as a slow test, strikes for real."""

import collections
import json
from pathlib import Path
import subprocess
import sys

import pytest

from tests.torture.__main__ import main
from tests.torture.phases import Event, Reader, Writer, at_moment, usual_seconds
from tests.torture.plan import PHASES, SIGNALS, STEPS, draw, happens

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("seed", range(20))
def test_twenty_kills_have_each_signal_and_each_phase(seed):
    chains = draw(seed, 20)
    strikes = [strike for chain in chains for strike in chain]
    assert [strike.number for strike in strikes] == list(range(1, 21))
    signals = collections.Counter(strike.signal for strike in strikes)
    phases = collections.Counter(strike.phase for strike in strikes)
    assert set(signals) == set(SIGNALS) and min(signals.values()) >= 3
    assert set(phases) == set(PHASES) and min(phases.values()) == 4
    assert all(1 < s.step <= STEPS and happens(s.phase, s.step) for s in strikes)
    for chain in chains:  # a run resumes below its next strike
        steps = [strike.step for strike in chain]
        assert steps == sorted(set(steps))


def test_the_seed_decides():
    assert draw(1, 20) == draw(1, 20) != draw(2, 20)
    assert sum(map(len, draw(1, 6))) == 6


def test_phases_are_read_as_they_were_written(tmp_path):
    reader, write = Reader(tmp_path / "phases"), Writer(str(tmp_path / "phases"))
    assert reader.update() == []
    write("rollout", 2)
    assert [event[:2] for event in reader.update()] == [("rollout", 2)]
    write("score", 2)
    assert [event[:2] for event in reader.update()] == [("rollout", 2), ("score", 2)]


def events(*timed):
    return [Event(phase, step, float(at)) for at, phase, step in timed]


def test_a_save_goes_on_beside_other_phases():
    record = events(
        (1, "update", 2), (4, "between", 2), (5, "save", 2), (6, "rollout", 3), (8, "saved", 2)
    )
    assert at_moment(record, 3.5) == ({"update"}, 2)
    assert at_moment(record, 5.5) == ({"between", "save"}, 2)
    assert at_moment(record, 7.0) == ({"rollout", "save"}, 3)
    assert at_moment(record, 8.5) == ({"rollout"}, 3)


def test_usual_seconds_leave_out_the_first_step_and_evaluations_that_are_not_due():
    record = []
    for step, scale in ((1, 100), (2, 1), (3, 1)):
        at = 1000 * step
        phases = ("rollout", 1), ("score", 2), ("update", 3), ("between", 0), ("evaluation", 4)
        for phase, seconds in phases:
            record += events((at, phase, step))
            at += scale * seconds if happens(phase, step) else 0
        record += events((at, "between", step))
    record += events((5000, "save", 2), (5005, "saved", 2))
    assert usual_seconds(record) == {
        "rollout": 1,
        "score": 2,
        "update": 3,
        "save": 5,
        "evaluation": 4,
    }


def test_the_command_says_what_it_takes(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and all(f"--{name}" in shown for name in ("seed", "kills", "json"))


@pytest.mark.slow
def test_four_kills_are_equal_to_the_bit():
    command = [sys.executable, "-m", "tests.torture", "--seed=3", "--kills=4", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    strikes = json.loads(done.stdout)["strikes"]
    assert len(strikes) == 4 and all(s["equal"] and not s["wrong"] for s in strikes)
    assert all(s["step"] > 1 and s["struck"] for s in strikes)
