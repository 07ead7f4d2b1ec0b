"""Programs: right and wrong ones, extraction, and that a hostile one scores zero and harms nothing."""

import json
import os

import pytest

from gopd_jax.rewards import Verdict, Verifier, check_ground_truth, code

TESTS = {"tests": ["f(2) == 7", "f(3) == 8"]}
STACK = """
class S:
    def __init__(self):
        self.a = []
    def push(self, x):
        self.a.append(x)
        return self
"""
POINT = """
from dataclasses import dataclass
@dataclass
class P:
    x: int
    def __add__(self, other):
        return P(self.x + other.x)
"""
LOOK = """
import builtins, math, os
def f():
    return hasattr(math, "gopd"), hasattr(builtins, "gopd"), list(os.environ)
"""
GOOD = "def f(x):\n    return x + 5\n"


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=1.5, memory_mb=256) as verifier:
        yield verifier


def run(verify, program, spec=TESTS):
    return verify([("code", program, json.dumps(spec))])[0]


@pytest.mark.parametrize(
    "response, program",
    [
        ("text\n```python\na = 1\n```\nmore", "a = 1\n"),
        ("```python\na = 1\n```\nbetter:\n```\na = 2\n```", "a = 2\n"),
        ("```py\na = 1\n```\n```bash\nls\n```", "a = 1\n"),
        ("  ```Python\n  a = 1\n  ```", "  a = 1\n"),
        ("a = 1", "a = 1"),
    ],
)
def test_extract_program(response, program):
    assert code.extract_program(response) == program


@pytest.mark.parametrize(
    "program, spec",
    [
        (GOOD, TESTS),
        (f"Here:\n```python\n{GOOD}```\n", TESTS),
        (GOOD, {"entry_point": "f", **TESTS}),
        (GOOD, {"asserts": "for i in range(3):\n    assert f(i) == i + 5\n"}),
        (GOOD, {"asserts": "def check(candidate):\n    assert candidate(1) == 6\ncheck(f)"}),
        ("def max(a):\n    return a[0]\n", {"entry_point": "max", "tests": ["max([1, 2]) == 1"]}),
        ("def f(a):\n    a.sort()\n", {"asserts": "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"}),
        ("def f(g, x):\n    return g(x)\n", {"tests": ["f(lambda x: x + 1, 2) == 3"]}),
        ("def f():\n    raise KeyError(1)\n", {"asserts": "try:\n    f()\n    assert False\nexcept KeyError:\n    pass"}),
        ("def f():\n    yield from range(10**9)\n", {"tests": ["next(f()) == 0", "[x for x, _ in zip(f(), 'ab')] == [0, 1]"]}),
        (
            "from math import *\nimport math\ndef f(): return pi",
            {"tests": ["math.isclose(f(), 3.14159265, rel_tol=1e-6)"]},
        ),
        (
            STACK,
            {"asserts": "s = S()\ns.push(1).push(2)\nassert s.a == [1, 2]\nassert s.push(3) is not None"},
        ),
        (
            POINT,
            {"tests": ["P(1) + P(2) == P(3)", "str(P(1)) == 'P(x=1)'"]},
        ),
        (
            "def f():\n    return (1, 2.5, 'a', b'b', None, True, {1: {2}}, [float('inf')], 2**200, 1j)",
            {"tests": ["f() == (1, 2.5, 'a', b'b', None, True, {1: {2}}, [float('inf')], 2**200, 1j)"]},
        ),
        ("import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n" + GOOD, TESTS),
        ("print(int(input()) + 5)", {"stdin_stdout": {"inputs": ["2\n", "3"], "outputs": ["7\n", " 8 "]}}),
        ("import sys\nprint(sys.stdin.read())\nsys.exit(0)", {"stdin_stdout": {"inputs": ["a\nb"], "outputs": ["a\nb\n\n"]}}),
        ("if __name__ == '__main__':\n    print(1)", {"stdin_stdout": {"inputs": [""], "outputs": ["1"]}}),
    ],
)
def test_right(verify, program, spec):
    check_ground_truth("code", json.dumps(spec))
    assert run(verify, program, spec) == Verdict(1.0, "correct")


EQUAL = "class E(int):\n    __eq__ = __lt__ = __sub__ = __abs__ = lambda *a: True\n    __hash__ = None\n"
MARK = f"/tmp/gopd_mark_{os.getuid()}"
PATCH = "import builtins\nbuiltins.abs = builtins.sorted = lambda *a: 7\n"


@pytest.mark.parametrize(
    "program, detail",
    [
        ("def f(x):\n    return x\n", "wrong"),
        ("def f(x)\n    return x\n", "error: SyntaxError"),
        ("", "error: NameError"),
        ("raise ValueError('no')", "error: ValueError"),
        ("def f(x):\n    raise KeyError(x)\n", "error: KeyError"),
        ("def f(x):\n    assert False\n", "error: AssertionError"),
        ("def f(x):\n    return f(x)\n", "error: RecursionError"),
        ("while True: pass", "timeout"),
        ("import time\ndef f(x):\n    time.sleep(60)\n", "timeout"),
        ("def f(x):\n    return 9**9**9**9\n", "timeout"),
        ("a = []\nwhile True: a.append(bytearray(10**7))", "memory"),
        ("import os\nwhile True: os.fork()", "error: PermissionError"),
        ("import subprocess\nsubprocess.run(['true'])", "error: PermissionError"),
        ("import socket\nsocket.socket()", "error: PermissionError"),
        ("import os\nos.kill(-1, 9)", "error: PermissionError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "error: ValueError"),
        ("import os\nopen(f'/proc/{os.getppid()}/mem', 'rb')", "error: PermissionError"),
        (f"open({MARK!r}, 'w')", "error: PermissionError"),
        ("import sys\nsys.exit(0)", "error: SystemExit"),
        ("import os\nos._exit(0)", "error: program ended"),
        ("import os\ndef f(x):\n    os._exit(0)\n", "error: program ended"),
        ("import os\ndef f(x):\n    os.write(3, b'\\0\\0\\0\\4true')\n", "error: unreadable reply"),
        ("import os\ndef f(x):\n    os.write(3, b'\\xff\\xff\\xff\\xff')\n", "error: unreadable reply"),
        ("print('correct')\nprint('[1.0, \"correct\"]')\ndef f(x):\n    print(True)\n", "wrong"),
        ("class E:\n    def __eq__(self, other): return True\ndef f(x):\n    return E()\n", "wrong"),
        (EQUAL + "def f(x):\n    return E()\n", "wrong"),
    ],
)
def test_wrong_or_hostile_scores_zero_and_the_next_is_right(verify, program, detail):
    assert run(verify, program) == Verdict(0.0, detail)
    assert run(verify, GOOD + f"# after {hash((program, detail))}") == Verdict(1.0, "correct")
    assert not os.path.exists(MARK)


def test_objects_of_the_program_do_not_decide_numeric_tests(verify):
    spec = {"asserts": "assert abs(f(2) - 7) < 1e-6"}
    assert run(verify, GOOD, spec).reward == 1.0
    assert run(verify, EQUAL + "def f(x):\n    return E()\n", spec).reward == 0.0
    assert run(verify, EQUAL.replace("(int)", "") + "def f(x):\n    return E()\n", spec).reward == 0.0


def test_patched_builtins_do_not_reach_the_judge(verify):
    spec = {"tests": ["abs(f(2)) == 7"]}
    assert run(verify, "def f(x):\n    return -7\n", spec).reward == 1.0
    assert run(verify, PATCH + "def f(x):\n    return 0\n", spec) == Verdict(0.0, "wrong")


def test_a_swallowed_failure_still_counts(verify):
    spec = {"asserts": "try:\n    f(1)\nexcept Exception:\n    pass\nassert True"}
    assert run(verify, "import os\ndef f(x):\n    os._exit(0)\n", spec) == Verdict(0.0, "error: program ended")
    assert run(verify, "def f(x):\n    while True: pass\n", spec) == Verdict(0.0, "timeout")


@pytest.mark.parametrize(
    "program, detail",
    [
        ("print(1)", "wrong"),
        ("print(7)\nraise ValueError", "error: ValueError"),
        ("while True: print('x' * 1000)", "error: output above 16 MiB"),
        ("import os\nos._exit(0)", "wrong"),
        ("while True: pass", "timeout"),
    ],
)
def test_stdout_must_be_right(verify, program, detail):
    assert run(verify, program, {"stdin_stdout": {"inputs": ["2"], "outputs": ["7"]}}) == Verdict(0.0, detail)


def test_every_part_counts(verify):
    both = {**TESTS, "asserts": "assert f(0) == 5"}
    assert run(verify, GOOD, both).reward == 1.0
    assert run(verify, GOOD, {**TESTS, "asserts": "assert f(0) == 6"}).reward == 0.0
    assert run(verify, GOOD, {"tests": ["f(2) == 7", "f(3) == 9"]}).reward == 0.0
    assert run(verify, GOOD, {"tests": ["f(2)"]}).reward == 0.0  # truthy is not True
    assert run(verify, GOOD, {**TESTS, "entry_point": "g"}) == Verdict(0.0, "error: no g")
    two = {"stdin_stdout": {"inputs": ["1", "2"], "outputs": ["1", "3"]}}
    assert run(verify, "print(input())", two) == Verdict(0.0, "wrong")


def test_programs_do_not_see_each_other_or_the_trainer(verify, monkeypatch):
    monkeypatch.setenv("GOPD_SECRET", "1")
    assert run(verify, "import math\nmath.gopd = 1\nimport builtins\nbuiltins.gopd = 1\n" + GOOD).reward == 1.0
    spec = {"tests": ["f() == (False, False, [])"]}
    assert run(verify, LOOK, spec) == Verdict(1.0, "correct")


def test_a_judge_that_hangs_is_replaced():
    with Verifier(timeout_s=0.2) as verify:
        assert run(verify, GOOD, {"tests": ["f(9**9**9**9) == 1"]}) == Verdict(0.0, "timeout")
        assert run(verify, GOOD).reward == 1.0


@pytest.mark.parametrize(
    "ground_truth, message",
    [
        ("f(2) == 7", "wanted JSON"),
        ("[]", "list"),
        ('{"entry_point": "f"}', "entry_point"),
        ('{"test": ["f(2) == 7"]}', "test"),
        ('{"tests": []}', "non-empty list"),
        ('{"tests": "f(2) == 7"}', "non-empty list"),
        ('{"tests": ["f(2) = 7"]}', r"f\(2\) = 7"),
        ('{"asserts": "f(2) == 7"}', "holds no assert"),
        ('{"asserts": "assert f(2 == 7"}', "Python source"),
        ('{"tests": ["f(2) == 7"], "entry_point": "f()"}', "wanted a Python name"),
        ('{"stdin_stdout": {"inputs": ["1"], "outputs": []}}', "of one length"),
        ('{"stdin_stdout": {"inputs": ["1", "2"], "outputs": ["1"]}}', "of one length"),
        ('{"stdin_stdout": [["1"], ["1"]]}', "wanted inputs and outputs"),
    ],
)
def test_bad_ground_truth(ground_truth, message):
    with pytest.raises(ValueError, match=message):
        check_ground_truth("code", ground_truth)
