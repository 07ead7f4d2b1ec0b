"""The folder that programs may write in: it works, is emptied, and is missing where it must be."""

import json
import os
from pathlib import Path
import subprocess
import sys
import time

import pytest

from gopd_jax.rewards.verifier import Verdict, Verifier

ROOT = Path(__file__).parents[3]
TESTS = json.dumps({"tests": ["f(2) == 7", "f(3) == 8"]})
WRITES = """
import os, shutil, sqlite3, tempfile
assert os.listdir() == [] and tempfile.gettempdir() == os.getcwd()
with open("a", "w") as file:
    file.write("xyz")
os.makedirs("b/c")
os.rename("a", "b/c/a")
os.truncate("b/c/a", 2)
with tempfile.TemporaryDirectory() as folder, sqlite3.connect(folder + "/base") as base:
    base.execute("create table t (a)")
shutil.copyfile("b/c/a", "d")
os.remove("d")
def f(x):
    return x + 3 + len(open("b/c/a").read())
"""
MOUNTS = """
import sys
from gopd_jax.rewards.sandbox.scratch import Scratch
try:
    Scratch(sys.argv[1])
except OSError:
    print("refused")
else:
    print("mounted")
"""


@pytest.fixture
def has_scratch(tmp_path_factory):
    """Whether this machine lets a process mount a scratch folder."""
    command = [sys.executable, "-c", MOUNTS, str(tmp_path_factory.mktemp("scratch"))]
    output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return output == "mounted\n"


def test_programs_write_in_a_folder_of_their_own(has_scratch):
    if not has_scratch:
        pytest.skip("needs user namespaces and Landlock of version 3")
    with Verifier(timeout_s=5.0) as verify:
        for number in range(3):  # each finds nothing of the one before
            verdicts = verify([("code", f"{WRITES}# {number}", TESTS)])
            assert verdicts == [Verdict(1.0, "correct")]


JUDGE = """
import json, sys, time
from gopd_jax.rewards import code
from gopd_jax.rewards.sandbox import scratch
scratch.LANDLOCK_VERSION = int(sys.argv[1])
judge = code.CodeJudge(256)
def score(program):
    return judge(program, json.dumps({"tests": ["f(2) == 7"]}), time.monotonic() + 5)[0]
good = "def f(x): return x + 5"
print(judge.guards["scratch"], score(good), score("open('a', 'w')\\n" + good), score(good))
"""


@pytest.mark.parametrize("version", [3, 1000])
def test_without_such_a_folder_nothing_is_written_and_no_folder_is_left(
    version, has_scratch, tmp_path
):
    able = version == 3 and has_scratch
    run = subprocess.run(
        [sys.executable, "-c", JUDGE, str(version)],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert run.stdout.split() == [str(able), "1.0", str(float(able)), "1.0"]
    until = time.monotonic() + 10  # the fork server ends when it sees that its judge is gone
    while any(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(tmp_path.iterdir())
