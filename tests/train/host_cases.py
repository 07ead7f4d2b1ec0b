"""Runs of the train command as several processes, each with devices of its own."""

from collections.abc import Sequence
import contextlib
import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import jax
from loop_cases import ROOT, SETTINGS
import numpy as np

from gopd_jax.learner.adapters import trained_params
from gopd_jax.models.config import load_config
from gopd_jax.models.settings import LoraSettings
from gopd_jax.runtime.checkpoint import restore_params
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.run_folder import read_run

HOSTS = SETTINGS | {"steps": 3, "checkpoint.every": 1, "eval.every": 2, "log.samples_every": 1}
# The verdicts of each host reach the teachers of all.
HOSTS |= {"domains.math.teacher_context": " {feedback}", "data.max_teacher_prompt_tokens": 32}
RESULTS = ("loss", "grad_norm", "reward", "reverse_kl_teacher", "response_length")
TRAIN = [sys.executable, "-m", "gopd_jax.train"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(command: Sequence[str], devices: int, **variables: str) -> subprocess.Popen:
    """Starts a command that sees so many fake CPU devices; stderr is that of stdout."""
    given = {k: v for k, v in os.environ.items() if not k.startswith("GOPD_") or k == "GOPD_CACHE"}
    fake = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=given | {"JAX_PLATFORMS": "cpu"} | fake | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train(workdir: Path, **changes: object) -> list[str]:
    """The command of a small run; `changes` are "part.field" -> value."""
    settings = [f"--config.{k}={v}" for k, v in (HOSTS | changes).items()]
    return [*TRAIN, "--config=configs/math.py", f"--workdir={workdir}", *settings]


def start_several(workdir: Path, processes: int, devices: int = 2) -> list[subprocess.Popen]:
    """Starts the run as so many processes: the first has options, the others have variables."""
    at = f"127.0.0.1:{free_port()}"
    options = [f"--coordinator={at}", f"--processes={processes}", "--process=0"]
    variables = {"GOPD_COORDINATOR": at, "GOPD_PROCESSES": str(processes)}
    return [
        start(train(workdir) + options, devices),
        *(
            start(train(workdir), devices, **variables, GOPD_PROCESS=str(i))
            for i in range(1, processes)
        ),
    ]


def finish(processes: Sequence[subprocess.Popen], seconds: float = 300) -> list[str]:
    """What the processes have said; the test fails with it unless all have done their work."""
    try:
        said = [p.communicate(timeout=seconds)[0] for p in processes]
    finally:
        for process in processes:
            with contextlib.suppress(OSError):
                process.kill()
    assert [p.returncode for p in processes] == [0] * len(processes), "\n".join(said)
    return said


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_same(one: Path, other: Path, tolerance: float = 1e-6) -> None:
    """Samples and evaluations are equal, and losses within a relative `tolerance`.

    Where a gradient is next to nothing, rounding decides about Adam's step, which is as long as any
    other: one parameter in a thousand may differ by more than a thousandth of the learning rate,
    which is the length of a step, and by at most all of it.
    """
    rate = read_run(str(one))["config"]["learner"]["learning_rate"]
    samples = [read(folder / "samples.jsonl") for folder in (one, other)]
    assert len(samples[0]) == len(samples[1]) > 0
    for a, b in zip(*samples, strict=True):
        for name in ("prompt_id", "sample_id", "tokens", "reward", "finish_reason"):
            assert a[name] == b[name], name
    metrics = [read(folder / "metrics.jsonl") for folder in (one, other)]
    assert [m["step"] for m in metrics[1]] == [m["step"] for m in metrics[0]] != []
    for a, b in zip(*metrics, strict=True):
        for name in RESULTS:
            rtol = tolerance if name == "loss" else 10 * tolerance
            np.testing.assert_allclose(b[name], a[name], rtol=rtol, err_msg=name)
    evaluations = [read(folder / "evaluations.jsonl") for folder in (one, other)]
    keys = [[(e["model"], e["step"], e["mean"]) for e in lines] for lines in evaluations]
    assert keys[0] == keys[1]
    (step, params), (last, expected) = restored(other), restored(one)
    assert step == last
    # Of all parameters together: the arrays of an adapter have fewer than a thousand each.
    apart = [np.abs(b - a).ravel() for a, b in zip(expected, params, strict=True)]
    apart = np.concatenate(apart)
    assert np.mean(apart > rate / 1000) < 1e-3 and apart.max() <= rate


def restored(workdir: Path) -> tuple[int, list[np.ndarray]]:
    """What is trained of the student, of the last checkpoint, in one process with one device."""
    config = load_config(str(ROOT / "gopd_jax/tiny/models/base"))
    lora = LoraSettings(**read_run(str(workdir))["config"]["lora"])
    abstract = trained_params(config, lora, make_mesh(devices=jax.devices()[:1]))
    step, params = restore_params(str(workdir), None, abstract)
    return step, [np.asarray(p) for p in jax.tree.leaves(params)]
