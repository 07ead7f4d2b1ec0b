"""The examples run as they stand, in a copy of their folder."""

import json
from pathlib import Path
import shutil

import pytest

from gopd_jax.data.__main__ import main as data
from gopd_jax.train.__main__ import main as train

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Goes to a copy of an example's folder."""

    def go(name: str) -> Path:
        folder = shutil.copytree(EXAMPLES / name, tmp_path / name)
        monkeypatch.chdir(folder)
        return folder

    return go


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_own_reward(example, capsys):
    folder = example("own_reward")
    assert (
        data(["prompts.jsonl", "--reward=reward:digits", "--verify", "--verifier-workers=1"]) == 0
    )
    assert "unverifiable 0 rows" in capsys.readouterr().out
    assert train(["--config=config.py"]) == 0
    run = folder / "runs" / "own_reward"
    metrics = read(run / "metrics.jsonl")
    assert len(metrics) == 4
    for step in metrics:
        assert 0 < step["reward/sums"] < 1 and step["verified"] == 32
        assert 0 <= step["reward_boxed/sums"] <= 1 and "reward_long/sums" in step
        assert step["advantage_max"] > 0 > step["advantage_min"]
    graded = [sample["reward"] for sample in read(run / "samples.jsonl")]
    assert any(0 < reward < 1 for reward in graded)
    before, after = read(run / "evaluations.jsonl")
    assert any(0 < score < 1 for score in before["by_prompt"] + after["by_prompt"])
    assert 0 <= after["low"] < after["mean"] < after["high"] <= 1


@pytest.mark.slow
def test_feedback(example):
    """The teacher reads the right result where an answer was wrong, and only there."""
    folder = example("feedback")
    few = ["steps=6", "rollout.prompts_per_step=64", "rollout.slots=64", "eval.prompts=256"]
    more = ["eval.samples=1", "eval.every=0", "log.samples=32", "log.samples_every=1"]
    more += ["log.rewards=4"]  # all are verified, since the teacher reads the verdicts
    assert train(["--config=config.py", *(f"--config.{o}" for o in (*few, *more))]) == 0
    assert {m["verified"] for m in read(folder / "runs" / "feedback" / "metrics.jsonl")} == {64}
    samples = read(folder / "runs" / "feedback" / "samples.jsonl")
    assert {sample["reward"] for sample in samples} == {0.0, 1.0}
    for sample in samples:
        told = "" if sample["reward"] else f"={sample['ground_truth']}"
        start, end = sample["prompt"].split("<|end|>", 1)
        assert sample["teacher_prompt"] == f"{start}{told}<|end|>{end}"
