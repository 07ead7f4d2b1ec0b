"""Trackers are shown each step once, over any number of starts, and cannot end a run."""

import importlib
import json
from pathlib import Path
import sys

import pytest

from gopd_jax.runtime.metrics import RunLog
from gopd_jax.runtime.trackers import Trackers, check_installed

STAND_INS = Path(__file__).parents[1] / "stand_ins"
CONFIG = {"seed": 3, "fingerprints": {"weights": {"student": "ab"}}}


@pytest.fixture
def services(monkeypatch):
    """The stand-ins of both libraries, imported afresh; on leaving, they are forgotten."""
    monkeypatch.syspath_prepend(str(STAND_INS))
    modules = {}
    for name in ("wandb", "trackio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        modules[name] = importlib.import_module(name)
    yield modules
    for name in modules:
        sys.modules.pop(name, None)


def start(folder, steps, last_step=0, names=("wandb", "trackio"), scores=()):
    """One start of a run, from the step after `last_step`."""
    with Trackers(str(folder), names) as trackers:
        trackers.start("mine", CONFIG)
        log = RunLog(str(folder), last_step, trackers)
        for step in steps:
            log.metrics(step, {"reward": step / 10, "by_position": [1.0]})
            if step in scores:
                log.scores("student", step, {"score_student/math": 0.5})
            log.flush()
        log.close()


def logged(module):
    return [(step, data) for kind, step, data in (c for c in module.calls if c[0] == "log")]


def steps_of(module):
    return [step for step, data in logged(module) if "reward" in data]


def test_a_run_is_shown_from_start_to_end(services, tmp_path, capsys):
    start(tmp_path, [1, 2], scores=[2])
    for module in services.values():
        assert logged(module) == [
            (1, {"reward": 0.1}),
            (2, {"reward": 0.2}),
            (2, {"score_student/math": 0.5}),
        ]
        assert module.calls[1] == ("config", CONFIG)
    state = json.loads((tmp_path / "trackers.json").read_text())
    wandb, trackio = services["wandb"].calls, services["trackio"].calls
    id = state["wandb"]["id"]
    assert wandb[0][1] == {"project": "gopd_jax", "id": id, "name": "mine", "resume": "allow"}
    name = f"mine-{state['trackio']['id']}"
    assert trackio[0][1] == {"project": "gopd_jax", "name": name, "resume": "allow"}
    assert wandb[-1] == ("finish", 0) and trackio[-1] == ("finish",)
    assert capsys.readouterr().out == ""  # a library that prints does so on stderr


def test_a_resumed_run_continues_and_repeats_no_step(services, tmp_path):
    """Of steps after the checkpoint, the numbers are the same to the bit."""
    start(tmp_path, [1, 2, 3, 4, 5], scores=[4])
    start(tmp_path, [4, 5, 6, 7], last_step=3, scores=[4, 6])
    for module in services.values():
        assert steps_of(module) == [1, 2, 3, 4, 5, 6, 7]
        assert [step for step, data in logged(module) if "reward" not in data] == [4, 6]
        first, second = [c[1] for c in module.calls if c[0] == "init"]
        assert first == second


def test_scores_of_a_step_that_a_server_has_are_not_dropped(services, tmp_path):
    """The run was stopped in the evaluation after its last step."""
    start(tmp_path, [1, 2])
    with Trackers(str(tmp_path), ["wandb"]) as trackers:
        trackers.start("mine", CONFIG)
        RunLog(str(tmp_path), 2, trackers).scores("student", 2, {"score_student/math": 0.5})
    assert logged(services["wandb"])[-1] == (3, {"score_student/math": 0.5})


def test_a_tracker_that_is_new_is_given_the_earlier_steps(services, tmp_path):
    start(tmp_path, [1, 2, 3], names=["wandb"])
    start(tmp_path, [3, 4], last_step=2)
    assert [steps_of(m) for m in services.values()] == [[1, 2, 3, 4]] * 2


def test_a_tracker_that_fails_is_named_once_and_caught_up_later(services, tmp_path, capsys):
    services["wandb"].fail_at = 2
    start(tmp_path, [1, 2, 3])
    said = capsys.readouterr().err
    assert said.count("wandb failed at step 2 (the service is gone); the run goes on") == 1
    assert steps_of(services["wandb"]) == [1] and steps_of(services["trackio"]) == [1, 2, 3]
    assert services["wandb"].calls[-1] == ("finish", 1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    services["wandb"].fail_at = None
    start(tmp_path, [4], last_step=3)
    assert steps_of(services["wandb"]) == [1, 2, 3, 4]


def test_after_a_kill_a_tracker_is_given_what_it_has_lost(services, tmp_path):
    """What a library still held in memory was given, but nobody has it."""
    start(tmp_path, [1, 2, 3, 4, 5], scores=[2])
    file = tmp_path / "trackers.json"
    file.write_text(file.read_text().replace('"closed": true', '"closed": false'))
    (id,) = services["wandb"].server
    (name,) = services["trackio"].held
    services["wandb"].server[id] = 3  # it has steps 1 and 2
    services["trackio"].held[name] = 4
    for module in services.values():
        module.calls.clear()
    start(tmp_path, [6], last_step=5)
    assert steps_of(services["wandb"]) == [3, 4, 5, 6]
    assert steps_of(services["trackio"]) == [5, 6]


def test_after_a_kill_offline_the_new_folder_has_every_step(services, tmp_path):
    services["wandb"].offline = True
    start(tmp_path, [1, 2], names=["wandb"], scores=[2])
    start(tmp_path, [3], last_step=2, names=["wandb"])
    assert steps_of(services["wandb"]) == [1, 2, 3]  # disjoint folders after an orderly end
    file = tmp_path / "trackers.json"
    file.write_text(file.read_text().replace('"closed": true', '"closed": false'))
    services["wandb"].calls.clear()
    with Trackers(str(tmp_path), ["wandb"]) as trackers:
        trackers.start("mine", CONFIG)
        RunLog(str(tmp_path), 3, trackers, [("student", 2, {"score_student/math": 0.5})])
    assert [(step, list(data)) for step, data in logged(services["wandb"])] == [
        (1, ["reward"]),
        (2, ["reward"]),
        (2, ["score_student/math"]),
        (3, ["reward"]),
    ]


def test_a_tracker_is_told_that_the_run_failed(services, tmp_path):
    with pytest.raises(KeyboardInterrupt), Trackers(str(tmp_path), ["wandb"]) as trackers:
        trackers.start("mine", CONFIG)
        raise KeyboardInterrupt
    assert services["wandb"].calls[-1] == ("finish", 1)


def test_a_tracker_that_cannot_start_is_an_error(services, tmp_path, monkeypatch):
    def init(**_):
        raise RuntimeError("no API key")

    monkeypatch.setattr(services["wandb"], "init", init)
    expected = "wandb cannot be started .no API key.; expected `wandb login`.*WANDB_MODE=offline"
    with pytest.raises(ValueError, match=expected), Trackers(str(tmp_path), ["wandb"]) as t:
        t.start("mine", CONFIG)


def test_no_tracker_leaves_no_file(tmp_path):
    start(tmp_path, [1], names=["tensorboard"])
    assert not (tmp_path / "trackers.json").exists() and (tmp_path / "tensorboard").exists()
    start(tmp_path / "none", [1], names=[])
    assert sorted(p.name for p in (tmp_path / "none").iterdir()) == [
        "metrics.jsonl",
        "samples.jsonl",
    ]


def test_a_tracker_that_is_not_installed(services, tmp_path, monkeypatch):
    check_installed(["tensorboard", "wandb", "trackio"])
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "wandb").mkdir()  # the folder of its logs, not the library
    with pytest.raises(ValueError, match="wandb is not installed; expected it from `pip install"):
        check_installed(["tensorboard", "wandb"])
