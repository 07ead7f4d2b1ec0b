"""scripts/gpu.sh, scripts/slurm.sh and scripts/restarting.sh, with stand-ins for what they call."""

import os
from pathlib import Path
import signal
import subprocess
import time

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = {
    "nvidia-smi": 'echo "GPU 0: NVIDIA H100"',
    # Notes its start; its exit status is the next line of `statuses`.
    "fake-python": 'echo "$JAX_PLATFORMS $GOPD_COORDINATOR $GOPD_PROCESSES $GOPD_PROCESS: $*" '
    '>> "$FOLDER/starts"\nstatus=$(head -n 1 "$FOLDER/statuses"); sed -i 1d "$FOLDER/statuses"\n'
    "exit ${status:-0}",
    "scontrol": 'if [[ $1 == show ]]; then printf "node7\\nnode8\\n"; '
    'else echo "$*" >> "$FOLDER/queued"; fi',
    # Each task in turn; the exit status is the highest, as that of srun.
    "srun": "while [[ $1 == --* ]]; do shift; done\nworst=0\nfor SLURM_PROCID in 0 1; do\n"
    "export SLURM_PROCID\n"
    '"$@"; status=$?\n[[ $status -le $worst ]] || worst=$status\ndone\nexit $worst',
}


@pytest.fixture
def run(tmp_path):
    """Runs a script and returns (status, output); `statuses` are those of the training command."""
    for name, text in TOOLS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, statuses=(), **variables):
        (tmp_path / "statuses").write_text("".join(f"{s}\n" for s in statuses))
        given = {k: v for k, v in os.environ.items() if not k.startswith(("GOPD_", "JAX_"))}
        given |= {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "FOLDER": str(tmp_path),
            "PYTHON": "fake-python",
            "GOPD_RESTART_SECONDS": "0",
        }
        command = ["bash", str(ROOT / "scripts" / script), *arguments]
        done = subprocess.run(
            command, env=given | variables, capture_output=True, text=True, cwd=tmp_path
        )
        return done.returncode, done.stdout + done.stderr

    return run


def starts(folder):
    file = folder / "starts"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(
    ("statuses", "count", "status", "several"),
    [
        ([], 1, 0, False),
        ([1, 139, 0], 3, 0, False),
        ([3], 1, 3, False),
        ([2], 1, 2, False),
        ([2, 4, 0], 3, 0, True),  # the others may have come late
        ([9] * 9, 5, 9, False),
    ],
)
def test_a_command_is_run_until_it_has_ended_for_good(
    statuses, count, status, several, run, tmp_path
):
    variables = {"GOPD_PROCESSES": "2"} if several else {}
    ended, _ = run("restarting.sh", "fake-python", "x", statuses=statuses, **variables)
    assert (ended, len(starts(tmp_path))) == (status, count)


def test_sigterm_reaches_the_command_which_then_is_not_run_again(tmp_path):
    command = (
        f"trap 'sleep 0.3; echo saved; exit 7' TERM; touch {tmp_path}/on; "
        "while true; do sleep 0.02; done"
    )
    process = subprocess.Popen(
        ["bash", str(ROOT / "scripts/restarting.sh"), "bash", "-c", command],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "on").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert (process.returncode, said) == (7, "saved\n")


def test_one_host_trains_on_its_gpus(run, tmp_path):
    status, said = run("gpu.sh", "--config=math", "--config.steps=2", statuses=[1])
    assert status == 0 and "GPU 0: NVIDIA H100" in said
    command = "cuda,cpu   : -m gopd_jax.train --config=math --config.steps=2"
    assert starts(tmp_path) == [command, command]


def test_a_dry_run_on_one_host_starts_nothing(run, tmp_path):
    status, said = run("gpu.sh", "--dry-run", "--config=math")
    assert status == 0 and starts(tmp_path) == []
    assert "scripts/restarting.sh fake-python -m gopd_jax.train --config=math" in said


def test_a_host_without_gpu_is_one_sentence(run, tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no driver\nexit 9\n")
    status, said = run("gpu.sh", "--config=math")
    assert status == 2 and said.startswith("error: nvidia-smi lists no GPU (no driver): expected")


JOB = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2"}


def test_under_slurm_every_host_is_told_its_place(run, tmp_path):
    status, _ = run("slurm.sh", "--config=math", "--workdir=/shared/a b", **JOB)
    assert status == 0 and not (tmp_path / "queued").exists()
    assert starts(tmp_path) == [
        f"cuda,cpu node7:8476 2 {i}: -m gopd_jax.train --config=math --workdir=/shared/a b"
        for i in range(2)
    ]


@pytest.mark.parametrize(
    ("statuses", "count", "status", "queued"),
    [
        ([137, 4], "0", 137, True),
        ([137, 4], "20", 137, False),
        ([2, 2], "0", 2, False),
        ([3, 3], "0", 3, False),
    ],
)
def test_a_slurm_job_is_queued_again_after_a_crash(statuses, count, status, queued, run, tmp_path):
    ended, _ = run("slurm.sh", "x", statuses=statuses, SLURM_RESTART_COUNT=count, **JOB)
    assert ended == status
    file = tmp_path / "queued"
    assert (file.read_text() if file.exists() else "") == ("requeue 17\n" if queued else "")


def test_a_dry_run_under_slurm_prints_what_each_process_runs(run, tmp_path):
    status, said = run("slurm.sh", "--config=math", DRY_RUN="1", **JOB)
    assert status == 0 and starts(tmp_path) == []
    assert said.splitlines() == ["fake-python -m gopd_jax.train --config=math"] * 2


@pytest.mark.parametrize("script", ["gpu.sh", "slurm.sh", "restarting.sh"])
def test_without_arguments_the_usage_is_printed(script, run):
    status, said = run(script)
    assert status == 2 and f"scripts/{script}" in said and "#" not in said
