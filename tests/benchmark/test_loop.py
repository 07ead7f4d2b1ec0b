"""The split of whole steps, from lines of metrics.jsonl as a run writes them."""

import json
from pathlib import Path
import subprocess

import pytest

from gopd_jax.benchmark.__main__ import main
from gopd_jax.benchmark.loop import phases, split, without_compilations


def step(number, compilations, **laps):
    seconds = {f"seconds_{name}": value for name, value in laps.items()}
    fixed = {"step": number, "rollout_tokens": 100, "compilations": compilations}
    return {**fixed, "seconds": 10.0, **seconds}


STEPS = [
    step(1, 7, rollout=2.0, score=1.0, update=6.0),
    step(2, 9, rollout=2.0, score=1.0, update=6.0),
    step(3, 9, rollout=4.0, score=2.0, update=3.0, checkpoint=0.5, other=0.5),
    step(4, 9, rollout=4.0, score=1.0, update=3.0, evaluation=1.5),
]


def test_steps_that_compile_are_left_out():
    assert [s["step"] for s in without_compilations(STEPS)] == [3, 4]
    assert without_compilations(STEPS[:1]) == []


def test_what_is_in_no_phase_is_named():
    found = phases(STEPS[:1])
    assert found["seconds_in_none"] == pytest.approx(1) and found["seconds_rollout"] == 2
    # What the run itself calls other is in none of them.
    assert phases(STEPS[2:3])["seconds_in_none"] == pytest.approx(0.5)


def test_the_split_of_several_steps():
    found = split(STEPS[2:])
    assert (found["steps"], found["seconds"], found["rollout_tokens_per_second"]) == (2, 20, 10)
    assert found["share_rollout"] == pytest.approx(8 / 20)
    assert found["share_checkpoint"] == pytest.approx(0.5 / 20)
    assert found["share_in_none"] == pytest.approx((0.5 + 0.5) / 20)
    assert found["share_overhead"] == pytest.approx((0.5 + 1) / 20)
    shares = [v for k, v in found.items() if k.startswith("share_") and k != "share_overhead"]
    assert sum(shares) == pytest.approx(1)


def test_the_train_command_is_given_the_settings(monkeypatch, capsys):
    def train(command, **_):
        assert command[1:4] == ["-m", "gopd_jax.train", "--config=math:tiny"]
        assert "--config.steps=4" in command and "--config.rollout.slots=8" in command
        (folder,) = (a.partition("=")[2] for a in command if a.startswith("--workdir="))
        Path(folder).mkdir(parents=True)
        lines = "".join(json.dumps(s) + "\n" for s in STEPS)
        (Path(folder) / "metrics.jsonl").write_text(lines)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", train)
    options = ["--config=math:tiny", "--steps=4", "--config.rollout.slots=8", "--json"]
    assert main(["loop", *options]) == 0
    *steps, whole, found = map(json.loads, capsys.readouterr().out.splitlines())
    assert [s["step"] for s in steps] == [1, 2, 3, 4]
    assert whole["seconds_rollout"] == 12 and whole["steps"] == 4
    assert whole["seconds_outside_steps"] == pytest.approx(whole["seconds"] - 40, abs=1e-3)
    assert found["record"] == "split" and found["steps"] == 2


def test_bad_input_is_one_line(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["loop", "--slots=3"])
    assert capsys.readouterr().err == "error: unrecognized arguments: --slots=3; see --help\n"
    failed = subprocess.CompletedProcess([], 2)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    assert main(["loop", "--config=math"]) == 2
    assert "exit status 2, expected 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_has_the_phases_of_its_steps(capsys):
    small = ["--config.eval.prompts=8", "--config.rollout.prompts_per_step=8"]
    assert main(["loop", "--config=math", "--steps=4", *small, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["share_rollout"] > 0 and found["share_update"] > 0
