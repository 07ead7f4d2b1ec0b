"""Hostile programs score 0, leave nothing behind, and do not disturb the programs after them."""

import json
import os
from pathlib import Path

from hostile_programs import GOOD, SECRET, TWELVE
from processes import alive, descendants
import pytest
import reward_hacks

from gopd_jax.rewards import code
from gopd_jax.rewards.sandbox import fork_server, landlock
from gopd_jax.rewards.verifier import Verdict, Verifier

TESTS = {"tests": ["f(2) == 7", "f(3) == 8"]}
CORRECT = Verdict(1.0, "correct")


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=0.7, memory_mb=256) as verifier:
        yield verifier


@pytest.fixture
def target(tmp_path):
    """A file outside of the sandbox, with a secret in it, which must stay as it is."""
    path = tmp_path / "target"
    path.write_text(SECRET)
    return path


def run(verify, program, spec=TESTS):
    return verify([("code", program, json.dumps(spec))])[0]


@pytest.mark.parametrize("name", TWELVE)
def test_scores_zero_and_leaves_nothing(verify, target, name):
    if name == "reading outside" and landlock.version() < 1:
        pytest.skip("needs Landlock: Linux 5.13 or newer")
    assert run(verify, f"{GOOD}# before {name}") == CORRECT
    before = descendants(os.getpid())
    for number, program in enumerate(TWELVE[name](target)):
        verdict = run(verify, program)
        assert verdict.reward == 0.0, f"{name} {number} succeeded: {program}"
        assert not verdict.detail.startswith("error: Syntax"), program
        assert run(verify, f"{GOOD}# after {name} {number}") == CORRECT
    assert target.read_text() == SECRET
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    workers = descendants(os.getpid())
    assert not alive(workers - before), "a process of a program is left"
    assert alive(workers) == alive(before), "a worker had to be replaced"
    assert run(verify, f"import os\nassert os.listdir() == []\n{GOOD}").reward == 1.0


@pytest.mark.parametrize("name", reward_hacks.ALL)
def test_cheats_are_not_rewarded(verify, name):
    spec, honest, cheat = reward_hacks.ALL[name]
    code.check_ground_truth(json.dumps(spec))
    assert run(verify, honest, spec) == CORRECT
    before = alive(descendants(os.getpid()))
    verdict = run(verify, cheat, spec)
    assert verdict.reward == 0.0
    assert not verdict.detail.startswith("error: Syntax")
    assert alive(descendants(os.getpid())) == before, "a worker had to be replaced"


def test_huge_output_of_a_script(verify):
    spec = {"stdin_stdout": {"inputs": [""], "outputs": ["7"]}}
    verdict = run(verify, "while True: print('x' * 1000)", spec)
    assert verdict == Verdict(0.0, "error: output above 16 MiB")


def test_a_script_does_not_fill_the_file_that_is_its_input(verify):
    spec = {"stdin_stdout": {"inputs": ["a"], "outputs": ["done"]}}
    program = "import os\nfor _ in range(100):\n    os.write(0, bytes(1 << 20))\nprint('done')"
    assert run(verify, program, spec) == Verdict(0.0, "error: OSError")


def test_the_package_that_programs_cannot_read_is_this_one():
    sandbox = Path(fork_server.__file__).parent
    assert code.PACKAGE / "rewards" / "sandbox" == sandbox
