"""The ground truth of a program: what a JSON test specification may say, and its check.

Comes in: the text of a ground truth. Goes out: nothing, or a ValueError that names what is wrong. `code.py` does the judging;
everything here is trusted data that is never shown to the program under test, but for the arguments of its calls and `prelude`.

    {"entry_point": "f",                                        a name the program must define (optional; "check" needs it)
     "prelude": "from typing import *",                         source that is run before the program (optional)
     "seconds": 6,                                              limit of each test below, not of all together (optional)
     "copies": true,                                            calls get copies of their arguments, also in asserts (optional)
     "tests": ["f(2) == 7", ...],                               each must be True
     "asserts": "assert f(2) == 7",                             source that must run through
     "check": "def check(candidate): ...",                      source whose check(f) must run through; f gets copies
     "functions": {"name": "f", "inputs": [[2]], "outputs": [7]},   f(2) must be 7, see `check_functions`
     "stdin_stdout": {"inputs": ["2\\n"], "outputs": ["7\\n"]}}   stdout for each stdin, see `compare.same_output`

At least one of the last five is there, and everything that is there must hold. "seconds" goes with the last two, whose tests
can be counted.
"""

import ast
import json
import math
from typing import Any

TESTS = ("tests", "asserts", "check", "functions", "stdin_stdout")
COUNTED = ("functions", "stdin_stdout")
KEYS = ("entry_point", "prelude", "seconds", "copies", *TESTS)
COMPARISONS = ("equal", "as_sets", "is_none", "root")


def check_ground_truth(ground_truth: str) -> None:
    """Raises ValueError saying what is wrong with the JSON test specification."""
    try:
        spec = json.loads(ground_truth)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"code ground truth {ground_truth!r:.80}: wanted JSON, got {error}"
        ) from error
    if not isinstance(spec, dict) or set(spec) - set(KEYS) or not set(spec) & set(TESTS):
        found = sorted(spec) if isinstance(spec, dict) else type(spec).__name__
        raise ValueError(
            f"code ground truth has {found}: wanted an object with one or more of {TESTS}, entry_point optional"
        )
    if not str(spec.get("entry_point", "f")).isidentifier():
        raise ValueError(f"entry_point {spec['entry_point']!r}: wanted a Python name")
    if spec.get("copies", True) not in (True, False):
        raise ValueError(f"copies {spec['copies']!r}: wanted true or false")
    if "seconds" in spec and not (
        _is_number(spec["seconds"]) and spec["seconds"] > 0 and set(spec) & set(COUNTED)
    ):
        raise ValueError(
            f"seconds {spec['seconds']!r}: wanted a number above 0, beside one of {COUNTED}"
        )
    if "prelude" in spec:
        _parse(spec["prelude"], "prelude")
    if "tests" in spec:
        tests = spec["tests"]
        if (
            not isinstance(tests, list)
            or not tests
            or not all(isinstance(test, str) for test in tests)
        ):
            raise ValueError(f"tests {tests!r:.80}: wanted a non-empty list of Python expressions")
        for test in tests:
            _parse(test.strip(), "test", "eval")
    for key in ("asserts", "check"):
        if key in spec and not any(
            isinstance(node, ast.Assert) for node in ast.walk(_parse(spec[key], key))
        ):
            raise ValueError(
                f"{key} {spec[key]!r:.80}: holds no assert, so every program would pass"
            )
    if "check" in spec:
        defined = {
            node.name for node in ast.parse(spec["check"]).body if isinstance(node, ast.FunctionDef)
        }
        if "check" not in defined or "entry_point" not in spec:
            raise ValueError(
                f"check {spec['check']!r:.80}: wanted source with def check(candidate), and an entry_point"
            )
    if "functions" in spec:
        check_functions(spec["functions"])
    if "stdin_stdout" in spec:
        _check_pairs(spec["stdin_stdout"])


def _parse(source: Any, what: str, mode: str = "exec") -> ast.AST:
    wanted = "expression" if mode == "eval" else "source"
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{what} {source!r:.80}: wanted Python {wanted}")
    try:
        return ast.parse(source, mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{what} {source!r:.80}: wanted Python {wanted}: {error}") from None


def check_functions(cases: Any) -> None:
    """Raises ValueError for wrong function cases.

    name: "f", or "Solution.f" for a method of a class that is made anew for each case; a program may have it in either place.
    inputs: one list of arguments for each case. outputs: the wanted value of each; else
    reference: source that defines `f`, trusted, run by the judge to find the wanted values.
    literals: true where inputs and outputs are Python literals as text: for tuples, sets and what else JSON has not.
    atol: absolute tolerance of floats (the relative one is then 1e-7); none: equality, tuples counting as lists.
    either: true where a wanted list of one value may also be given bare, as in the data sets that wrap every output.
    compare: "equal", "as_sets", "is_none" (only whether it is None) or "root" (the value is a root of the polynomial that
        the argument lists, lowest power first).
    """
    known = {"name", "inputs", "outputs", "reference", "literals", "atol", "either", "compare"}
    if not isinstance(cases, dict) or set(cases) - known or "name" not in cases:
        raise ValueError(
            f"functions {cases!r:.80}: wanted an object with name, inputs, and outputs or reference"
        )
    owner, _, name = str(cases["name"]).rpartition(".")
    if not name.isidentifier() or owner not in ("", "Solution"):
        raise ValueError(
            f"functions name {cases['name']!r}: wanted a Python name, or Solution.NAME"
        )
    inputs = values(cases, "inputs")
    if (
        not isinstance(inputs, list)
        or not inputs
        or not all(isinstance(arguments, (list, tuple)) for arguments in inputs)
    ):
        raise ValueError(
            f"functions inputs {inputs!r:.80}: wanted a non-empty list of lists of arguments"
        )
    if cases.get("compare", "equal") not in COMPARISONS:
        raise ValueError(f"functions compare {cases['compare']!r}: wanted one of {COMPARISONS}")
    atol = cases.get("atol", 0)
    if not isinstance(atol, (int, float)) or not 0 <= atol < math.inf:
        raise ValueError(f"functions atol {atol!r}: wanted a number >= 0")
    if "reference" in cases:
        defined = {
            getattr(node, "name", None) for node in _parse(cases["reference"], "reference").body
        }
        if name not in defined:
            raise ValueError(
                f"functions reference {cases['reference']!r:.80}: does not define {name}"
            )
    elif "outputs" in cases or cases.get("compare") != "root":
        outputs = values(cases, "outputs")
        if not isinstance(outputs, list) or len(outputs) != len(inputs):
            raise ValueError(
                f"functions outputs {outputs!r:.80}: wanted a list as long as inputs, or a reference"
            )


def values(cases: dict[str, Any], key: str) -> Any:
    """inputs or outputs of function cases."""
    value = cases.get(key)
    if not cases.get("literals") or value is None:
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"functions {key} {value!r:.80}: wanted a Python literal as text: {error}"
        ) from None


def test_seconds(spec: dict[str, Any], timeout_s: float) -> float:
    """Seconds that all tests of an answer may take: `timeout_s`, or what its data set gives each of them, together."""
    if "seconds" not in spec:
        return timeout_s
    return spec["seconds"] * sum(len(values(spec[key], "inputs")) for key in COUNTED if key in spec)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_pairs(pairs: Any) -> None:
    lists = [pairs.get(key) for key in ("inputs", "outputs")] if isinstance(pairs, dict) else [None]
    if (
        not all(
            isinstance(x, list) and x and all(isinstance(text, str) for text in x) for x in lists
        )
        or len(set(map(len, lists))) > 1
    ):
        raise ValueError(
            f"stdin_stdout {pairs!r:.80}: wanted inputs and outputs, non-empty lists of strings of one length"
        )
    tolerance = pairs.get("tolerance", 0)
    if (
        set(pairs) - {"inputs", "outputs", "tolerance"}
        or not isinstance(tolerance, (int, float))
        or not 0 <= tolerance < 1
    ):
        raise ValueError(
            f"stdin_stdout {pairs!r:.80}: wanted inputs, outputs and at most a tolerance in [0, 1)"
        )
