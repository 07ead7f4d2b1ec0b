"""Rows as their publishers wrote them: the prompt says what the tests will do, a right answer passes, a wrong one does not."""

import base64
import json
import pickle
import zlib

import pytest

from gopd_jax.data import rows
from gopd_jax.rewards.verifier import Verifier, check_ground_truth

FENCE = "```python\n{}\n```"


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=5.0) as verifier:
        yield verifier


def packed(cases):
    """Private test cases of LiveCodeBench: pickled JSON text, compressed, in base64."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


STDIN = {
    "question_title": "Sum", "question_content": "Print the sum of two integers.", "question_id": "1", "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]), "metadata": "{}",
}  # fmt: skip
FUNCTIONAL = {
    "question_title": "Two Sum", "question_content": "Return the indices of two numbers that add up to target.",
    "question_id": "2",
    "starter_code": "class Solution:\n    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        ",
    "public_test_cases": json.dumps([{"input": "[2, 7, 11]\n9", "output": "[0, 1]", "testtype": "functional"}]),
    "private_test_cases": packed([{"input": "[3, 2, 4]\n6", "output": "[1, 2]", "testtype": "functional"}]),
    "metadata": json.dumps({"func_name": "twoSum"}),
}  # fmt: skip
TWO_SUM = """class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        for i in range(len(nums)):
            for j in range(i + 1, len(nums)):
                if nums[i] + nums[j] == target:
                    return [i, j]"""
MBPP = {
    "task_id": 2, "text": "Write a function to find the shared elements.", "code": "...", "test_setup_code": "",
    "test_list": ["assert set(shared((1, 2), (2, 3))) == {2}", "assert set(shared((1,), (2,))) == set()"],
}  # fmt: skip
EVALPLUS = {
    "task_id": "HumanEval/0", "prompt": 'def inc(x: int) -> int:\n    """ One more. """\n', "entry_point": "inc",
    "canonical_solution": "    return x + 1\n", "base_input": [[1]], "plus_input": [[-5], [10**20]], "atol": 0, "contract": "",
}  # fmt: skip
EURUS = {
    "data_source": "taco", "ability": "code", "extra_info": {}, "prompt": [{"role": "user", "content": "Double a number."}],
    "reward_model": {"style": "rule", "ground_truth": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]})},
}  # fmt: skip
EURUS_FUNCTION = EURUS | {
    "reward_model": {
        "ground_truth": json.dumps(
            {"fn_name": "double", "inputs": [[2], [3]], "outputs": [[4], [6]]}
        )
    }
}
CODE = {
    "livecodebench stdin": (STDIN, "print(sum(map(int, input().split())))", "print(3)", "stdin"),
    "livecodebench functional": (
        FUNCTIONAL,
        TWO_SUM,
        TWO_SUM.replace("i + 1", "0"),
        "def twoSum(self, nums: List[int]",
    ),
    "mbpp": (
        MBPP,
        "def shared(a, b):\n    return set(a) & set(b)",
        "def shared(a, b):\n    return a",
        "assert set(shared(",
    ),
    "evalplus": (
        EVALPLUS,
        "def inc(x):\n    return x + 1",
        "def inc(x):\n    return abs(x) + 1",
        "def inc(x: int) -> int:",
    ),
    "eurus stdin": (EURUS, "print(2 * int(input()))", "print(4 + 1)", "stdin"),
    "eurus function": (
        EURUS_FUNCTION,
        "def double(n):\n    return 2 * n",
        "def double(n):\n    return 4",
        "`double(",
    ),
}


@pytest.mark.parametrize("name", CODE)
def test_code(verify, name):
    raw, right, wrong, shown = CODE[name]
    row = rows.parse(raw, "id")
    text = row["messages"][-1]["content"]
    assert shown in text
    check_ground_truth("code", row["ground_truth"])
    verdicts = verify(
        [("code", FENCE.format(program), row["ground_truth"]) for program in (right, wrong)]
    )
    assert [v.reward for v in verdicts] == [1.0, 0.0], verdicts


def test_leetcode_prompts_show_the_signature_and_ask_for_it(verify):
    """The paper's harness left the starter code out: nobody could know the name, and every such problem scored 0."""
    row = rows.parse(FUNCTIONAL, "id")
    assert FUNCTIONAL["starter_code"].rstrip() in row["messages"][0]["content"]
    assert (
        verify([("code", "def solve(nums, target):\n    return [0, 1]", row["ground_truth"])])[
            0
        ].reward
        == 0.0
    )


def test_private_tests_count(verify):
    row = rows.parse(FUNCTIONAL, "id")
    only_public = "class Solution:\n    def twoSum(self, nums, target):\n        return [0, 1]"
    assert verify([("code", only_public, row["ground_truth"])])[0].reward == 0.0


class Evil:
    def __reduce__(self):
        return print, ("run by a pickle",)


def test_a_pickle_that_runs_something_is_refused(capsys):
    evil = base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode()
    with pytest.raises(ValueError, match="a pickle that names"):
        rows.parse(FUNCTIONAL | {"private_test_cases": evil}, "id")
    assert "run by" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "raw, answer",
    [
        (
            {
                "problem": "1 + 1?",
                "solution": r"So \boxed{1}, no: $\boxed{\frac{4}{2}}$.",
                "level": "Level 1",
            },
            r"\frac{4}{2}",
        ),
        (
            {
                "question": "1 + 1?",
                "final_answer": "2",
                "difficulty": 6.5,
                "topic": "sums",
                "r1_solution_1": "...",
            },
            "2",
        ),
        ({"question": "Ducks?", "answer": "9 * 2 = 18\n#### 1,018"}, "1018"),
        ({"problem": "1 + 1?", "answer": 2}, "2"),
        (
            {
                "prompt": [{"role": "user", "content": "1 + 1?"}],
                "reward_model": {"ground_truth": "2", "style": "rule"},
            },
            "2",
        ),
    ],
    ids=["math", "deepmath", "gsm8k", "plain", "verl"],
)
def test_math(raw, answer):
    assert rows.parse(raw, "id")["ground_truth"] == answer


@pytest.mark.parametrize(
    "raw, message",
    [
        ({"problem": "1 + 1?", "solution": "two"}, r"no \\boxed"),
        ({"prompt": "1 + 1?"}, "no ground truth"),
        (FUNCTIONAL | {"metadata": "{}"}, "func_name None"),
        (FUNCTIONAL | {"starter_code": ""}, "starter code ''"),
        (STDIN | {"public_test_cases": "[{}]"}, "input and output"),
        (MBPP | {"test_list": []}, "test_list must be"),
    ],
)
def test_rows_that_cannot_be_verified_say_why(raw, message):
    with pytest.raises(ValueError, match=message):
        rows.parse(raw, "id")
