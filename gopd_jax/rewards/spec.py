"""The ground truth of a program: a JSON test specification, and its check.

Comes in: the text of a ground truth. Goes out: nothing, or a ValueError that names what is wrong.
`code.py` runs the tests. A specification is trusted; the program under test sees none of it, except
the arguments of its calls and `prelude`.

    {"entry_point": "f",                         a name the program must define
                                                 (optional; "check" needs it)
     "names": ["f", "Pair"],                     further names of the program that tests may use
                                                 (optional, see `names_under_test`)
     "prelude": "from typing import *",          source that runs before the program (optional)
     "seconds": 6,                               limit of each test, in place of the verifier's
                                                 limit of all together (optional)
     "copies": true,                             what a call changes in its arguments is seen by
                                                 no test with true, by all with false, and if the
                                                 call returns None without this key
     "tests": ["f(2) == 7", ...],                each must be True
     "asserts": "assert f(2) == 7",              source that must run without exception
     "check": "def check(candidate): ...",       source whose check(f) must run without exception;
                                                 f gets copies of its arguments
     "functions": {"name": "f", "inputs": [[2]], "outputs": [7]},
                                                 f(2) must be 7, see `check_functions`
     "stdin_stdout": {"inputs": ["2\\n"], "outputs": ["7\\n"]}}
                                                 stdout for each stdin, see `compare.same_output`

A specification holds at least one of the last five, and everything it holds must be satisfied.
"seconds" goes with the last two, whose tests can be counted.
"""

import ast
import builtins
import importlib
import json
import math
from typing import Any

from gopd_jax.rewards.modules import MODULES

Spec = dict[str, Any]  # a test specification, read from JSON

TESTS = ("tests", "asserts", "check", "functions", "stdin_stdout")
COUNTED = ("functions", "stdin_stdout")
KEYS = ("entry_point", "names", "prelude", "seconds", "copies", *TESTS)
CASE_KEYS = ("name", "inputs", "outputs", "reference", "literals", "atol", "either", "compare")
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler)
COMPARISONS = ("equal", "as_sets", "is_none", "root")


def check_ground_truth(ground_truth: str) -> None:
    """Checks a JSON test specification.

    Raises:
        ValueError: naming what is wrong.
    """
    try:
        spec = json.loads(ground_truth)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"code ground truth {ground_truth!r:.80}: expected JSON, got {error}"
        ) from error
    if not isinstance(spec, dict):
        raise ValueError(
            f"code ground truth {ground_truth!r:.80} is {type(spec).__name__}: expected an object "
            f"with one or more of {TESTS}"
        )
    if set(spec) - set(KEYS) or not set(spec) & set(TESTS):
        raise ValueError(
            f"code ground truth has {sorted(spec)}: expected an object with one or more of "
            f"{TESTS}, and no keys but {KEYS}"
        )
    _check_options(spec)
    if "tests" in spec:
        _check_tests(spec["tests"])
    for key in ("asserts", "check"):
        if key in spec:
            _check_asserts(key, spec[key])
    if "check" in spec:
        body = ast.parse(spec["check"]).body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        if "check" not in defined or "entry_point" not in spec:
            raise ValueError(
                f"check {spec['check']!r:.80}: expected source with def check(candidate), and an "
                "entry_point"
            )
    names_under_test(spec)
    if "functions" in spec:
        check_functions(spec["functions"])
    if "stdin_stdout" in spec:
        _check_pairs(spec["stdin_stdout"])


def names_under_test(spec: Spec) -> set[str]:
    """The names that "tests", "asserts" and "check" look up in the program.

    These are the entry point and "names". Without either, it is the one name that the tests use but
    do not define, and that is neither a builtin nor a module in `modules.py`. A program could
    define any other name too, `isclose` as well as `f`, so that nothing else is looked up in it.

    Args:
        spec: a specification whose sources can be parsed.

    Raises:
        ValueError: if the specification leaves open which names are under test.
    """
    given = {spec["entry_point"]} if "entry_point" in spec else set()
    given |= set(spec.get("names", ()))
    if given:
        return given
    found = free_names([*spec.get("tests", ()), spec.get("asserts", ""), spec.get("check", "")])
    found -= {*dir(builtins), *MODULES}
    if len(found) > 1:
        raise ValueError(
            f"tests use {sorted(found)} and do not define them: expected one name, or entry_point "
            "and names to say which of them the program defines"
        )
    return found


def free_names(sources: list[str]) -> set[str]:
    """The names that sources use, and that none of them defines or imports anywhere."""
    used, defined = set(), set()
    for source in sources:
        for node in ast.walk(ast.parse(source.strip())):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
            elif isinstance(node, ast.arg):
                defined.add(node.arg)
            elif isinstance(node, ast.alias) and node.name != "*":
                defined.add((node.asname or node.name).partition(".")[0])
            elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
                defined.update(dir(importlib.import_module(node.module)))  # import *
            elif isinstance(node, _NAMED):
                defined.add(node.name)
    return used - defined


def check_functions(cases: Any) -> None:
    """Checks function cases.

    Args:
        cases: an object with these keys:

            - name: "f", or "Solution.f" for a method of a class that is made anew for each case; a
              program may have it in either place.
            - inputs: one list of arguments for each case.
            - outputs: the expected value of each case.
            - reference: in place of outputs, trusted source that defines `f`; the judge runs it to
              get the expected values.
            - literals: true if inputs and outputs are Python literals as text, for tuples, sets and
              other values that JSON lacks.
            - atol: absolute tolerance of floats; the relative one is then 1e-7. Without it values
              must be equal, where tuples count as lists.
            - either: true if an expected list of one value may also be given bare, as in the data
              sets that wrap every output.
            - compare: "equal", "as_sets", "is_none" (compares only whether values are None) or
              "root" (the value is a root of the polynomial whose coefficients the argument lists,
              lowest power first).

    Raises:
        ValueError: naming what is wrong.
    """
    if not isinstance(cases, dict) or set(cases) - set(CASE_KEYS) or "name" not in cases:
        raise ValueError(
            f"functions {cases!r:.80}: expected an object with name, inputs, and outputs or "
            "reference"
        )
    owner, _, name = str(cases["name"]).rpartition(".")
    if not name.isidentifier() or owner not in ("", "Solution"):
        raise ValueError(
            f"functions name {cases['name']!r}: expected a Python name, or Solution.NAME"
        )
    inputs = case_values(cases, "inputs")
    if not _is_filled_list(inputs, (list, tuple)):
        raise ValueError(
            f"functions inputs {inputs!r:.80}: expected a non-empty list of lists of arguments"
        )
    if cases.get("compare", "equal") not in COMPARISONS:
        raise ValueError(f"functions compare {cases['compare']!r}: expected one of {COMPARISONS}")
    atol = cases.get("atol", 0)
    if not isinstance(atol, (int, float)) or not 0 <= atol < math.inf:
        raise ValueError(f"functions atol {atol!r}: expected a number >= 0")
    if "reference" in cases:
        body = _parse(cases["reference"], "reference").body
        if name not in {getattr(node, "name", None) for node in body}:
            raise ValueError(
                f"functions reference {cases['reference']!r:.80}: expected source that defines "
                f"{name}"
            )
    elif "outputs" in cases or cases.get("compare") != "root":
        outputs = case_values(cases, "outputs")
        if not isinstance(outputs, list) or len(outputs) != len(inputs):
            raise ValueError(
                f"functions outputs {outputs!r:.80}: expected a list as long as inputs, or a "
                "reference"
            )


def case_values(cases: dict[str, Any], key: str) -> Any:
    """The values of a key of function cases, which may be Python literals as text.

    Args:
        cases: function cases.
        key: "inputs" or "outputs".

    Raises:
        ValueError: if the text is not a literal.
    """
    value = cases.get(key)
    if not cases.get("literals") or value is None:
        return value
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(
            f"functions {key} {value!r:.80}: expected a Python literal as text: {error}"
        ) from None


def time_limit(spec: Spec, timeout_s: float) -> float:
    """Seconds that all tests of an answer may take together.

    Args:
        spec: a checked specification; it may set a limit for each test.
        timeout_s: the limit otherwise.
    """
    if "seconds" not in spec:
        return timeout_s
    counts = [len(case_values(spec[key], "inputs")) for key in COUNTED if key in spec]
    return spec["seconds"] * sum(counts)


def _parse(source: Any, what: str, mode: str = "exec") -> Any:
    expected = "expression" if mode == "eval" else "source"
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{what} {source!r:.80}: expected Python {expected}")
    try:
        return ast.parse(source, mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"{what} {source!r:.80}: expected Python {expected}: {error}") from None


def _is_filled_list(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, kind) for x in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _check_options(spec: Spec) -> None:
    if not str(spec.get("entry_point", "f")).isidentifier():
        raise ValueError(f"entry_point {spec['entry_point']!r}: expected a Python name")
    names = spec.get("names", [])
    if not isinstance(names, list) or not all(str(name).isidentifier() for name in names):
        raise ValueError(f"names {names!r:.80}: expected a list of Python names")
    if spec.get("copies", True) not in (True, False):
        raise ValueError(f"copies {spec['copies']!r}: expected true or false")
    if "seconds" in spec:
        seconds = spec["seconds"]
        if not _is_number(seconds) or seconds <= 0 or not set(spec) & set(COUNTED):
            raise ValueError(
                f"seconds {seconds!r}: expected a number above 0, beside one of {COUNTED}"
            )
    if "prelude" in spec:
        _parse(spec["prelude"], "prelude")


def _check_tests(tests: Any) -> None:
    if not _is_filled_list(tests, str):
        raise ValueError(f"tests {tests!r:.80}: expected a non-empty list of Python expressions")
    for test in tests:
        _parse(test.strip(), "test", "eval")


def _check_asserts(key: str, source: Any) -> None:
    if not any(isinstance(node, ast.Assert) for node in ast.walk(_parse(source, key))):
        raise ValueError(
            f"{key} {source!r:.80}: expected source with an assert; otherwise every program passes"
        )


def _check_pairs(pairs: Any) -> None:
    keys = ("inputs", "outputs")
    lists = [pairs.get(key) for key in keys] if isinstance(pairs, dict) else [None]
    if not all(_is_filled_list(texts, str) for texts in lists) or len(set(map(len, lists))) > 1:
        raise ValueError(
            f"stdin_stdout {pairs!r:.80}: expected inputs and outputs, non-empty lists of strings "
            "of one length"
        )
    tolerance = pairs.get("tolerance", 0)
    is_in_range = isinstance(tolerance, (int, float)) and 0 <= tolerance < 1
    if set(pairs) - {"inputs", "outputs", "tolerance"} or not is_in_range:
        raise ValueError(
            f"stdin_stdout {pairs!r:.80}: expected inputs, outputs and at most a tolerance in "
            "[0, 1)"
        )
