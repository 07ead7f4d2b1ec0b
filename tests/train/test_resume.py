"""N steps at once equal k steps, a kill, and the rest, to the last bit.

That includes the order of prompts and the rollouts.
"""

from collections.abc import Callable
import errno
import fcntl
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

from gopd_jax import tiny
from gopd_jax.learner.scoring import Scoring
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime import checkpoint
from gopd_jax.runtime.checkpoint import restore_params
from gopd_jax.runtime.errors import Stopped
from gopd_jax.train.evaluations import Evaluator
from gopd_jax.train.keys import training_key
from gopd_jax.train.run import run


def start(workdir: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "gopd_jax.train", "--config=configs/math.py"]
    command += [f"--workdir={workdir}"]
    command += [f"--config.{k}={v}" for k, v in SETTINGS.items()]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen, condition: Callable[[], bool], seconds=240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            output = process.communicate()[0]
            pytest.fail(f"the run ended or hung before the moment to stop it:\n{output}")
        time.sleep(0.01)


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


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
def uninterrupted(shared_folder):
    """The folder of the same command, never stopped; made by the first worker that needs it."""
    workdir = shared_folder / "uninterrupted"
    with (shared_folder / "uninterrupted.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (workdir / "summary.json").exists():
            process = start(workdir)
            out, _ = process.communicate(timeout=400)
            assert process.returncode == 0, out
    return workdir


def assert_same_run(a: Path, b: Path, lines) -> None:
    for x, y in zip(final_params(a), final_params(b), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert lines(a, name) == lines(b, name)

    def evaluations(workdir):
        records = lines(workdir, "evaluations.jsonl")
        return sorted(records, key=lambda r: (r["step"], r["model"], r["domain"]))

    assert evaluations(a) == evaluations(b)


def test_kill_and_resume_equals_uninterrupted(uninterrupted, tmp_path, lines):
    workdir = tmp_path / "run"
    metrics = workdir / "metrics.jsonl"

    def in_the_middle():
        return (workdir / "checkpoints" / "2").exists() and len(read_lines(metrics)) >= 3

    process = start(workdir)
    wait_for(process, in_the_middle)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "summary.json").exists()
    process = start(workdir)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert "resumed" in out and "at step" in out, out
    assert_same_run(workdir, uninterrupted, lines)


@pytest.mark.slow  # in one process: test_signals_in_rollout_score_and_evaluation
def test_sigterm_saves_what_was_finished(uninterrupted, tmp_path, lines):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for(process, lambda: len(read_lines(workdir / "metrics.jsonl")) >= 2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 143, out
    assert "stopped by SIGTERM after step" in out and "Traceback" not in out, out
    saved = max(int(p) for p in os.listdir(workdir / "checkpoints") if p.isdigit())
    assert len(read_lines(workdir / "metrics.jsonl")) == saved  # nothing done was lost
    out, _ = start(workdir).communicate(timeout=400)
    assert f"at step {saved} of 6" in out, out
    assert_same_run(workdir, uninterrupted, lines)


def striking(function, number: int, at: Callable[..., bool]):
    """`function`, which first sends the process a signal where `at` is true of its arguments."""

    def with_signal(*args, **kwargs):
        if at(*args, **kwargs):
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return with_signal


@pytest.mark.slow
def test_signals_in_rollout_score_and_evaluation(unfinished, uninterrupted, lines, monkeypatch):
    """Each ends the run before the phase does; what was finished is saved, and costs no bit."""
    shutil.rmtree(unfinished / "checkpoints/6")

    def steps():
        return sorted(int(p) for p in os.listdir(unfinished / "checkpoints") if p.isdigit())

    def stopped(owner, name, number, at, message):
        with monkeypatch.context() as patch, pytest.raises(Stopped, match=message):
            patch.setattr(owner, name, striking(getattr(owner, name), number, at))
            run(small(), str(unfinished))
        assert not (unfinished / "summary.json").exists()

    def rollout_of_step_6(_, weights, requests, key, rule):
        return np.array_equal(jax.random.key_data(key), jax.random.key_data(training_key(0, 6)))

    by_sigterm = r"stopped by SIGTERM after step 5 of 6, which is saved; rollouts and evaluations"
    stopped(RolloutEngine, "__call__", signal.SIGTERM, rollout_of_step_6, by_sigterm)
    assert steps() == [4, 5] and len(read_lines(unfinished / "metrics.jsonl")) == 5
    by_ctrl_c = "stopped by Ctrl-C after step 5 of 6, which is saved"
    stopped(Scoring, "finish", signal.SIGINT, lambda *_: True, by_ctrl_c)
    assert steps() == [4, 5]
    stopped(Evaluator, "student", signal.SIGTERM, lambda _, params, step: step == 6, "step 6 of 6")
    assert steps()[-1] == 6
    run(small(), str(unfinished))
    assert_same_run(unfinished, uninterrupted, lines)


def test_an_evaluation_cut_short_is_made_up_for(uninterrupted, tmp_path, lines):
    workdir = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "summary.json").unlink()
    kept = [line for line in read_lines(workdir / "evaluations.jsonl") if '"step": 0' in line]
    assert len(kept) == 2 < len(read_lines(workdir / "evaluations.jsonl"))
    # As if killed at step 4, before its evaluation.
    (workdir / "evaluations.jsonl").write_text("".join(f"{line}\n" for line in kept))
    run(small(), str(workdir))
    assert lines(workdir, "evaluations.jsonl") == lines(uninterrupted, "evaluations.jsonl")


@pytest.fixture
def unfinished(uninterrupted, tmp_path):
    """A copy of the run, with the checkpoints of steps 4 and 6 and without a summary."""
    workdir = Path(shutil.copytree(uninterrupted, tmp_path / "run"))
    (workdir / "summary.json").unlink()
    return workdir


def logs(workdir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workdir.glob("*.jsonl")}


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_a_damaged_checkpoint_costs_no_bit(unfinished, uninterrupted, lines, capsys):
    os.truncate(largest(unfinished / "checkpoints/6"), 1000)
    run(small(), str(unfinished))
    said = capsys.readouterr().err
    assert "checkpoint of step 6 is damaged" in said and "at step 4 of 6" in said, said
    assert_same_run(unfinished, uninterrupted, lines)


def test_no_intact_checkpoint_ends_the_run_and_keeps_its_logs(unfinished):
    before = logs(unfinished)
    for step in (4, 6):
        os.truncate(largest(unfinished / f"checkpoints/{step}"), 1000)
    for _ in range(2):
        with pytest.raises(ValueError, match="no checkpoint in .* is intact"):
            run(small(), str(unfinished))
    assert logs(unfinished) == before and len(before) == 3


@pytest.mark.slow
def test_a_full_disk_while_saving_costs_no_bit(
    unfinished, uninterrupted, lines, monkeypatch, full_disk
):
    shutil.rmtree(unfinished / "checkpoints/6")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="resumes from step 4"):
        patch.setattr(checkpoint, "write_manifest", full_disk)
        run(small(), str(unfinished))
    assert not (unfinished / "summary.json").exists()
    assert lines(unfinished, "metrics.jsonl") == lines(uninterrupted, "metrics.jsonl")
    os.truncate(largest(unfinished / "checkpoints/6"), 1000)  # it has no manifest
    run(small(), str(unfinished))
    assert_same_run(unfinished, uninterrupted, lines)


@pytest.fixture
def full_disk():
    """In place of a function that writes."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return fails


@pytest.mark.slow
def test_a_clock_that_was_set_back_changes_nothing(unfinished, uninterrupted, lines, monkeypatch):
    shutil.rmtree(unfinished / "checkpoints/6")
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1e7)
    run(small(), str(unfinished))
    assert_same_run(unfinished, uninterrupted, lines)


def test_run_json_and_summary_damaged_or_lost(unfinished):
    before = logs(unfinished)
    (unfinished / "summary.json").write_text('{"name"')
    with pytest.raises(ValueError, match="summary.json is damaged: expected a JSON object"):
        run(small(), str(unfinished))
    (unfinished / "summary.json").unlink()
    (unfinished / "run.json").write_text('{"format": 2, "con')
    with pytest.raises(ValueError, match="run.json is damaged: expected a JSON object"):
        run(small(), str(unfinished))
    (unfinished / "run.json").unlink()
    with pytest.raises(ValueError, match=r"no run.json, but checkpoints \(4, 6\)"):
        run(small(), str(unfinished))
    assert logs(unfinished) == before and not (unfinished / "run.json").exists()


def test_finished_run_says_so(uninterrupted, capsys):
    def checkpoints():
        paths = (uninterrupted / "checkpoints").rglob("*")
        return sorted((p, p.stat().st_mtime_ns) for p in paths)

    before = checkpoints()
    assert run(small(), str(uninterrupted))["steps"] == 6
    table, said = capsys.readouterr()
    assert "is complete" in said and "--workdir" in said and "student after" in table
    assert checkpoints() == before


def test_another_config_is_refused_with_the_fields(uninterrupted):
    with pytest.raises(ValueError, match=r"learner.learning_rate: 0.001 -> 0.002"):
        run(small(**{"learner.learning_rate": 2e-3}), str(uninterrupted))


def test_other_weights_are_refused(uninterrupted, tmp_path):
    teacher = shutil.copytree(tiny.model("code_teacher"), tmp_path / "teacher")
    with pytest.raises(ValueError, match="fingerprint of weights.teacher of math"):
        run(small(**{"domains.math.teacher": str(teacher)}), str(uninterrupted))


WATCHED = {
    "reward/math",
    "response_length/math",
    "truncated/math",
    "reverse_kl_teacher",
    "kl_reference",
    "advantage_mean",
    "advantage_abs",
    "advantage_positive",
    "advantage_min",
    "advantage_max",
    "importance_mean",
    "importance_max",
    "importance_capped",
    "sampler_gap",
    "entropy",
    "grad_norm",
    "learning_rate",
    "tokens_per_second",
    "compilations",
    "seconds_rollout",
    "seconds_score",
    "seconds_update",
}


def test_metrics_hold_what_one_watches_and_nothing_recompiles(uninterrupted):
    records = [json.loads(line) for line in read_lines(uninterrupted / "metrics.jsonl")]
    assert all(WATCHED <= set(r) for r in records)
    # Step 4 is followed by an evaluation of fewer prompts; it uses the programs of the evaluation
    # before step 1.
    assert len({r["compilations"] for r in records[2:]}) == 1
    assert all(r["sampler_gap"] < 1e-4 and abs(r["importance_mean"] - 1) < 1e-4 for r in records)
