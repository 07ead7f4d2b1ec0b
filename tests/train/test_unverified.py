"""Runs on prompts alone: nothing is verified, the distance to the teacher is what is measured."""

import json
import shutil

from field_cases import check_fields
from loop_cases import small
import numpy as np
import pytest
from same_run import differences

from gopd_jax.export.card import model_card
from gopd_jax.report import numbers
from gopd_jax.report.read import read_run
from gopd_jax.train import curves, summary
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run

QUICK = {
    "steps": 2,
    "eval.every": 1,
    "eval.prompts": 0,
    "eval.during_prompts": 0,
    "checkpoint.every": 1,
    "learner.rows_per_micro_batch": 1,
    "learner.row_length": 64,
}


def prompts(folder, count):
    """A file of prompts without ground truths, such as "100+200"."""
    rows = [{"prompt": f"{100 + i}+{200 + i}"} for i in range(count)]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"domains.math.train": str(path), "domains.math.test": "", "domains.math.reward": "none"}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run on 100 prompts."""
    return small(**QUICK, **prompts(tmp_path_factory.mktemp("prompts"), 100))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, config):
    """The folder of the finished run, and its summary."""
    folder = tmp_path_factory.mktemp("unverified") / "run"
    return folder, run(config, str(folder))


def test_nothing_is_verified(finished):
    workdir, _ = finished
    check_fields(workdir, "not verified")
    for step in lines(workdir / "metrics.jsonl"):
        assert step["verified"] == 0 and "reverse_kl_teacher" in step
        assert not [name for name in step if name.startswith("reward")]
    for sample in lines(workdir / "samples.jsonl"):
        assert (sample["reward"], sample["verdict"]) == (None, "not verified")
        assert sample["ground_truth"] == ""


def test_a_tenth_is_held_out_and_the_student_is_compared_with_its_teacher(finished):
    workdir, _ = finished
    evaluations = lines(workdir / "evaluations.jsonl")
    assert [(e["model"], e["step"]) for e in evaluations] == [("student", s) for s in (0, 1, 2)]
    for e in evaluations:
        assert e["prompts"] == len(e["kl_by_prompt"]) == 10 and "by_prompt" not in e
        assert 0 <= e["kl_low"] < e["kl"] < e["kl_high"]
        assert e["kl"] == pytest.approx(sum(e["kl_by_prompt"]) / 10)
        assert 0.5 < e["top1_overlap"] < 1 and e["entropy"] > 0
        assert e["mean_tokens"] == e["tokens"] / 10
    starts = json.loads((workdir / "run.json").read_text())["starts"]
    assert starts[0]["prompts"] == {"math/train": 90, "math/test": 10}


def test_the_summary_says_what_was_not_measured(finished):
    workdir, result = finished
    domain = result["domains"]["math"]
    assert domain["passed_teacher"] == "not measured" and "student_minus_teacher" not in domain
    assert domain["rows"].keys() == {"student before", "student after"}
    first, *_, last = lines(workdir / "evaluations.jsonl")
    assert domain["kl_change"] == pytest.approx(last["kl"] - first["kl"])
    shown = summary.table(result)
    assert "nothing is said about passing the teacher" in shown
    assert f"{last['kl']:.4f}" in shown and f"{100 * last['top1_overlap']:.1f}%" in shown
    assert "Student above its teacher" not in shown


def test_what_else_reads_the_run_claims_no_score(finished):
    workdir, _ = finished
    found = read_run(str(workdir))
    (unscored,) = numbers.unscored(found)
    assert found.problems == [] and unscored["domain"] == "math"
    evaluations = lines(workdir / "evaluations.jsonl")
    held_out = numbers.held_out(found)["math"]
    expected = [[e[name] for name in ("step", "kl", "kl_low", "kl_high")] for e in evaluations]
    np.testing.assert_allclose(held_out["kl"], expected, rtol=1e-4)
    lengths = [length for _, length, *_ in held_out["mean_tokens"]]
    np.testing.assert_allclose(lengths, [e["mean_tokens"] for e in evaluations], rtol=1e-4)
    card = model_card(str(workdir), 2, "float32")
    assert "was not measured" in card and "score, %" not in card
    assert (workdir / "curves.png").stat().st_size > 10_000


def test_resumed_equals_uninterrupted(finished, config, tmp_path, monkeypatch):
    """The folder is that of a run killed while it saves step 2, the last."""
    monkeypatch.setattr(curves, "draw", lambda *_: None)
    resumed = shutil.copytree(finished[0], tmp_path / "resumed")
    shutil.rmtree(resumed / "checkpoints/2")
    (resumed / "summary.json").unlink()
    run(config, str(resumed))
    assert differences(resumed, finished[0], {1, 2}) == []


@pytest.mark.slow
def test_learning_from_given_responses_has_no_distance(tmp_path):
    """SFT on the data set's own responses: length, truncation and entropy are what is left."""
    changes = {"domains.math.train": "tiny:math/noisy", "domains.math.teacher": "", "steps": 1}
    changes = QUICK | {"eval.every": 0} | prompts(tmp_path, 1) | changes
    result = run(small(method="sft", **changes), str(tmp_path / "run"))
    row = result["domains"]["math"]["rows"]["student after"]
    assert "kl" not in row and row["top1_overlap"] is None and row["entropy"] > 0
    assert result["domains"]["math"]["prompts"] == 64
    assert "kl_change" not in result["domains"]["math"]
    assert "not verified" in summary.table(result)


def test_too_few_prompts_to_hold_some_out(tmp_path):
    with pytest.raises(ValueError, match=r"config\.domains\.math\.held_out=0: of 9 prompts a ten"):
        prepare(small(**QUICK, **prompts(tmp_path, 9)), str(tmp_path / "run"))


def test_a_teacher_with_a_context_reads_it_on_held_out_prompts_too(tmp_path):
    context = {"domains.math.teacher_context": " hint", "data.max_teacher_prompt_tokens": 20}
    inputs = prepare(small(**QUICK, **prompts(tmp_path, 20), **context), str(tmp_path / "run"))
    for side in (inputs.train, inputs.test):
        assert all(len(p.teacher_tokens) > len(p.tokens) for p in side["math"])
