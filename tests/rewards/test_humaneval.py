"""HumanEval through the data format and the sandbox: published solutions pass, broken ones fail."""

import ast
import gzip
import json
import os
from pathlib import Path

import pytest

from gopd_jax.data import rows
from gopd_jax.rewards.verifier import Verifier, check_ground_truth

SHARED = Path(__file__).parents[3] / "shared" / "data"
FENCE = "Here it is:\n```python\n{}\n```\n"
PROMPT = '''\
import math

def double(x):
    return 2 * x


def area(r: float) -> float:
    """ Twice the area of a circle of radius r. Uses double.
    >>> area(0)
    0.0
    """
'''
TEST = """

METADATA = {}


def check(candidate):
    assert candidate(0) == 0.0
    assert abs(candidate(1) - double(math.pi)) < 1e-6
"""
# A row in the form of HumanEval. As in some of its rows, an import and a helper stand above the
# function, and the test uses them.
ROW = {
    "task_id": "Own/0",
    "prompt": PROMPT,
    "entry_point": "area",
    "canonical_solution": "    return double(math.pi * r**2)\n",
    "test": TEST,
}


@pytest.fixture(scope="module")
def verify():
    with Verifier(workers=2, timeout_s=5.0) as verifier:
        yield verifier


@pytest.fixture(scope="module")
def humaneval():
    """Raw rows, and the same rows as they are read."""
    path = Path(os.environ.get("GOPD_SHARED_DATA", SHARED)) / "HumanEval.jsonl.gz"
    if not path.is_file():
        pytest.skip(
            "needs HumanEval.jsonl.gz in ../shared/data beside the repository, or in the folder "
            "GOPD_SHARED_DATA"
        )
    with gzip.open(path) as file:
        raw = [json.loads(line) for line in file]
    return raw, list(rows.read(str(path)))


def solution(raw):
    return raw["prompt"] + raw["canonical_solution"]


def empty_body(raw):
    return raw["prompt"] + "    return None\n"


def returns_wrapped(raw):
    """`return x` becomes `return [x]` in the function, except in functions nested in its body."""

    class Wrap(ast.NodeTransformer):
        def visit_Return(self, node):
            return ast.Return(ast.List([node.value or ast.Constant(None)], ast.Load()))

    tree = ast.parse(solution(raw))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == raw["entry_point"]:
            node.body = [
                x if isinstance(x, ast.FunctionDef) else Wrap().visit(x) for x in node.body
            ]
    return ast.unparse(ast.fix_missing_locations(tree))


def other_name(raw):
    return solution(raw).replace(raw["entry_point"], "g_" + raw["entry_point"])


def raises(raw):
    return raw["prompt"] + "    raise ValueError\n"


def rewards_of(verify, raw, read, change):
    items = [
        ("code", FENCE.format(change(a)), b["ground_truth"]) for a, b in zip(raw, read, strict=True)
    ]
    return [v.reward for v in verify(items)]


@pytest.mark.parametrize("change", [empty_body, returns_wrapped, other_name, raises])
def test_a_row_in_the_form_of_humaneval(verify, change):
    read = rows.parse(dict(ROW), "id")
    check_ground_truth("code", read["ground_truth"])
    content = read["messages"][0]["content"]
    assert ROW["prompt"].strip() in content and "```python block" in content
    assert rewards_of(verify, [ROW], [read], solution) == [1.0]
    # An answer need not repeat what the prompt gives.
    without_helpers = "def area(r):\n    return double(math.pi * r * r)\n"
    assert rewards_of(verify, [ROW], [read], lambda _: without_helpers) == [1.0]
    # The test uses its own helpers, not the answer's.
    cheat = "def double(x):\n    return 0.0\ndef area(r):\n    return 0.0\n"
    assert rewards_of(verify, [ROW], [read], lambda _: cheat) == [0.0]
    assert rewards_of(verify, [ROW], [read], change) == [0.0]


def test_all_164_solutions_pass(verify, humaneval):
    raw, read = humaneval
    for row in read:
        check_ground_truth("code", row["ground_truth"])
    rewards = rewards_of(verify, raw, read, solution)
    assert len(rewards) == 164
    assert [a["task_id"] for a, reward in zip(raw, rewards, strict=True) if reward != 1.0] == []


@pytest.mark.parametrize("change", [empty_body, returns_wrapped])
def test_all_164_broken_solutions_fail(verify, humaneval, change):
    raw, read = humaneval
    rewards = rewards_of(verify, raw, read, change)
    assert len(rewards) == 164
    assert [a["task_id"] for a, reward in zip(raw, rewards, strict=True) if reward != 0.0] == []
