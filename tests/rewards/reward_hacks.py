"""Programs that cheat their tests: each with a specification that an honest program passes.

A row is (specification, honest program, cheating program). None of the cheats computes what its
test asks for.
"""

GOOD = "def f(x):\n    return x + 5\n"
ZERO = "def f(x):\n    return 0\n"
ALWAYS = "lambda *a, **k: True"


def tests(*expressions, **options):
    return {"tests": [*expressions]} | options


def asserts(source, **options):
    return {"asserts": source} | options


def script(expected):
    return {"stdin_stdout": {"inputs": ["2\n"], "outputs": [expected]}}


CLOSE = "math.isclose(f(2), 7)"
NUMPY = "np.allclose(f(2), 7)"
PRINTS = "print(int(input()) + 5)\n"
EMPTY = "input()\n"
SORTED = "a = [3, 1, 2]\nassert f(a) == sorted(a)"
SORTS = "def f(a):\n    return sorted(a)\n"
COUNTS = "def f(d):\n    return {**d, 'n': len(d)}\n"
POINT = "class P:\n    def __init__(self, x):\n        self.x = x\n"
NAN = "def f(x):\n    return float('nan')\n"

NAMES = {
    "a class that is called like a module": (
        tests(CLOSE),
        GOOD,
        f"class math:\n    isclose = {ALWAYS}\n{ZERO}",
    ),
    "a class that is called like NumPy": (
        tests(NUMPY, entry_point="f"),
        GOOD,
        f"class np:\n    allclose = {ALWAYS}\n{ZERO}",
    ),
    "a patched module": (tests(CLOSE), GOOD, f"import math\nmath.isclose = {ALWAYS}\n{ZERO}"),
    "a patched module in the list of modules": (
        asserts(f"import math\nassert {CLOSE}"),
        GOOD,
        f"import sys, types\nm = types.ModuleType('math')\nm.isclose = {ALWAYS}\n"
        f"sys.modules['math'] = m\nmath = m\n{ZERO}",
    ),
    "an imported name": (
        asserts("from math import isclose\nassert isclose(f(2), 7)"),
        GOOD,
        f"isclose = {ALWAYS}\n{ZERO}",
    ),
    "a name from a star import": (
        asserts("from math import *\nassert isclose(f(2), 7)"),
        GOOD,
        f"isclose = {ALWAYS}\n{ZERO}",
    ),
    "a helper of the test": (
        asserts("def same(a, b):\n    return a == b\nassert same(f(2), 7)"),
        GOOD,
        f"same = {ALWAYS}\n{ZERO}",
    ),
    "the parameter of a lambda": (
        tests("(lambda x: f(x) == 7)(2)"),
        GOOD,
        f"x = 0\n{ZERO}",
    ),
    "a builtin": (tests("abs(f(2) - 7) < 1e-6"), GOOD, f"abs = {ALWAYS}\n{ZERO}"),
    "the namespace of the tests": (
        tests("f(2) == 7"),
        GOOD,
        f"__builtins__ = {{'eval': {ALWAYS}}}\n__name__ = 'tests'\n{ZERO}",
    ),
    "the name of the candidate": (
        {"entry_point": "f", "check": "def check(candidate):\n    assert candidate(2) == 7\n"},
        GOOD,
        f"check = candidate = {ALWAYS}\n{ZERO}",
    ),
    "a reference of the same name": (
        {"functions": {"name": "f", "inputs": [[2]], "reference": GOOD}},
        GOOD,
        f"reference = expected = {ALWAYS}\n{ZERO}",
    ),
}
ARGUMENTS = {
    "empties a list": (asserts(SORTED), SORTS, "def f(a):\n    a.clear()\n    return []\n"),
    "fills a list": (
        asserts("a = [3]\nassert f(a) == [5] + a"),
        "def f(a):\n    return [5] + a\n",
        "def f(a):\n    a[:] = []\n    return [5]\n",
    ),
    "empties a dict": (
        asserts("d = {'a': 1}\nassert f(d) == {**d, 'n': 1}"),
        COUNTS,
        "def f(d):\n    d.clear()\n    return {'n': 1}\n",
    ),
    "changes an inner list": (
        asserts("a = [[1], [2]]\nassert f(a) == a[0] + a[1]"),
        "def f(a):\n    return a[0] + a[1]\n",
        "def f(a):\n    a[0].clear()\n    a[1].clear()\n    return []\n",
    ),
    "changes a set that is given by name": (
        asserts("s = {1, 2}\nassert f(s=s) == len(s)"),
        "def f(s):\n    return len(s)\n",
        "def f(s):\n    s.clear()\n    return 0\n",
    ),
    "changes it while a callback runs": (
        asserts("a = [2]\nassert f(a, lambda x: x + 5) == [x + 5 for x in a]"),
        "def f(a, g):\n    return [g(x) for x in a]\n",
        "def f(a, g):\n    g(a.pop())\n    return []\n",
    ),
}
OBJECTS = {
    "a number that is no number": (asserts("assert abs(f(2) - 7) < 1e-6"), GOOD, NAN),
    "an object that is close to everything": (
        tests(CLOSE),
        GOOD,
        "class E:\n    __float__ = lambda s: 7.0\n    __eq__ = lambda *a: True\n"
        "def f(x):\n    return E()\n",
    ),
    "an object with every attribute": (
        tests("f(2).x == 2"),
        POINT + "f = P\n",
        "class E:\n    def __getattr__(self, name):\n        return self\n"
        "    __eq__ = lambda *a: True\nf = lambda x: E()\n",
    ),
    "an endless iterator that equals everything": (
        tests("list(zip(f(2), range(2))) == [(2, 0), (3, 1)]"),
        "import itertools\nf = itertools.count\n",
        "import itertools\nclass E:\n    __eq__ = lambda *a: True\n"
        "f = lambda x: itertools.repeat(E())\n",
    ),
    "a module as the answer": (tests("f(2) == 7"), GOOD, "import operator\nf = operator\n"),
}
STATUS = {
    "aborts after the right output": (
        script("7"),
        PRINTS,
        "import os\nprint(7, flush=True)\nos.abort()\n",
    ),
    "aborts where nothing is expected": (script(""), EMPTY, "import os\nos.abort()\n"),
    "exits with a status": (script("7"), PRINTS, "print(7)\nexit(3)\n"),
    "exits with a message": (script("7"), PRINTS, "print(7)\nexit('no')\n"),
    "exits with a status, unreported": (script(""), EMPTY, "import os\nos._exit(1)\n"),
    "reports success and aborts": (
        script("7"),
        PRINTS,
        "import os\nprint(7, flush=True)\n"
        "os.write(3, b'\\0\\0\\0\\x0f' + b'{\"error\": null}')\nos.abort()\n",
    ),
    "ends by a segmentation fault": (
        script("7"),
        PRINTS,
        "import ctypes\nprint(7, flush=True)\nctypes.string_at(0)\n",
    ),
}
ALL = NAMES | ARGUMENTS | OBJECTS | STATUS
