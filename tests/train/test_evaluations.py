"""The evaluations of a run: kept on disk, and never made twice."""

import pytest

from gopd_jax.evaluate.held_out import Evaluation
from gopd_jax.train.evaluations import Evaluations

RESULT = Evaluation((0.5, 1.0, 0.0), samples=2, tokens=40, truncated=0.25, seconds=1.5)
OTHER = Evaluation((1.0, 1.0, 0.5), samples=2, tokens=30, truncated=0.0, seconds=1.0)


def test_results_survive_a_restart_up_to_the_step_of_the_checkpoint(tmp_path):
    first = Evaluations(str(tmp_path), 0)
    assert not first.has("student", "math", 0)
    first.add("student", "math", 0, RESULT)
    first.add("teacher", "math", 0, OTHER)
    first.add("student", "math", 4, OTHER)
    again = Evaluations(str(tmp_path), 3)
    assert again.get("student", "math", 0) == RESULT
    assert again.get("teacher", "math", 0) == OTHER
    assert not again.has("student", "math", 4)
    assert not again.has("student", "code", 0)


def test_a_line_holds_the_scores_of_each_prompt_and_their_interval(tmp_path, lines):
    Evaluations(str(tmp_path), 0).add("student", "math", 0, RESULT)
    (record,) = lines(tmp_path, "evaluations.jsonl")
    assert record == {
        "step": 0,
        "model": "student",
        "domain": "math",
        "mean": 0.5,
        "low": pytest.approx(RESULT.estimate.low),
        "high": pytest.approx(RESULT.estimate.high),
        "by_prompt": [0.5, 1.0, 0.0],
        "samples": 2,
        "tokens": 40,
        "truncated": 0.25,
    }
