"""Every shell script: shellcheck has nothing to say, and none is long."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted([*ROOT.glob("tpu_scripts/*.sh"), *ROOT.glob("scripts/*.sh")])


def test_shellcheck_finds_nothing():
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shellcheck = shutil.which("shellcheck", path=here)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; tests/requirements.txt has it")
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short(script):
    lines = script.read_text().splitlines()
    assert len(lines) <= 80 and max(map(len, lines)) <= 100
