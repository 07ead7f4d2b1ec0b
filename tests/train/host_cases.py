"""Runs of the train command as several processes, each with devices of its own."""

from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
import socket
import subprocess
import sys

from loop_cases import ROOT, SETTINGS

HOSTS = SETTINGS | {"steps": 3, "checkpoint.every": 1, "eval.every": 2, "log.samples_every": 1}
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


def train(workdir: Path) -> list[str]:
    """The command of a small run."""
    settings = [f"--config.{k}={v}" for k, v in HOSTS.items()]
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
