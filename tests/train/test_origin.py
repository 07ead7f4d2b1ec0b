"""A start from another run's checkpoint, and where models come from, as run.json holds it."""

import hashlib
import json
import os
from pathlib import Path
import shutil

import jax
from loop_cases import small
import numpy as np
import optax
import pytest

from gopd_jax import tiny
from gopd_jax.export.run import export
from gopd_jax.models.exported import NAME
from gopd_jax.runtime.checkpoint import restore_state
from gopd_jax.runtime.run_folder import read_run
from gopd_jax.train.memory import devices_for
from gopd_jax.train.models import initial_state, make_learner
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run

QUICK = {"steps": 2, "eval.prompts": 8, "eval.every": 0}


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of two steps, with both checkpoints."""
    workdir = tmp_path_factory.mktemp("other") / "run"
    run(small(**QUICK, **{"checkpoint.every": 1}), str(workdir))
    return workdir


@pytest.fixture
def copy(other, tmp_path):
    return Path(shutil.copytree(other, tmp_path / "copy"))


def from_run(folder, **changes):
    return small(**QUICK | {"steps": 1, "init_from": str(folder)} | changes)


def contents(folder):
    return {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


def manifest(folder, step):
    path = folder / "checkpoints" / str(step) / "manifest.json"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parts(state):
    """The arrays of a state but for the step and the schedule's count; and that count."""

    def of_schedule(x):
        return isinstance(x, optax.ScaleByScheduleState)

    leaves = jax.tree.leaves((state.params, state.opt_state), is_leaf=of_schedule)
    (schedule,) = filter(of_schedule, leaves)
    return [np.asarray(x) for x in leaves if not of_schedule(x)], int(schedule.count)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_parameters_moments_and_their_count_are_taken(other, tmp_path, step):
    config = from_run(f"{other}@{step}")
    programs, dtype = devices_for(config, str(tmp_path / "run"))
    inputs = prepare(config, str(tmp_path / "run"))
    learner = make_learner(config, inputs.models[config.student], programs, dtype, inputs.num_ids)
    state = initial_state(config, inputs, learner)
    saved = restore_state(str(other), step, learner.abstract_state())
    assert int(saved.step) == step and int(state.step) == 0
    (ours, count), (theirs, count_saved) = parts(state), parts(saved)
    assert count == 0 and count_saved == step
    assert len(ours) == 3 * len(jax.tree.leaves(state.params)) + 1  # and Adam's count
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_another_lambda_on_the_way(other, tmp_path, capsys):
    before = contents(other)
    workdir = tmp_path / "run"
    run(from_run(other, **{"learner.reward_scale": 1.5}), str(workdir))
    said = capsys.readouterr().err
    assert f"from       step 2 of {other}: parameters and moments" in said
    assert "(the weights in the student's folder, not the checkpoint)" in said
    assert contents(other) == before

    def evaluation(folder, step):
        lines = [json.loads(line) for line in (folder / "evaluations.jsonl").open()]
        (found,) = (e for e in lines if e["model"] == "student" and e["step"] == step)
        return found["by_prompt"], found["tokens"]

    assert evaluation(workdir, 0) == evaluation(other, 2)
    ours, theirs = read_run(str(workdir)), read_run(str(other))
    assert ours["init_from"] == {"run": str(other), "step": 2, "manifest": manifest(other, 2)}
    assert theirs["init_from"] is None
    assert ours["models"] == theirs["models"]
    assert ours["models"]["reference"] == {
        "given": "",
        "folder": str(Path(tiny.model("base")).resolve()),
        "weights": ours["fingerprints"]["weights"]["student"],
    }
    assert ours["models"]["teacher of math"]["given"] == tiny.model("math_teacher")


@pytest.mark.slow
def test_the_other_run_is_needed_only_until_the_first_checkpoint(copy, tmp_path, capsys):
    workdir, config = tmp_path / "run", from_run(copy, steps=2, **{"checkpoint.every": 1})
    run(config, str(workdir))
    (workdir / "summary.json").unlink()
    shutil.rmtree(workdir / "checkpoints/2")
    shutil.rmtree(copy)
    run(config, str(workdir))
    assert "at step 1 of 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_first_start_is_repeated_from_the_same_checkpoint_or_not_at_all(copy, tmp_path):
    workdir, config = tmp_path / "run", from_run(copy)
    run(config, str(workdir))
    for name in ("summary.json", "checkpoints"):
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(copy / "checkpoints/2")
    with pytest.raises(ValueError, match="there is no checkpoint of step 2; expected one of"):
        run(config, str(workdir))
    shutil.copytree(copy / "checkpoints/1", copy / "checkpoints/2")
    with pytest.raises(ValueError, match="step 2 is not the one that .* was started from"):
        run(config, str(workdir))


def damaged(folder):
    files = [p for p in (folder / "checkpoints/2").rglob("*") if p.is_file()]
    os.truncate(max(files, key=lambda p: p.stat().st_size), 10)


def no_manifest(folder):
    (folder / "checkpoints/2/manifest.json").unlink()


def no_checkpoint(folder):
    shutil.rmtree(folder / "checkpoints")


def none(folder):
    pass


REFUSED = {
    "no such step": (none, "@7", {}, r"no checkpoint of step 7; expected one of the steps \[1, 2"),
    "no checkpoint": (no_checkpoint, "", {}, "no checkpoint; expected a run that has saved one"),
    "damaged": (damaged, "", {}, r"step 2 is damaged .*expected an intact one, .* \[1, 2\]"),
    "no manifest": (no_manifest, "", {}, "step 2 is damaged .it has no manifest.json"),
    "architecture": (
        none,
        "",
        {"student": tiny.model("large_base")},
        "the architecture of the student of that run has another fingerprint",
    ),
    "optimizer": (none, "", {"learner.clip_norm": 0.0}, "has learner.clip_norm=1.0, this one 0"),
}


@pytest.mark.parametrize("harm, step, changes, message", REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_is_refused(copy, tmp_path, harm, step, changes, message):
    harm(copy)
    before = contents(copy)
    with pytest.raises(ValueError, match=message):
        prepare(from_run(f"{copy}{step}", **changes), str(tmp_path / "run"))
    assert contents(copy) == before


def test_another_lambda_in_the_same_folder_names_the_way(other):
    with pytest.raises(ValueError, match=r"reward_scale: 1.25 -> 1.5") as error:
        prepare(small(**QUICK, **{"learner.reward_scale": 1.5}), str(other))
    assert f"another --workdir and --config.init_from={other}" in str(error.value)


# ---- An exported student.


@pytest.fixture(scope="module")
def exported(other, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "student"
    export(str(other), str(out), dtype="float32")
    return str(out)


def test_an_exported_student_is_no_reference_of_its_own_unless_it_is_said(exported, tmp_path):
    base = str(Path(tiny.model("base")).resolve())
    with pytest.raises(ValueError, match="config.reference='': the student") as error:
        prepare(small(**QUICK, student=exported), str(tmp_path / "a"))
    for choice in (base, exported):
        assert f"--config.reference={choice} " in str(error.value)
        inputs = prepare(small(**QUICK, student=exported, reference=choice), str(tmp_path / "a"))
        assert inputs.reference == choice
    opd = {"learner.reward_scale": 1.0}
    assert prepare(small(**QUICK, **opd, student=exported), str(tmp_path / "a")).reference is None


def test_an_exported_student_says_what_it_was_trained_from(other, exported):
    made = json.loads((Path(exported) / NAME).read_text())
    base = {"path": str(Path(tiny.model("base")).resolve())}
    base["weights"] = read_run(str(other))["fingerprints"]["weights"]["reference"]
    start = {"student": base, "reference": base}
    assert made == {"run": "math_tiny", "step": 2, "method": "gopd"} | start


def test_a_folder_to_publish_names_no_path(other, tmp_path):
    export(str(other), str(tmp_path / "out"), public=True)
    made = json.loads((tmp_path / "out" / NAME).read_text())
    assert made["reference"]["path"] == "base" and made["reference"]["weights"]
