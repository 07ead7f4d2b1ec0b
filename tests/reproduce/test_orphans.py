"""A worker does not outlive the command that started it."""

import os
from pathlib import Path
import subprocess
import sys
import time

ROOT = Path(__file__).parents[2]
# Starts a worker, prints its process id and is killed, as by kill -9.
PROGRAM = """
import concurrent.futures, multiprocessing, os, signal, sys
from gopd_jax.reproduce import worker

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    cores = context.Queue()
    cores.put(None)
    given = context, worker.start_worker, (cores, sys.argv[1])
    pool = concurrent.futures.ProcessPoolExecutor(1, *given)
    print(pool.submit(os.getpid).result(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_command_leaves_no_worker_behind(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(tmp_path)]
    started = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    pid = int(started.stdout.readline())
    started.wait()
    end = time.monotonic() + 30
    while time.monotonic() < end and is_running(pid):
        time.sleep(0.1)
    assert not is_running(pid)


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
