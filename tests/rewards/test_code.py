"""Programs: right and wrong ones, extraction, test specifications. Hostile ones: `test_hostile.py`."""

import json

import pytest

from gopd_jax.rewards import code
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth

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
PRELUDE = "from typing import *\nfrom math import *"
PAIR = {"name": "f", "inputs": "[[[1, 2]]]", "outputs": "[([1, 2], 1e999)]", "literals": True}
SOLUTION = """
class Solution:
    def __init__(self):
        self.n = 0
    def count(self):
        self.n += 1
        return self.n
"""
SORTS = "def f(a):\n    a.clear()\n    return []\n"
REFERENCE = {"name": "f", "reference": "def f(a):\n    return list(a)\n"}


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
        (
            "def f():\n    raise KeyError(1)\n",
            {"asserts": "try:\n    f()\n    assert False\nexcept KeyError:\n    pass"},
        ),
        (
            "def f():\n    yield from range(10**9)\n",
            {"tests": ["next(f()) == 0", "[x for x, _ in zip(f(), 'ab')] == [0, 1]"]},
        ),
        (
            "from math import *\nimport math\ndef f(): return pi",
            {"tests": ["math.isclose(f(), 3.14159265, rel_tol=1e-6)"]},
        ),
        (
            STACK,
            {
                "asserts": "s = S()\ns.push(1).push(2)\nassert s.a == [1, 2]\nassert s.push(3) is not None"
            },
        ),
        (
            POINT,
            {"tests": ["P(1) + P(2) == P(3)", "str(P(1)) == 'P(x=1)'"]},
        ),
        (
            "def f():\n    return (1, 2.5, 'a', b'b', None, True, {1: {2}}, [float('inf')], 2**200, 1j)",
            {
                "tests": [
                    "f() == (1, 2.5, 'a', b'b', None, True, {1: {2}}, [float('inf')], 2**200, 1j)"
                ]
            },
        ),
        (
            "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n" + GOOD,
            TESTS,
        ),
        (
            "print(int(input()) + 5)",
            {"stdin_stdout": {"inputs": ["2\n", "3"], "outputs": ["7\n", " 8 "]}},
        ),
        (
            "import sys\nprint(sys.stdin.read())\nsys.exit(0)",
            {"stdin_stdout": {"inputs": ["a\nb"], "outputs": ["a\nb\n\n"]}},
        ),
        (
            "if __name__ == '__main__':\n    print(1)",
            {"stdin_stdout": {"inputs": [""], "outputs": ["1"]}},
        ),
        ("print('1.50  x')", {"stdin_stdout": {"inputs": [""], "outputs": ["1.5 x"]}}),
        (
            "print(0.333333)",
            {"stdin_stdout": {"inputs": [""], "outputs": ["0.3333333"], "tolerance": 1e-6}},
        ),
        (
            GOOD,
            {
                "entry_point": "f",
                "check": "def check(candidate):\n    assert candidate(1) == 6 and f(2) == 7",
            },
        ),
        (
            "def f(a):\n    a.append(1)\n    return a\n",
            {"functions": {"name": "f", "inputs": [[[0]]], "outputs": [[0, 1]]}},
        ),
        ("def f(a: List[int]): return tuple(a), inf", {"prelude": PRELUDE, "functions": PAIR}),
        (
            SOLUTION,
            {"functions": {"name": "Solution.count", "inputs": [[], []], "outputs": [1, 1]}},
        ),
        (SOLUTION, {"functions": {"name": "count", "inputs": [[]], "outputs": [1]}}),
        (
            "def count(): return 1",
            {"functions": {"name": "Solution.count", "inputs": [[]], "outputs": [1]}},
        ),
        (
            GOOD,
            {
                "functions": {
                    "name": "f",
                    "inputs": "[(2,), (3,)]",
                    "literals": True,
                    "reference": "def f(x): return 5 + x",
                }
            },
        ),
        (
            "def f(x): return x / 3",
            {"functions": {"name": "f", "inputs": [[1]], "outputs": [0.3333333], "atol": 1e-6}},
        ),
        (
            "def f(x): return x",
            {"functions": {"name": "f", "inputs": [[5]], "outputs": [[5]], "either": True}},
        ),
        (
            "def f(x): return list(x)",
            {
                "functions": {
                    "name": "f",
                    "inputs": [["ab"]],
                    "outputs": ["ba"],
                    "compare": "as_sets",
                }
            },
        ),
        (
            "def f(x): return -2.0",
            {"functions": {"name": "f", "inputs": [[[4, 2]]], "atol": 1e-4, "compare": "root"}},
        ),
        (
            "def f(x): return 'm'",
            {"functions": {"name": "f", "inputs": [[1]], "outputs": [5], "compare": "is_none"}},
        ),
        (
            "import numpy\ndef f(x): return numpy.int64(x)",
            {"functions": {"name": "f", "inputs": [[5]], "outputs": [5]}},
        ),
        (GOOD, {"asserts": "import numpy as np\nassert np.allclose(f(1.0), 6.0)"}),
    ],
)
def test_right(verify, program, spec):
    check_ground_truth("code", json.dumps(spec))
    assert run(verify, program, spec) == Verdict(1.0, "correct")


EQUAL = "class E(int):\n    __eq__ = __lt__ = __sub__ = __abs__ = lambda *a: True\n    __hash__ = None\n"
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
        ("a = []\nwhile True: a.append(bytearray(10**7))", "memory"),
        ("import os\nos.kill(-1, 9)", "error: PermissionError"),
        ("import sys\nsys.exit(0)", "error: SystemExit"),
        ("import os\nos._exit(0)", "error: program ended"),
        ("import os\ndef f(x):\n    os.write(3, b'\\0\\0\\0\\4true')\n", "error: unreadable reply"),
    ],
)
def test_wrong_scores_zero_says_why_and_the_next_is_right(verify, program, detail):
    assert run(verify, program) == Verdict(0.0, detail)
    assert run(verify, GOOD + f"# after {hash((program, detail))}") == Verdict(1.0, "correct")


def test_objects_of_the_program_do_not_decide_numeric_tests(verify):
    spec = {"asserts": "assert abs(f(2) - 7) < 1e-6"}
    assert run(verify, GOOD, spec).reward == 1.0
    assert run(verify, EQUAL + "def f(x):\n    return E()\n", spec).reward == 0.0
    assert (
        run(verify, EQUAL.replace("(int)", "") + "def f(x):\n    return E()\n", spec).reward == 0.0
    )


def test_patched_builtins_do_not_reach_the_judge(verify):
    spec = {"tests": ["abs(f(2)) == 7"]}
    assert run(verify, "def f(x):\n    return -7\n", spec).reward == 1.0
    assert run(verify, PATCH + "def f(x):\n    return 0\n", spec) == Verdict(0.0, "wrong")


@pytest.mark.parametrize(
    "program, spec",
    [
        ("def f(x): return [x]", {"functions": {"name": "f", "inputs": [[5]], "outputs": [5]}}),
        ("def f(x): return x", {"functions": {"name": "f", "inputs": [[5]], "outputs": [[5]]}}),
        (
            "def f(x): return [5, 6]",
            {"functions": {"name": "f", "inputs": [[5]], "outputs": [5], "either": True}},
        ),
        (
            "def f(x): return 5.0001",
            {"functions": {"name": "f", "inputs": [[5]], "outputs": [5.0], "atol": 1e-6}},
        ),
        (
            "def f(x): return 10**9 + 1",
            {"functions": {"name": "f", "inputs": [[5]], "outputs": [10**9], "atol": 1e-6}},
        ),
        (
            "def f(x): return 0.0",
            {"functions": {"name": "f", "inputs": [[[4, 2]]], "atol": 1e-4, "compare": "root"}},
        ),
        (
            "def f(x): return -1e9",
            {"functions": {"name": "f", "inputs": [[[4, 2]]], "atol": 1e-4, "compare": "root"}},
        ),
        (
            "def f(x): return None",
            {"functions": {"name": "f", "inputs": [[1]], "outputs": [5], "compare": "is_none"}},
        ),
        (
            "def f(x): return [1]",
            {
                "functions": {
                    "name": "f",
                    "inputs": [[1]],
                    "outputs": [[1, 2]],
                    "compare": "as_sets",
                }
            },
        ),
        # an answer that empties its argument does not change what the reference or the test sees after it
        (SORTS, {"functions": REFERENCE | {"inputs": [[[1]]]}}),
        (
            SORTS,
            {
                "entry_point": "f",
                "check": "def check(candidate):\n    a = [1]\n    assert candidate(a) == a",
            },
        ),
        (SORTS, {"asserts": "a = [1]\nassert f(a) == a", "copies": True}),
        # numpy.allclose alone takes an empty list for close to every number
        ("def f(x): return []", {"asserts": "import numpy as np\nassert np.allclose(f(1.0), 6.0)"}),
        ("print('1.51')", {"stdin_stdout": {"inputs": [""], "outputs": ["1.5"]}}),
        (
            "print('10000001')",
            {"stdin_stdout": {"inputs": [""], "outputs": ["10000000"], "tolerance": 1e-6}},
        ),
        ("print('1\\n2')", {"stdin_stdout": {"inputs": [""], "outputs": ["1 2"]}}),
        ("print('nan')", {"stdin_stdout": {"inputs": [""], "outputs": ["1.5"], "tolerance": 1e-6}}),
    ],
)
def test_not_quite_right(verify, program, spec):
    check_ground_truth("code", json.dumps(spec))
    assert run(verify, program, spec) == Verdict(0.0, "wrong")


def test_a_swallowed_failure_still_counts(verify):
    spec = {"asserts": "try:\n    f(1)\nexcept Exception:\n    pass\nassert True"}
    assert run(verify, "import os\ndef f(x):\n    os._exit(0)\n", spec) == Verdict(
        0.0, "error: program ended"
    )
    assert run(verify, "def f(x):\n    while True: pass\n", spec) == Verdict(0.0, "timeout")


@pytest.mark.parametrize(
    "program, detail",
    [
        ("print(1)", "wrong"),
        ("print(7)\nraise ValueError", "error: ValueError"),
        ("import os\nos._exit(0)", "wrong"),
        ("while True: pass", "timeout"),
    ],
)
def test_stdout_must_be_right(verify, program, detail):
    assert run(verify, program, {"stdin_stdout": {"inputs": ["2"], "outputs": ["7"]}}) == Verdict(
        0.0, detail
    )


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
    assert (
        run(
            verify, "import math\nmath.gopd = 1\nimport builtins\nbuiltins.gopd = 1\n" + GOOD
        ).reward
        == 1.0
    )
    spec = {"tests": ["f() == (False, False, [])"]}
    assert run(verify, LOOK, spec) == Verdict(1.0, "correct")


def test_a_judge_that_hangs_is_replaced():
    with Verifier(timeout_s=0.2) as verify:
        assert run(verify, GOOD, {"tests": ["f(9**9**9**9) == 1"]}) == Verdict(0.0, "timeout")
        assert run(verify, GOOD).reward == 1.0


SLOW = "import time\ndef f(x):\n    time.sleep(x)\n    return x\nif __name__ == '__main__': print(f(float(input())))\n"


@pytest.mark.parametrize(
    "spec",
    [
        lambda seconds: {
            "functions": {"name": "f", "inputs": [[s] for s in seconds], "outputs": seconds}
        },
        lambda seconds: {
            "stdin_stdout": {
                "inputs": [f"{s}\n" for s in seconds],
                "outputs": list(map(str, seconds)),
            }
        },
    ],
)
def test_a_limit_of_each_test_is_not_one_of_all(verify, spec):
    assert run(verify, SLOW, spec([1.2] * 3)) == Verdict(0.0, "timeout")  # the verifier has 1.5 s
    assert run(verify, SLOW, spec([1.2] * 3) | {"seconds": 3}) == Verdict(1.0, "correct")
    assert run(verify, SLOW, spec([3.0] + [0.0] * 9) | {"seconds": 1}) == Verdict(
        0.0, "timeout"
    )  # 10 s for all ten


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
        ('{"stdin_stdout": {"inputs": ["1"], "outputs": ["1"], "tolerance": 2}}', "tolerance in"),
        ('{"check": "def check(candidate): assert candidate()"}', "and an entry_point"),
        ('{"check": "assert f()", "entry_point": "f"}', r"def check\(candidate\)"),
        ('{"check": "def check(c): pass", "entry_point": "f"}', "holds no assert"),
        (
            '{"asserts": "assert f()", "prelude": "import"}',
            "prelude 'import': wanted Python source",
        ),
        (
            '{"asserts": "assert f()", "seconds": 6}',
            "seconds 6: wanted a number above 0, beside one of",
        ),
        (
            '{"stdin_stdout": {"inputs": ["1"], "outputs": ["1"]}, "seconds": 0}',
            "seconds 0: wanted a number above 0",
        ),
        ('{"asserts": "assert f()", "copies": 2}', "copies 2: wanted true or false"),
        ('{"functions": {"inputs": [[1]], "outputs": [1]}}', "wanted an object with name, inputs"),
        (
            '{"functions": {"name": "A.f", "inputs": [[1]], "outputs": [1]}}',
            "wanted a Python name, or Solution.NAME",
        ),
        (
            '{"functions": {"name": "f", "inputs": [1], "outputs": [1]}}',
            "list of lists of arguments",
        ),
        (
            '{"functions": {"name": "f", "inputs": [[1]], "outputs": [1, 2]}}',
            "a list as long as inputs",
        ),
        (
            '{"functions": {"name": "f", "inputs": [[1]]}}',
            "a list as long as inputs, or a reference",
        ),
        (
            '{"functions": {"name": "f", "inputs": [[1]], "reference": "def g(): 1"}}',
            "does not define f",
        ),
        (
            '{"functions": {"name": "f", "inputs": "[[g()]]", "outputs": "[1]", "literals": true}}',
            "wanted a Python literal",
        ),
        (
            '{"functions": {"name": "f", "inputs": [[1]], "outputs": [1], "compare": "about"}}',
            "wanted one of",
        ),
        (
            '{"functions": {"name": "f", "inputs": [[1]], "outputs": [1], "atol": -1}}',
            "wanted a number >= 0",
        ),
    ],
)
def test_bad_ground_truth(ground_truth, message):
    with pytest.raises(ValueError, match=message):
        check_ground_truth("code", ground_truth)
