"""Rows of code data sets -> the text of a prompt and a test specification of `rewards/spec.py`.

Comes in: the fields of a row, as its publisher wrote them. Goes out: (prompt, specification); fields that were used up are
taken out of the row. Every prompt asks for one ```python block with the whole program, and says what the tests will do with it:
write to its stdin, or call a function, whose signature is then in the prompt.
"""

import ast
import base64
import io
from itertools import zip_longest
import json
import math
import pickle
import re
from typing import Any
import zlib

Fields = dict[str, Any]

MAX_UNPACKED_BYTES = 1 << 30
LIVECODEBENCH_S = 6  # for each test, as its own harness has it
ANSWER = "Answer with the complete program, imports and helper functions included, in one ```python block."
FROM_STDIN = "The program reads its input from stdin and writes its output to stdout."
# What the judges of LeetCode and of the official harnesses have imported before an answer runs.
_NAMES = "typing string re datetime collections heapq bisect copy math random statistics itertools functools operator json"
PRELUDE = (
    "".join(
        f"from {name} import *\n" for name in [*_NAMES.split(), "builtins"]
    )  # builtins last: math.pow is not pow
    + f"import {', '.join(_NAMES.split())}, io, sys\nsys.setrecursionlimit(50000)\n"
)


def humaneval(row: Fields) -> tuple[str, Fields]:
    """HumanEval, and HumanEval+ in the form of the hub: prompt, entry_point, test with check(candidate)."""
    prompt, name, test = (_text(row, key) for key in ("prompt", "entry_point", "test"))
    _drop(row, "prompt", "test")
    # HumanEval/32 of HumanEval+ calls its oracle with the arguments the wrong way round
    test = test.replace("_poly(*candidate(*inp), inp)", "abs(_poly(*inp, candidate(*inp)))")
    helpers = _before_function(prompt, name)
    return _complete(prompt), {"entry_point": name, "check": f"{helpers}\n{test}"} | _prelude(
        helpers
    )


def mbpp(row: Fields) -> tuple[str, Fields]:
    """MBPP (text, test_setup_code; sanitized: prompt, test_imports) and MBPP+ in the form of the hub, which adds `test`."""
    question = _text(row, "text" if row.get("text") is not None else "prompt")
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"test_list must be a list of assert statements, not {tests!r:.80}")
    setup = "\n".join([*(row.get("test_imports") or []), row.get("test_setup_code") or ""]).strip()
    asserts, more = "\n".join([setup, *tests]).strip(), row.get("test")
    if (
        isinstance(more, str) and "assert " in more
    ):  # it does not in three rows of MBPP+, so that every program would pass
        asserts = more
    _drop(
        row,
        "text",
        "prompt",
        "test_list",
        "test",
        "test_imports",
        "test_setup_code",
        "challenge_test_list",
    )
    return _by_example(question, tests[0]), {"asserts": asserts, "copies": True} | _prelude(setup)


def evalplus(row: Fields) -> tuple[str, Fields]:
    """EvalPlus' own files (HumanEvalPlus.jsonl, MbppPlus.jsonl): inputs, and a reference solution that gives the outputs."""
    prompt, name, solution = (
        _text(row, key) for key in ("prompt", "entry_point", "canonical_solution")
    )
    inputs, atol = [*row["base_input"], *row["plus_input"]], row.get("atol") or 0
    assertion = row.get("assertion") or ""
    _drop(row, "prompt", "base_input", "plus_input", "contract", "assertion", "atol")
    cases = {
        "name": name,
        "atol": atol or 1e-6,
        "literals": True,
    }  # EvalPlus: 1e-6 where a float is wanted and nothing said
    if not assertion:  # HumanEval+
        helpers = _before_function(prompt, name)
        cases |= {"compare": "root"} if name == "find_zero" else {"reference": prompt + solution}
        return _complete(prompt), {"functions": cases | {"inputs": literal(inputs)}} | _prelude(
            helpers
        )
    example = next(
        (line for line in prompt.splitlines() if line.startswith("assert")),
        assertion.strip().splitlines()[0],
    )
    question = prompt.replace(example, "").strip().strip('"').strip()
    if name in _SECOND_ANSWERS:
        return _by_example(question, example), {"asserts": assertion, "copies": True}
    inputs = [
        [_like(*pair) for pair in zip_longest(case, _arguments(assertion, name)[: len(case)])]
        for case in inputs
    ]
    how = "as_sets" if name in _SETS else "is_none" if name in _NONE_OR_NOT else "equal"
    cases |= {"reference": f"{prompt}\n{solution}", "inputs": literal(inputs), "compare": how}
    return _by_example(question, example), {"functions": cases}


# What EvalPlus judges otherwise than by equality with its reference, by the name of the function.
_SETS = ("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum", "intersection_array",
         "find_dissimilar", "Diff")  # fmt: skip
_NONE_OR_NOT = ("check_str", "text_match_three", "text_starta_endb")
_SECOND_ANSWERS = (
    "are_equivalent",
    "sum_div",
    "surface_Area",
    "digit_distance_nums",
)  # by their own asserts only


def livecodebench(row: Fields) -> tuple[str, Fields]:
    """LiveCodeBench: question_content, starter_code, public and private test cases, metadata with func_name."""
    question, starter = _text(row, "question_content"), (row.get("starter_code") or "").rstrip()
    tests = [
        *_test_cases(row["public_test_cases"]),
        *_test_cases(row.get("private_test_cases") or "[]"),
    ]
    metadata = row.get("metadata") or "{}"
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    _drop(row, "question_content", "starter_code", "public_test_cases", "private_test_cases")
    kinds = {test.get("testtype") for test in tests}
    inputs, outputs = [test["input"] for test in tests], [test["output"] for test in tests]
    if kinds == {"stdin"}:
        return f"{question.rstrip()}\n\n{FROM_STDIN} {ANSWER}", {
            "prelude": PRELUDE,
            "seconds": LIVECODEBENCH_S,
            "stdin_stdout": {"inputs": inputs, "outputs": outputs},
        }
    if kinds != {"functional"} or not metadata.get("func_name") or not starter:
        raise ValueError(
            f"test cases of testtype {sorted(map(str, kinds))}, func_name {metadata.get('func_name')!r}, starter code "
            f"{starter[:40]!r}: wanted stdin throughout, or functional throughout with func_name and starter_code"
        )
    owner = "Solution." if "class Solution" in starter else ""
    cases = {"name": f"{owner}{metadata['func_name']}", "inputs": list(map(_json_lines, inputs))}
    cases["outputs"] = list(map(json.loads, outputs))
    return f"{question.rstrip()}\n\nComplete this code:\n\n```python\n{starter}\n```\n\n{ANSWER}", {
        "prelude": PRELUDE,
        "seconds": LIVECODEBENCH_S,
        "functions": cases,
    }


def inputs_and_outputs(cases: Fields, shown: str) -> tuple[Fields, str]:
    """{"inputs", "outputs", "fn_name"?} as APPS, TACO and Eurus-2 have it -> (specification, what the prompt does not say yet).

    shown: the text of the prompt.
    """
    inputs, outputs, name = cases["inputs"], cases["outputs"], cases.get("fn_name")
    if (
        not isinstance(inputs, list)
        or not isinstance(outputs, list)
        or not inputs
        or len(inputs) != len(outputs)
    ):
        raise ValueError("inputs and outputs must be two lists of one length, not empty")
    if name is None:
        note = (
            "" if re.search(r"stdin|standard input|input\(", shown, re.IGNORECASE) else FROM_STDIN
        )
        pairs = {
            "inputs": list(map(_lines, inputs)),
            "outputs": list(map(_lines, outputs)),
            "tolerance": 1e-6,
        }
        return {"prelude": PRELUDE, "stdin_stdout": pairs}, note
    arguments = [
        _json_lines(x) if isinstance(x, str) else x if isinstance(x, list) else [x] for x in inputs
    ]
    wanted = [
        json.loads(x) if isinstance(x, str) and isinstance(inputs[0], str) else x for x in outputs
    ]
    counts = {len(x) for x in arguments}
    signature = f"{name}({', '.join(f'argument_{i + 1}' for i in range(min(counts)))})"
    note = (
        ""
        if name in shown
        else f"The program defines the function `{signature}`, which returns the result."
    )
    return {
        "prelude": PRELUDE,
        "functions": {"name": name, "inputs": arguments, "outputs": wanted, "either": True},
    }, note


FORMATS = [
    (
        "livecodebench",
        lambda row: {"question_content", "public_test_cases"} <= row.keys(),
        livecodebench,
    ),
    (
        "evalplus",
        lambda row: {"prompt", "entry_point", "base_input", "plus_input"} <= row.keys(),
        evalplus,
    ),
    ("humaneval", lambda row: {"prompt", "entry_point", "test"} <= row.keys(), humaneval),
    ("mbpp", lambda row: "test_list" in row and bool({"text", "prompt"} & row.keys()), mbpp),
]


def _complete(prompt: str) -> str:
    return f"Complete this Python function:\n\n```python\n{prompt.rstrip()}\n```\n\n{ANSWER}"


def _by_example(question: str, example: str) -> str:
    return f"{question.rstrip()}\n\nThe program must pass this test:\n\n```python\n{example.strip()}\n```\n\n{ANSWER}"


def _before_function(prompt: str, name: str) -> str:
    """Imports and helper functions above the function to complete: answers and tests may use them."""
    start = re.search(rf"^(async )?def {name}\b", prompt, re.MULTILINE)
    if start is None:
        raise ValueError(f"prompt does not define its entry_point {name!r}")
    return prompt[: start.start()].strip()


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
    """A list, its JSON text, or that text pickled, compressed and in base64, as LiveCodeBench keeps its private test cases."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        unpack = zlib.decompressobj()
        data = unpack.decompress(base64.b64decode(value, validate=True), MAX_UNPACKED_BYTES)
        if not unpack.eof:
            raise ValueError(
                f"private_test_cases: cut short, or above {MAX_UNPACKED_BYTES >> 20} MiB"
            )
        value = _PlainUnpickler(io.BytesIO(data)).load()
    cases = json.loads(value) if isinstance(value, (str, bytes)) else value
    if not isinstance(cases, list) or not all(
        isinstance(c, dict) and {"input", "output"} <= c.keys() for c in cases
    ):
        raise ValueError(
            f"test cases must be a list of objects with input and output, not {cases!r:.80}"
        )
    return cases


class _PlainUnpickler(pickle.Unpickler):
    """Reads text and numbers. A pickle that names any class or function is refused: loading one can run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(
            f"private_test_cases: a pickle that names {module}.{name} is not read"
        )


def literal(value: Any) -> str:
    """`value` as a Python literal; infinities as 1e999."""
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
    """The arguments of the first call of `name` in the asserts: JSON has no tuples, they show where some belong."""
    for node in ast.walk(ast.parse(assertion.strip())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            try:
                return [ast.literal_eval(argument) for argument in node.args]
            except ValueError:  # computed ones, which JSON could not have held either
                return []
    raise ValueError(f"assertion {assertion!r:.80}: does not call {name}")


def _like(value: Any, pattern: Any) -> Any:
    """A JSON value in the types of `pattern`: lists become tuples or sets, texts complex numbers, all the way down."""
    if isinstance(pattern, complex):
        return complex(value)
    if isinstance(value, dict) and isinstance(pattern, dict) and pattern:
        return {key: _like(item, next(iter(pattern.values()))) for key, item in value.items()}
    if isinstance(pattern, set) and isinstance(value, list):
        return set(value) if value else {}  # what EvalPlus makes of an empty one
    if not isinstance(value, list) or not isinstance(pattern, (list, tuple)):
        return value
    nested = next(
        (item for item in pattern if isinstance(item, (list, tuple, set, dict, complex))), None
    )
    items = [
        _like(item, nested) if isinstance(item, (list, dict, str)) and nested is not None else item
        for item in value
    ]
    return tuple(items) if isinstance(pattern, tuple) else items
