"""The trainer's end of a worker process warns of what the machine lacks."""

from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parents[2]
# In a process of its own: this one may have warned before.
PROGRAM = """
from gopd_jax.rewards.worker_handle import warn_of_missing
for _ in range(2):
    warn_of_missing({"seccomp": True, "landlock": False, "scratch": True})
"""


def test_a_machine_without_guards_says_so_once():
    command = [sys.executable, "-c", PROGRAM]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert run.stderr.count("no Landlock on this machine") == 1
    assert "system-call filter" not in run.stderr
