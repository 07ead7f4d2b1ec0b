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
