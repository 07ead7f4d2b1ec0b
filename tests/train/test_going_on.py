"""More steps for a run: what is refused, what is kept, what is said."""

import json

from loop_cases import small
import pytest

from gopd_jax.learner.optimizer import make_schedule
from gopd_jax.runtime.run_folder import read_summary
from gopd_jax.train.going_on import announcement, check_steps, set_summary_aside

OLD = {"config": {"steps": 6}}


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
