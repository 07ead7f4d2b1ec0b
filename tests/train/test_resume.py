"""N steps at once equal k steps, a kill, and the rest: to the last bit, data order and rollouts included."""

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import jax
from loop_cases import ROOT, SETTINGS, small
import numpy as np
import pytest

from gopd_jax import tiny, train
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params
from gopd_jax.runtime.checkpoint import restore_params


def start(workdir: Path, *more: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "gopd_jax.train",
        "--config=configs/math.py",
        f"--workdir={workdir}",
        *more,
    ]
    command += [f"--config.{k}={v}" for k, v in SETTINGS.items()]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for(process: subprocess.Popen, condition, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(
                f"the run ended or hung before the moment to stop it:\n{process.communicate()[0]}"
            )
        time.sleep(0.01)


def final_params(workdir: Path) -> list[np.ndarray]:
    config = load_config(str(ROOT / "gopd_jax/tiny/models/base"))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=here), abstract_params(config)
    )
    step, params = restore_params(str(workdir), None, abstract)
    assert step == 6
    return [np.asarray(p) for p in jax.tree.leaves(params)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The same command, never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    process = start(workdir)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    return workdir


def assert_same_run(a: Path, b: Path, lines) -> None:
    for x, y in zip(final_params(a), final_params(b), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(a, name) == lines(b, name)
    key = lambda r: (r["step"], r["model"], r["domain"])  # noqa: E731
    assert sorted(lines(a, "evaluations.jsonl"), key=key) == sorted(
        lines(b, "evaluations.jsonl"), key=key
    )


def test_kill_and_resume_equals_uninterrupted(uninterrupted, tmp_path, lines):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(
        process,
        lambda: (
            (workdir / "checkpoints" / "2").exists() and len(_read(workdir / "metrics.jsonl")) >= 3
        ),
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "summary.json").exists()
    process = start(workdir)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert "resumed" in out and "at step" in out, out
    assert_same_run(workdir, uninterrupted, lines)


def test_sigterm_saves_and_exits_cleanly(uninterrupted, tmp_path, lines):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, lambda: len(_read(workdir / "metrics.jsonl")) >= 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert "stopped by SIGTERM after step" in out, out
    saved = max(int(p) for p in os.listdir(workdir / "checkpoints") if p.isdigit())
    assert len(_read(workdir / "metrics.jsonl")) == saved  # nothing done was lost
    out, _ = start(workdir).communicate(timeout=400)
    assert f"at step {saved} of 6" in out, out
    assert_same_run(workdir, uninterrupted, lines)


def test_an_evaluation_cut_short_is_made_up_for(uninterrupted, tmp_path, lines):
    workdir = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "summary.json").unlink()
    kept = [line for line in _read(workdir / "evaluations.jsonl") if '"step": 0' in line]
    assert len(kept) == 2 < len(_read(workdir / "evaluations.jsonl"))
    (workdir / "evaluations.jsonl").write_text(
        "".join(f"{line}\n" for line in kept)
    )  # killed at step 4, before its evaluation
    train.run(small(), str(workdir))
    assert lines(workdir, "evaluations.jsonl") == lines(uninterrupted, "evaluations.jsonl")


def test_finished_run_says_so(uninterrupted, capsys):
    before = sorted((p, p.stat().st_mtime_ns) for p in (uninterrupted / "checkpoints").rglob("*"))
    assert train.run(small(), str(uninterrupted))["steps"] == 6
    said = capsys.readouterr().err
    assert "is complete" in said and "--workdir" in said and "student after" in said
    assert (
        sorted((p, p.stat().st_mtime_ns) for p in (uninterrupted / "checkpoints").rglob("*"))
        == before
    )


def test_another_config_is_refused_with_the_fields(uninterrupted):
    with pytest.raises(ValueError, match=r"learner.learning_rate: 0.001 -> 0.002"):
        train.run(small(**{"learner.learning_rate": 2e-3}), str(uninterrupted))


def test_other_weights_are_refused(uninterrupted, tmp_path):
    teacher = shutil.copytree(tiny.model("code_teacher"), tmp_path / "teacher")
    with pytest.raises(ValueError, match="fingerprint of weights.teacher of math"):
        train.run(small(**{"domains.math.teacher": str(teacher)}), str(uninterrupted))


def test_metrics_hold_what_one_watches_and_nothing_recompiles(uninterrupted):
    records = [json.loads(line) for line in _read(uninterrupted / "metrics.jsonl")]
    wanted = {
        "reward/math", "response_length/math", "truncated/math", "reverse_kl_teacher", "kl_reference", "advantage_mean",
        "advantage_abs", "advantage_positive", "advantage_min", "advantage_max", "importance_mean", "importance_max",
        "importance_capped", "sampler_gap", "entropy", "grad_norm", "learning_rate", "tokens_per_second", "compilations",
        "seconds_rollout", "seconds_score", "seconds_update",
    }  # fmt: skip
    assert all(wanted <= set(r) for r in records)
    # Step 4 is followed by an evaluation of fewer prompts; the programs are those of the evaluation before step 1.
    assert len({r["compilations"] for r in records[2:]}) == 1
    assert all(r["sampler_gap"] < 1e-4 and abs(r["importance_mean"] - 1) < 1e-4 for r in records)


def _read(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
