"""Reward functions of the user in a run: what they return, and what ends the run."""

import json

from field_cases import check_fields
from loop_cases import small
import pytest

from gopd_jax.train import curves
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run

QUICK = {"steps": 2, "eval.prompts": 8, "eval.every": 0, "log.samples_every": 1}
GRADED = """
def reward(record, answer):
    said = f"{len(answer)} of {record['ground_truth']}"
    return {"reward": min(1.0, len(answer) / 20), "boxed": "boxed" in answer, "feedback": said}
"""
# What the teacher is shown of an answer, with room for its beginning alone.
TOLD = {
    "domains.math.teacher_context": " {feedback}: {student_answer}",
    "data.max_teacher_prompt_tokens": 30,
}
FAILS = """
def reward(record, answer):
    if answer:
        raise RuntimeError("no judge today")
    return 0.0
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Writes mine.py into the current folder, and gives the config of a run that is judged by it.

    Nothing is registered: the name is enough.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(curves, "draw", lambda *_: None)  # takes time

    def config(source, **changes):
        (tmp_path / "mine.py").write_text(source)
        return small(**QUICK, **{"domains.math.reward": "mine:reward"}, **changes)

    return config


@pytest.mark.slow
def test_a_run_with_graded_rewards_and_its_fingerprint(own, tmp_path):
    config, workdir = own(GRADED, **TOLD), tmp_path / "run"
    result = run(config, str(workdir))
    metrics, samples, evaluations = (
        [json.loads(line) for line in (workdir / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "samples", "evaluations")
    )
    for step in metrics:
        assert 0 < step["reward/math"] < 1 and step["reward_boxed/math"] == 1
        assert step["verified"] == 16 and step["teacher_prompts_cut"] == 1
    for sample in samples:
        assert sample["reward"] == min(1.0, len(sample["response"]) / 20)
        assert sample["reward_metrics"] == {"boxed": 1.0} and sample["verdict"] == "judged"
        told = sample["teacher_prompt"].removesuffix("<|end|><|assistant|>")
        asked = sample["prompt"].removesuffix("<|end|><|assistant|>")
        said = f"{len(sample['response'])} of {sample['ground_truth']}"
        words = told.removeprefix(f"{asked} {said}: ")
        assert len(words) < len(told) and sample["response"].startswith(words) and len(words) > 5
    assert {e["model"] for e in evaluations} == {"student", "teacher"}
    assert 0 < result["domains"]["math"]["rows"]["teacher"]["mean"] < 1
    check_fields(workdir, "own reward", named="boxed")
    changed = own(GRADED.replace("20", "30"), **TOLD)
    with pytest.raises(ValueError, match=r"(?s)another run.*fingerprint of rewards\.math: '"):
        run(changed, str(workdir))


@pytest.mark.slow
def test_a_function_that_fails_ends_the_run_with_one_sentence(own, tmp_path):
    """Exit status 2 follows from ValueError; nothing counts as 0."""
    config = own(FAILS)
    with pytest.raises(ValueError) as error:
        run(config, str(tmp_path / "run"))
    said = str(error.value)
    assert said.startswith("reward 'mine:reward' raised RuntimeError: no judge today for prompt")
    assert f"at {tmp_path / 'mine.py'}:4: expected a number in [0, 1]" in said
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_is_wrong_is_found_before_any_work(own, tmp_path):
    """Before any data is read where the function is not there; then with the first row."""
    for source, words in (
        ("def rewrd(record, answer): return 1", "'reward' is nothing in mine .*; nearest: 'rewrd'"),
        ("def reward(record, answer): return 2", r"returned 2\.0 for prompt 'math/train/00000'"),
        ("import time\ndef reward(record, answer): time.sleep(60)", "limit of the verifier"),
    ):
        config = own(source, **{"verifier.timeout_s": 0.5})
        with pytest.raises(
            ValueError, match=rf"config\.domains\.math: reward 'mine:reward'.*{words}"
        ):
            prepare(config, str(tmp_path / "run"))
