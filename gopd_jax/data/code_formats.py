"""Rows of code data sets -> the text of a prompt and a test specification, see `rewards/spec.py`.

In: the fields of a row, as its publisher wrote them. Out: (prompt, specification); the fields that
they were made from are removed from the row. Every prompt asks for one ```python block with the
whole program, and says what the tests will do with it: write to its stdin, or call a function whose
signature the prompt shows. Does not run anything.
"""

import ast
import base64
from collections.abc import Callable
import io
from itertools import zip_longest
import json
import math
import pickle
import re
from typing import Any, NamedTuple
import zlib

from gopd_jax.rewards.spec import free_names

Fields = dict[str, Any]  # of a row or a specification: any JSON, as its publisher wrote it

MAX_UNPACKED_BYTES = 1 << 30
LIVECODEBENCH_S = 6  # seconds per test, as in LiveCodeBench's own harness
ANSWER = (
    "Answer with the complete program, imports and helper functions included, in one ```python "
    "block."
)
FROM_STDIN = "The program reads its input from stdin and writes its output to stdout."
# What the judges of LeetCode and of the official harnesses import before an answer runs.
_MODULES = (
    "typing", "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math",
    "random", "statistics", "itertools", "functools", "operator", "json",
)  # fmt: skip
PRELUDE = (
    # builtins is last: math.pow must not replace pow.
    "".join(f"from {name} import *\n" for name in (*_MODULES, "builtins"))
    + f"import {', '.join(_MODULES)}, io, sys\nsys.setrecursionlimit(50000)\n"
)

# Functions of EvalPlus that are not judged by equality with its reference solution.
_SETS = (
    "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
    "intersection_array", "find_dissimilar", "Diff",
)  # fmt: skip
_NONE_OR_NOT = ("check_str", "text_match_three", "text_starta_endb")
# These are judged by their own asserts only.
_SECOND_ANSWERS = ("are_equivalent", "sum_div", "surface_Area", "digit_distance_nums")


class CodeFormat(NamedTuple):
    """A format of rows.

    name: as reports name it.
    fits: tells whether a row has this format.
    convert: removes prompt and tests from a row, and returns prompt and specification.
    """

    name: str
    fits: Callable[[Fields], bool]
    convert: Callable[[Fields], tuple[str, Fields]]


def humaneval(row: Fields) -> tuple[str, Fields]:
    """HumanEval, and HumanEval+ as on the hub: prompt, entry_point, test with check(candidate)."""
    prompt, name, test = (_text(row, key) for key in ("prompt", "entry_point", "test"))
    _drop(row, "prompt", "test")
    # HumanEval/32 of HumanEval+ calls its oracle with the arguments in the wrong order.
    test = test.replace("_poly(*candidate(*inp), inp)", "abs(_poly(*inp, candidate(*inp)))")
    helpers = _before_function(prompt, name)
    spec = {"entry_point": name, "check": f"{helpers}\n{test}"} | _prelude(helpers)
    return _complete(prompt), spec


def mbpp(row: Fields) -> tuple[str, Fields]:
    """MBPP, and MBPP+ as on the hub.

    MBPP has text and test_setup_code, its sanitized form prompt and test_imports; MBPP+ adds test.
    """
    question = _text(row, "text" if row.get("text") is not None else "prompt")
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"test_list must be a list of assert statements, not {tests!r:.80}")
    setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""]).strip()
    asserts, more = "\n".join([setup, *tests]).strip(), row.get("test")
    # In three rows of MBPP+ `test` asserts nothing, so that every program would pass.
    if isinstance(more, str) and "assert " in more:
        asserts = more
    _drop(row, "text", "prompt", "test_list", "test")
    _drop(row, "test_imports", "test_setup_code", "challenge_test_list")
    spec = {"asserts": asserts, "copies": True} | _names(row.get("code"), asserts)
    return _by_example(question, tests[0]), spec | _prelude(setup)


def evalplus(row: Fields) -> tuple[str, Fields]:
    """EvalPlus' own files, HumanEvalPlus.jsonl and MbppPlus.jsonl.

    They hold inputs, and a reference solution that computes the outputs.
    """
    prompt, name = _text(row, "prompt"), _text(row, "entry_point")
    solution = _text(row, "canonical_solution")
    inputs, atol = [*row["base_input"], *row["plus_input"]], row.get("atol") or 0
    assertion = row.get("assertion") or ""
    _drop(row, "prompt", "base_input", "plus_input", "contract", "assertion", "atol")
    # EvalPlus compares floats with 1e-6 unless a row says otherwise.
    cases: Fields = {"name": name, "atol": atol or 1e-6, "literals": True}
    if not assertion:  # HumanEval+
        cases |= {"compare": "root"} if name == "find_zero" else {"reference": prompt + solution}
        spec = {"functions": cases | {"inputs": literal(inputs)}}
        return _complete(prompt), spec | _prelude(_before_function(prompt, name))
    asserts = [line for line in prompt.splitlines() if line.startswith("assert")]
    example = asserts[0] if asserts else assertion.strip().splitlines()[0]
    question = _by_example(prompt.replace(example, "").strip().strip('"').strip(), example)
    if name in _SECOND_ANSWERS:
        return question, {"entry_point": name, "asserts": assertion, "copies": True}
    patterns = _arguments(assertion, name)
    inputs = [
        [_like(*pair) for pair in zip_longest(case, patterns[: len(case)])] for case in inputs
    ]
    how = "as_sets" if name in _SETS else "is_none" if name in _NONE_OR_NOT else "equal"
    cases |= {"reference": f"{prompt}\n{solution}", "inputs": literal(inputs), "compare": how}
    return question, {"functions": cases}


def livecodebench(row: Fields) -> tuple[str, Fields]:
    """LiveCodeBench: question_content, starter_code, test cases, metadata with func_name."""
    question = _text(row, "question_content").rstrip()
    starter = (row.get("starter_code") or "").rstrip()
    tests = _test_cases(row["public_test_cases"])
    tests = [*tests, *_test_cases(row.get("private_test_cases") or "[]")]
    metadata = row.get("metadata") or "{}"
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    _drop(row, "question_content", "starter_code", "public_test_cases", "private_test_cases")
    kinds = {test.get("testtype") for test in tests}
    inputs, outputs = [test["input"] for test in tests], [test["output"] for test in tests]
    spec: Fields = {"prelude": PRELUDE, "seconds": LIVECODEBENCH_S}
    if kinds == {"stdin"}:
        cases = {"inputs": inputs, "outputs": outputs}
        return f"{question}\n\n{FROM_STDIN} {ANSWER}", spec | {"stdin_stdout": cases}
    name = metadata.get("func_name")
    if kinds != {"functional"} or not name or not starter:
        raise ValueError(
            f"test cases of testtype {sorted(map(str, kinds))}, func_name {name!r}, starter code "
            f"{starter[:40]!r}: expected stdin throughout, or functional throughout with func_name "
            "and starter_code"
        )
    cases = {
        "name": f"Solution.{name}" if "class Solution" in starter else name,
        "inputs": list(map(_json_lines, inputs)),
        "outputs": list(map(json.loads, outputs)),
    }
    prompt = f"{question}\n\nComplete this code:\n\n```python\n{starter}\n```\n\n{ANSWER}"
    return prompt, spec | {"functions": cases}


def inputs_and_outputs(cases: Fields, shown: str) -> tuple[Fields, str]:
    """Tests as APPS, TACO and Eurus-2 have them.

    Args:
        cases: "inputs" and "outputs" of the tests, and "fn_name" if a function is called.
        shown: the text of the prompt.

    Returns:
        The specification, and what the prompt does not say yet about the tests, or "".
    """
    inputs, outputs, name = cases["inputs"], cases["outputs"], cases.get("fn_name")
    both = isinstance(inputs, list) and isinstance(outputs, list)
    if not both or not inputs or len(inputs) != len(outputs):
        raise ValueError("inputs and outputs must be two lists of one length, not empty")
    if name is None:
        says = re.search(r"stdin|standard input|input\(", shown, re.IGNORECASE)
        pairs = {
            "inputs": list(map(_lines, inputs)),
            "outputs": list(map(_lines, outputs)),
            "tolerance": 1e-6,
        }
        return {"prelude": PRELUDE, "stdin_stdout": pairs}, "" if says else FROM_STDIN
    arguments = [
        _json_lines(x) if isinstance(x, str) else x if isinstance(x, list) else [x] for x in inputs
    ]
    if isinstance(inputs[0], str):
        outputs = [json.loads(x) if isinstance(x, str) else x for x in outputs]
    parameters = (f"argument_{i + 1}" for i in range(min(map(len, arguments))))
    signature = f"{name}({', '.join(parameters)})"
    note = f"The program defines the function `{signature}`, which returns the result."
    functions = {"name": name, "inputs": arguments, "outputs": outputs, "either": True}
    return {"prelude": PRELUDE, "functions": functions}, "" if name in shown else note


FORMATS = [
    CodeFormat(
        "livecodebench",
        lambda row: {"question_content", "public_test_cases"} <= row.keys(),
        livecodebench,
    ),
    CodeFormat(
        "evalplus",
        lambda row: {"prompt", "entry_point", "base_input", "plus_input"} <= row.keys(),
        evalplus,
    ),
    CodeFormat("humaneval", lambda row: {"prompt", "entry_point", "test"} <= row.keys(), humaneval),
    CodeFormat(
        "mbpp", lambda row: "test_list" in row and bool({"text", "prompt"} & row.keys()), mbpp
    ),
]


# ---- Prompts.


def _complete(prompt: str) -> str:
    return f"Complete this Python function:\n\n```python\n{prompt.rstrip()}\n```\n\n{ANSWER}"


def _by_example(question: str, example: str) -> str:
    return (
        f"{question.rstrip()}\n\nThe program must pass this test:\n\n```python\n{example.strip()}\n"
        f"```\n\n{ANSWER}"
    )


def _before_function(prompt: str, name: str) -> str:
    """Imports and helpers above the function to complete: answers and tests may use them."""
    start = re.search(rf"^(async )?def {name}\b", prompt, re.MULTILINE)
    if start is None:
        raise ValueError(f"prompt does not define its entry_point {name!r}")
    return prompt[: start.start()].strip()


# ---- Fields of a row.


def _names(solution: Any, asserts: str) -> Fields:
    """The names that the asserts use of those that the reference solution defines."""
    try:
        body = ast.parse(solution).body if isinstance(solution, str) else []
    except (SyntaxError, ValueError):
        body = []
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    defined = {node.name for node in body if isinstance(node, definitions)}
    names = sorted(defined & free_names([asserts]))
    return {"names": names} if names else {}


def _prelude(source: str) -> Fields:
    return {"prelude": source} if source.strip() else {}


def _text(row: Fields, key: str) -> str:
    if not isinstance(row.get(key), str) or not row[key].strip():
        raise ValueError(f"{key} must be a text, not {row.get(key)!r}")
    return row[key]


def _drop(row: Fields, *keys: str) -> None:
    for key in keys:
        row.pop(key, None)


def _lines(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _json_lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.strip("\n").split("\n")]


def _test_cases(value: Any) -> list[Fields]:
    """Test cases of LiveCodeBench: a list, its JSON text, or that text packed.

    Private test cases are pickled, compressed and in base64.
    """
    if isinstance(value, str) and not value.lstrip().startswith("["):
        unpack = zlib.decompressobj()
        data = unpack.decompress(base64.b64decode(value, validate=True), MAX_UNPACKED_BYTES)
        if not unpack.eof:
            limit = MAX_UNPACKED_BYTES >> 20
            raise ValueError(f"private_test_cases: truncated, or larger than {limit} MiB")
        value = _PlainUnpickler(io.BytesIO(data)).load()
    cases = json.loads(value) if isinstance(value, (str, bytes)) else value
    if not isinstance(cases, list) or not all(
        isinstance(case, dict) and {"input", "output"} <= case.keys() for case in cases
    ):
        raise ValueError(
            f"test cases must be a list of objects with input and output, not {cases!r:.80}"
        )
    return cases


class _PlainUnpickler(pickle.Unpickler):
    """Reads text and numbers only.

    A pickle that names a class or function is refused, because loading one can run any code.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"private_test_cases: a pickle that names {module}.{name} is not read"
        )


# ---- Values of EvalPlus: JSON cannot hold tuples, sets, complex numbers and infinities.


def literal(value: Any) -> str:
    """Returns a value as a Python literal, with infinities as 1e999."""
    if isinstance(value, float) and math.isinf(value):
        return "1e999" if value > 0 else "-1e999"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(literal, value))
        return f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
    if isinstance(value, set) and value:
        return "{" + ", ".join(map(literal, value)) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(k)}: {literal(v)}" for k, v in value.items()) + "}"
    return repr(value)


def _arguments(assertion: str, name: str) -> list[Any]:
    """The arguments of the first call of `name` in the asserts, which show where tuples belong."""
    for node in ast.walk(ast.parse(assertion.strip())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            try:
                return [ast.literal_eval(argument) for argument in node.args]
            except ValueError:  # computed arguments, which JSON could not have held either
                return []
    raise ValueError(f"assertion {assertion!r:.80}: does not call {name}")


def _like(value: Any, pattern: Any) -> Any:
    """A JSON value in the types of `pattern`, at every depth.

    Lists become tuples or sets, and texts become complex numbers.
    """
    if isinstance(pattern, complex):
        return complex(value)
    if isinstance(value, dict) and isinstance(pattern, dict) and pattern:
        return {key: _like(item, next(iter(pattern.values()))) for key, item in value.items()}
    if isinstance(pattern, set) and isinstance(value, list):
        return set(value) if value else {}  # as in EvalPlus
    if not isinstance(value, list) or not isinstance(pattern, (list, tuple)):
        return value
    kinds = (list, tuple, set, dict, complex)
    nested = next((item for item in pattern if isinstance(item, kinds)), None)
    if nested is not None:
        value = [_like(v, nested) if isinstance(v, (list, dict, str)) else v for v in value]
    return tuple(value) if isinstance(pattern, tuple) else value
