"""More steps for a run: what is refused, what is kept, what is said."""

import json

import jax
from loop_cases import small
import numpy as np
import pytest

from gopd_jax.learner.learner import Learner
from gopd_jax.learner.optimizer import make_schedule
from gopd_jax.runtime.checkpoint import restore_state
from gopd_jax.runtime.run_folder import read_run, read_summary
from gopd_jax.train.going_on import announcement, check_steps, set_summary_aside
from gopd_jax.train.run import run

OLD = {"config": {"steps": 6}}
QUICK = {"eval.prompts": 16, "eval.every": 2, "eval.during_prompts": 8}
CONSTANT = QUICK | {"learner.schedule": "constant"}


@pytest.mark.slow
def test_more_steps_equal_one_long_run(tmp_path, lines, capsys, monkeypatch):
    """2 steps and then 2 more; the evaluation at the first end is of more prompts."""
    shapes = {}
    of = Learner.abstract_state
    monkeypatch.setattr(Learner, "abstract_state", lambda self: shapes.setdefault("s", of(self)))
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    run(small(steps=4, **CONSTANT), str(whole))
    run(small(steps=2, **CONSTANT), str(parts))
    first_summary = (parts / "summary.json").read_bytes()
    assert run(small(steps=4, **CONSTANT), str(parts))["steps"] == 4
    said = capsys.readouterr().err
    assert "going on to step 4, the run was to end at 2: the learning rate is constant" in said

    ours, theirs = (restore_state(str(w), 4, shapes["s"]) for w in (parts, whole))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(parts, name) == lines(whole, name)
    ours, theirs = (lines(w, "evaluations.jsonl") for w in (parts, whole))
    assert [e["step"] for e in ours] == [e["step"] for e in theirs] == [0, 0, 2, 4]
    assert ours[2]["by_prompt"][:8] == theirs[2]["by_prompt"] and len(ours[2]["by_prompt"]) == 16
    assert [e for e in ours if e["step"] != 2] == [e for e in theirs if e["step"] != 2]

    assert (parts / "summary_step_2.json").read_bytes() == first_summary
    content = read_run(str(parts))
    assert content["config"]["steps"] == 4
    assert [(s["steps"], s["saved_step"]) for s in content["starts"]] == [(2, 0), (4, 2)]
    with pytest.raises(ValueError, match="config.steps=3: expected at least 4, the steps of"):
        run(small(steps=3, **CONSTANT), str(parts))


def finished(workdir, *saved):
    (workdir / "summary.json").write_text(json.dumps({"steps": 6}))
    for step in saved:
        (workdir / "checkpoints" / str(step)).mkdir(parents=True)


def test_more_steps_and_the_same_are_allowed_and_fewer_are_not(tmp_path):
    finished(tmp_path, 4, 6)
    check_steps(str(tmp_path), None, 1)
    check_steps(str(tmp_path), OLD, 6)
    check_steps(str(tmp_path), OLD, 9)
    with pytest.raises(ValueError, match="config.steps=5: expected at least 6"):
        check_steps(str(tmp_path), OLD, 5)


def test_a_finished_run_needs_its_last_checkpoint(tmp_path):
    finished(tmp_path, 4)
    check_steps(str(tmp_path), OLD, 6)
    with pytest.raises(ValueError, match="is finished, but its checkpoint of step 6 is not there"):
        check_steps(str(tmp_path), OLD, 9)


def test_the_summary_of_the_first_end_is_kept(tmp_path):
    finished(tmp_path, 6)
    assert read_summary(str(tmp_path), 6) == {"steps": 6}
    assert read_summary(str(tmp_path), 7) is None
    set_summary_aside(str(tmp_path))
    set_summary_aside(str(tmp_path))
    assert json.loads((tmp_path / "summary_step_6.json").read_text()) == {"steps": 6}
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize(
    "kind, words",
    [
        ("constant", "the learning rate is constant, so that nothing else changes"),
        ("linear", "(linear) is from now on that of a run of 8 steps: 0.00025 at step 7"),
    ],
)
def test_the_learning_rate_is_said(kind, words):
    config = small(steps=8, **{"learner.schedule": kind, "learner.learning_rate": 1e-3})
    schedule = make_schedule(config.learner.optimizer, 8)
    said = announcement(config, schedule, before=6, done=6)
    assert said.startswith("going on to step 8, the run was to end at 6: ") and words in said
