"""Programs: right ones, wrong ones, extraction. Hostile ones: `test_hostile.py`."""

import json

import pytest

from gopd_jax.rewards import code
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth

TESTS = {"tests": ["f(2) == 7", "f(3) == 8"]}
GOOD = "def f(x):\n    return x + 5\n"
IDENTITY = "def f(x): return x"
STACK = """
class S:
    def __init__(self):
        self.a = []
    def push(self, x):
        self.a.append(x)
        return self
"""
USE_STACK = """
s = S()
s.push(1).push(2)
assert s.a == [1, 2]
assert s.push(3) is not None
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
THREAD = "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n"
RAISES = "try:\n    f()\n    assert False\nexcept KeyError:\n    pass"
VALUES = "(1, 2.5, 'a', b'b', None, True, {1: {2}}, [float('inf')], 2**200, 1j)"
SOLUTION = """
class Solution:
    def __init__(self):
        self.n = 0
    def count(self):
        self.n += 1
        return self.n
"""
SORTS = "def f(a):\n    a.clear()\n    return []\n"
PRELUDE = "from typing import *\nfrom math import *"
NUMPY_CLOSE = "import numpy as np\nassert np.allclose(f(1.0), 6.0)"


CLOSES_AND_STAYS = """
import os, time
print(7, flush=True)
os.closerange(0, 32)
time.sleep(60)
"""


def functions(inputs, outputs=None, name="f", **options):
    """A specification of function cases; without outputs, `options` says what is expected."""
    cases = {"name": name, "inputs": inputs} | options
    return {"functions": cases if outputs is None else cases | {"outputs": outputs}}


def script(inputs, outputs, **options):
    return {"stdin_stdout": {"inputs": inputs, "outputs": outputs} | options}


def check(body, **options):
    source = f"def check(candidate):\n{body}"
    return {"entry_point": "f", "check": source} | options


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


def test_fences_without_an_end_take_linear_time():
    """Quadratic time would be minutes."""
    response = "```a\n" * 200_000
    assert code.extract_program(response) == response
    spaces = "```" + " " * 1_000_000
    assert code.extract_program(spaces) == spaces


RIGHT = [
    (GOOD, TESTS),
    (f"Here:\n```python\n{GOOD}```\n", TESTS),
    (GOOD, {"entry_point": "f", **TESTS}),
    (GOOD, {"asserts": "for i in range(3):\n    assert f(i) == i + 5\n"}),
    (GOOD, {"asserts": "def check(candidate):\n    assert candidate(1) == 6\ncheck(f)"}),
    ("def max(a):\n    return a[0]\n", {"entry_point": "max", "tests": ["max([1, 2]) == 1"]}),
    ("def f(a):\n    a.sort()\n", {"asserts": "a = [3, 1, 2]\nf(a)\nassert a == [1, 2, 3]"}),
    ("def f(g, x):\n    return g(x)\n", {"tests": ["f(lambda x: x + 1, 2) == 3"]}),
    ("def f():\n    raise KeyError(1)\n", {"asserts": RAISES}),
    (
        "def f():\n    yield from range(10**9)\n",
        {"tests": ["next(f()) == 0", "[x for x, _ in zip(f(), 'ab')] == [0, 1]"]},
    ),
    (
        "from math import *\nimport math\ndef f(): return pi",
        {"tests": ["math.isclose(f(), 3.14159265, rel_tol=1e-6)"]},
    ),
    # A test may use these modules without an import.
    ("def f(): return 2**0.5", {"tests": ["math.isclose(f(), np.sqrt(2))"]}),
    ("def pop(a): return a.pop()", {"asserts": "a = [1]\npop(a)\nassert not a", "copies": False}),
    ("f = g = abs", {"entry_point": "f", "names": ["g"], "tests": ["f(-1) == g(-1) == 1"]}),
    (STACK, {"asserts": USE_STACK}),
    (POINT, {"tests": ["P(1) + P(2) == P(3)", "str(P(1)) == 'P(x=1)'"]}),
    (f"def f():\n    return {VALUES}", {"tests": [f"f() == {VALUES}"]}),
    (THREAD + GOOD, TESTS),
    ("print(int(input()) + 5)", script(["2\n", "3"], ["7\n", " 8 "])),
    ("import sys\nprint(sys.stdin.read())\nsys.exit(0)", script(["a\nb"], ["a\nb\n\n"])),
    ("if __name__ == '__main__':\n    print(1)", script([""], ["1"])),
    ("print('1.50  x')", script([""], ["1.5 x"])),
    ("import os\nprint(7, flush=True)\nos._exit(0)", script([""], ["7"])),
    ("import os, sys\nprint(7)\nos.close(3)\nsys.exit()", script([""], ["7"])),
    ("print(0.333333)", script([""], ["0.3333333"], tolerance=1e-6)),
    (GOOD, check("    assert candidate(1) == 6 and f(2) == 7")),
    ("def f(a):\n    a.append(1)\n    return a\n", functions([[[0]]], [[0, 1]])),
    (
        "def f(a: List[int]): return tuple(a), inf",
        functions("[[[1, 2]]]", "[([1, 2], 1e999)]", literals=True) | {"prelude": PRELUDE},
    ),
    (SOLUTION, functions([[], []], [1, 1], "Solution.count")),
    (SOLUTION, functions([[]], [1], "count")),
    ("def count(): return 1", functions([[]], [1], "Solution.count")),
    (GOOD, functions("[(2,), (3,)]", literals=True, reference="def f(x): return 5 + x")),
    ("def f(x): return x / 3", functions([[1]], [0.3333333], atol=1e-6)),
    (IDENTITY, functions([[5]], [[5]], either=True)),
    ("def f(x): return list(x)", functions([["ab"]], ["ba"], compare="as_sets")),
    ("def f(x): return -2.0", functions([[[4, 2]]], atol=1e-4, compare="root")),
    ("def f(x): return 'm'", functions([[1]], [5], compare="is_none")),
    ("import numpy\ndef f(x): return numpy.int64(x)", functions([[5]], [5])),
    (GOOD, {"asserts": NUMPY_CLOSE}),
]


@pytest.mark.parametrize("program, spec", RIGHT)
def test_right(verify, program, spec):
    check_ground_truth("code", json.dumps(spec))
    assert run(verify, program, spec) == Verdict(1.0, "correct")


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


WRONG_AND_WHY = [
    ("def f(x): return x", {"tests": ["f(0) == 0", "f(2) == 7"]}, "failed: f(2) == 7"),
    ("def f(x): return x", functions([[2]], [7]), "failed: f(2) is 2, expected 7"),
    ("def f(x): return [f]", functions([[2]], [7]), "failed: f(2) is [an object], expected 7"),
    (
        "def f(x): return 9**9999",
        functions([[2]], [7]),
        "failed: f(2) is a long number, expected 7",
    ),
    (
        "def f(x): return x",
        {"asserts": "assert f(0) == 0\nassert f(2) == 7, 'two'"},
        "failed: assert f(2) == 7, 'two' two",
    ),
    (
        "class C:\n  def __str__(self):\n    while True: pass\ndef f(x): return C()",
        {"asserts": "y = f(2)\nassert y == 7, y"},
        "failed: assert y == 7, y an object",
    ),
    (
        "def f(x): return x",
        {"asserts": "s = 'a\x0cb'; assert f(0) == 0\nassert f(2) == 7"},
        "failed: assert f(2) == 7",
    ),
    (
        "def f(x): return x",
        check("    assert candidate(2) == 7"),
        "failed: assert candidate(2) == 7",
    ),
    (
        "print(input())",
        script(["1\n", "2\n"], ["1", "7"]),
        r"failed: with the input '2\n' the output is '2\n', expected '7'",
    ),
    ("def f(x): raise KeyError('no', x)", {"tests": ["f(2) == 7"]}, "KeyError: ('no', 2)"),
    ("def f(x):\n  assert x, 'none'", {"tests": ["f(0) == 7"]}, "AssertionError: none"),
    (
        "def f(x) return x",
        {"tests": ["f(2) == 7"]},
        "SyntaxError: expected ':' (program.py, line 1)",
    ),
    ("class E(Exception):\n  __str__ = None\nraise E", {"tests": ["f(2) == 7"]}, "E"),
    ("raise ValueError('\\ud800 \u00e9')", {"tests": ["f(2) == 7"]}, "ValueError: ? \u00e9"),
    ("raise ValueError('x' * 9999)", {"tests": ["f(2) == 7"]}, f"ValueError: {'x' * 500}"),
    ("def g(x): pass", functions([[2]], [7]), "error: no f"),
    ("while True: pass", {"tests": ["f(2) == 7"]}, "timeout"),
]


@pytest.mark.parametrize("program, spec, words", WRONG_AND_WHY)
def test_feedback_says_which_test_failed_and_how(verify, program, spec, words):
    check_ground_truth("code", json.dumps(spec))
    verdict = run(verify, program, spec)
    assert verdict.reward == 0 and verdict.in_words == words


def test_the_feedback_of_a_right_answer_is_that_it_is_correct(verify):
    verdict = run(verify, GOOD)
    assert (verdict.feedback, verdict.in_words) == ("", "correct")


NOT_QUITE_RIGHT = [
    ("def f(x): return [x]", functions([[5]], [5])),
    (IDENTITY, functions([[5]], [[5]])),
    ("def f(x): return [5, 6]", functions([[5]], [5], either=True)),
    ("def f(x): return 5.0001", functions([[5]], [5.0], atol=1e-6)),
    ("def f(x): return 10**9 + 1", functions([[5]], [10**9], atol=1e-6)),
    ("def f(x): return 0.0", functions([[[4, 2]]], atol=1e-4, compare="root")),
    ("def f(x): return -1e9", functions([[[4, 2]]], atol=1e-4, compare="root")),
    ("def f(x): return None", functions([[1]], [5], compare="is_none")),
    ("def f(x): return [1]", functions([[1]], [[1, 2]], compare="as_sets")),
    # An answer that empties its argument does not change what the reference or the test sees later.
    (SORTS, functions([[[1]]], reference="def f(a):\n    return list(a)\n")),
    (SORTS, check("    a = [1]\n    assert candidate(a) == a")),
    (SORTS, {"asserts": "a = [1]\nassert f(a) == a", "copies": True}),
    # numpy.allclose alone finds an empty list close to any number.
    ("def f(x): return []", {"asserts": NUMPY_CLOSE}),
    ("print('1.51')", script([""], ["1.5"])),
    ("print('10000001')", script([""], ["10000000"], tolerance=1e-6)),
    ("print('1\\n2')", script([""], ["1 2"])),
    ("print('nan')", script([""], ["1.5"], tolerance=1e-6)),
]


@pytest.mark.parametrize("program, spec", NOT_QUITE_RIGHT)
def test_not_quite_right(verify, program, spec):
    check_ground_truth("code", json.dumps(spec))
    assert run(verify, program, spec) == Verdict(0.0, "wrong")


EQUAL = """
class E(int):
    __eq__ = __lt__ = __sub__ = __abs__ = lambda *a: True
    __hash__ = None
"""
PATCH = "import builtins\nbuiltins.abs = builtins.sorted = lambda *a: 7\n"


def test_objects_of_the_program_do_not_decide_numeric_tests(verify):
    spec = {"asserts": "assert abs(f(2) - 7) < 1e-6"}
    returns_equal = EQUAL + "def f(x):\n    return E()\n"
    assert run(verify, GOOD, spec).reward == 1.0
    assert run(verify, returns_equal, spec).reward == 0.0
    assert run(verify, returns_equal.replace("(int)", ""), spec).reward == 0.0


def test_patched_builtins_do_not_reach_the_judge(verify):
    spec = {"tests": ["abs(f(2)) == 7"]}
    assert run(verify, "def f(x):\n    return -7\n", spec).reward == 1.0
    assert run(verify, PATCH + "def f(x):\n    return 0\n", spec) == Verdict(0.0, "wrong")


@pytest.mark.parametrize(
    "program, detail",
    [
        ("import os\ndef f(x):\n    os._exit(0)\n", "error: program ended"),
        ("def f(x):\n    while True: pass\n", "timeout"),
    ],
)
def test_a_failure_that_the_test_swallows_still_counts(verify, program, detail):
    spec = {"asserts": "try:\n    f(1)\nexcept Exception:\n    pass\nassert True"}
    assert run(verify, program, spec) == Verdict(0.0, detail)


@pytest.mark.parametrize(
    "program, detail",
    [
        ("print(1)", "wrong"),
        ("print(7)\nraise ValueError", "error: ValueError"),
        ("import os\nos._exit(0)", "wrong"),
        ("while True: pass", "timeout"),
        ("import sys\nprint(7)\nsys.exit(3)", "error: exit status 3"),
        ("import os\nprint(7, flush=True)\nos._exit(2)", "error: exit status 2"),
        (CLOSES_AND_STAYS, "timeout"),
    ],
)
def test_stdout_must_be_right(verify, program, detail):
    assert run(verify, program, script(["2"], ["7"])) == Verdict(0.0, detail)


def test_every_part_counts(verify):
    assert run(verify, GOOD, {**TESTS, "asserts": "assert f(0) == 5"}).reward == 1.0
    assert run(verify, GOOD, {**TESTS, "asserts": "assert f(0) == 6"}).reward == 0.0
    assert run(verify, GOOD, {"tests": ["f(2) == 7", "f(3) == 9"]}).reward == 0.0
    assert run(verify, GOOD, {"tests": ["f(2)"]}).reward == 0.0  # truthy is not True
    assert run(verify, GOOD, {**TESTS, "entry_point": "g"}) == Verdict(0.0, "error: no g")
    two = script(["1", "2"], ["1", "3"])
    assert run(verify, "print(input())", two) == Verdict(0.0, "wrong")


def test_programs_do_not_see_each_other_or_the_trainer(verify, monkeypatch):
    monkeypatch.setenv("GOPD_SECRET", "1")
    leaves_marks = "import math\nmath.gopd = 1\nimport builtins\nbuiltins.gopd = 1\n" + GOOD
    assert run(verify, leaves_marks).reward == 1.0
    spec = {"tests": ["f() == (False, False, [])"]}
    assert run(verify, LOOK, spec) == Verdict(1.0, "correct")


def test_a_judge_that_hangs_is_replaced():
    with Verifier(timeout_s=0.2) as verify:
        assert run(verify, GOOD, {"tests": ["f(9**9**9**9) == 1"]}) == Verdict(0.0, "timeout")
        assert run(verify, GOOD).reward == 1.0


SLOW = """
import time
def f(x):
    time.sleep(x)
    return x
if __name__ == '__main__': print(f(float(input())))
"""


@pytest.mark.parametrize(
    "spec",
    [
        lambda seconds: functions([[s] for s in seconds], seconds),
        pytest.param(
            lambda seconds: script([f"{s}\n" for s in seconds], list(map(str, seconds))),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["functions", "script"],
)
def test_a_limit_of_each_test_is_not_one_of_all(verify, spec):
    assert run(verify, SLOW, spec([1.2] * 3)) == Verdict(0.0, "timeout")  # the verifier has 1.5 s
    assert run(verify, SLOW, spec([1.2] * 3) | {"seconds": 3}) == Verdict(1.0, "correct")
    # All ten tests may take 10 s together, but the first takes more than its 1 s.
    ten = spec([3.0] + [0.0] * 9) | {"seconds": 1}
    assert run(verify, SLOW, ten) == Verdict(0.0, "timeout")
