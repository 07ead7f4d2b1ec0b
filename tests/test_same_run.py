"""The comparison of two runs sees every difference but those of the clock."""

import json
from pathlib import Path
import shutil

import jax.numpy as jnp
import pytest
from same_run import differences

from gopd_jax.runtime.checkpoint import Checkpoints

RECORD = {"step": 1, "loss": 0.5, "seconds_update": 2.0, "compilations": 3}


def write(
    folder: Path, weight: float = 1.0, moment: float = 0.0, seconds: float = 1.0, at: int = 2
):
    """A run folder with one checkpoint."""
    checkpoints = Checkpoints(str(folder), 1)
    state = {"params": {"w": jnp.full(3, weight)}, "opt_state": [jnp.full(3, moment)]}
    checkpoints.save(2, state, {"seconds": seconds, "stream": {"step": at}})
    checkpoints.close()
    for name in ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl"):
        (folder / name).write_text(json.dumps(RECORD | {"seconds": seconds}) + "\n")
    summary = {"training_seconds": seconds, "rows": {"student": {"mean": 0.5, "seconds": seconds}}}
    (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same_run") / "a"
    write(folder)
    return folder


def test_clock_times_and_later_checkpoints_may_differ(run, tmp_path):
    write(tmp_path / "b", seconds=7.0)
    assert differences(run, tmp_path / "b", {2}) == []
    shutil.copytree(tmp_path / "b/checkpoints/2", tmp_path / "b/checkpoints/3")
    assert differences(run, tmp_path / "b", {2}) == []
    assert differences(run, tmp_path / "b", {3}) == [
        "checkpoints of the steps [3]: not in both runs"
    ]


@pytest.mark.parametrize(
    "changed, found",
    [
        ({"weight": 1.0 + 1e-7}, "['params']['w']"),
        ({"moment": -0.0}, "['opt_state'][0]"),  # equal as numbers, not as bits
        ({"at": 3}, "host"),
    ],
)
def test_checkpoints_are_compared_to_the_bit(run, tmp_path, changed, found):
    write(tmp_path / "b", **changed)
    assert differences(run, tmp_path / "b", {2}) == [f"checkpoint of step 2: {found}"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "evaluations.jsonl", "samples.jsonl"])
def test_lines_are_compared(run, tmp_path, name):
    copy = Path(shutil.copytree(run, tmp_path / "b"))
    line = (copy / name).read_text()
    (copy / name).write_text(line.replace("0.5", "0.50000001"))
    assert differences(run, copy, {2}) == [f"{name}: line 1, fields loss"]
    (copy / name).write_text(line * 2)
    assert differences(run, copy, {2}) == [f"{name}: 1 lines and 2"]


def test_summaries_are_compared(run, tmp_path):
    copy = Path(shutil.copytree(run, tmp_path / "b"))
    summary = copy / "summary.json"
    summary.write_text(summary.read_text().replace("0.5", "0.6"))
    assert differences(run, copy, {2}) == ["summary.json"]
