"""Rows as their publishers wrote them.

The prompt says what the tests will do, a right answer passes, and a wrong one does not.
"""

import base64
import json
import pickle
import zlib

import pytest

from gopd_jax.data import formats, rows
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
    "question_title": "Sum",
    "question_content": "Print the sum of two integers.",
    "question_id": "1",
    "starter_code": "",
    "metadata": "{}",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "5 6\n", "output": "11\n", "testtype": "stdin"}]),
}
FUNCTIONAL = {
    "question_title": "Two Sum",
    "question_id": "2",
    "question_content": "Return the indices of two numbers that add up to target.",
    "starter_code": (
        "class Solution:\n"
        "    def twoSum(self, nums: List[int], target: int) -> List[int]:\n        "
    ),
    "public_test_cases": json.dumps(
        [{"input": "[2, 7, 11]\n9", "output": "[0, 1]", "testtype": "functional"}]
    ),
    "private_test_cases": packed(
        [{"input": "[3, 2, 4]\n6", "output": "[1, 2]", "testtype": "functional"}]
    ),
    "metadata": json.dumps({"func_name": "twoSum"}),
}
TWO_SUM = """class Solution:
    def twoSum(self, nums: List[int], target: int) -> List[int]:
        for i in range(len(nums)):
            for j in range(i + 1, len(nums)):
                if nums[i] + nums[j] == target:
                    return [i, j]"""
MBPP = {
    "task_id": 2,
    "text": "Write a function to find the shared elements.",
    "code": "...",
    "test_setup_code": "",
    "test_list": [
        "assert set(shared((1, 2), (2, 3))) == {2}",
        "assert set(shared((1,), (2,))) == set()",
    ],
}
EVALPLUS = {
    "task_id": "HumanEval/0",
    "entry_point": "inc",
    "atol": 0,
    "contract": "",
    "prompt": 'def inc(x: int) -> int:\n    """ One more. """\n',
    "canonical_solution": "    return x + 1\n",
    "base_input": [[1]],
    "plus_input": [[-5], [10**20]],
}
EURUS = {
    "data_source": "taco",
    "ability": "code",
    "extra_info": {},
    "prompt": [{"role": "user", "content": "Double a number."}],
    "reward_model": {
        "style": "rule",
        "ground_truth": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]}),
    },
}
DOUBLES = {"fn_name": "double", "inputs": [[2], [3]], "outputs": [[4], [6]]}
EURUS_FUNCTION = EURUS | {"reward_model": {"ground_truth": json.dumps(DOUBLES)}}
# A row, a right program, a wrong one, and what the prompt must show.
CODE = {
    "livecodebench stdin": (
        STDIN,
        "print(sum(map(int, input().split())))",
        "print(3)",
        "stdin",
    ),
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
    "eurus stdin": (
        EURUS,
        "print(2 * int(input()))",
        "print(4 + 1)",
        "stdin",
    ),
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
    truth = row["ground_truth"]
    check_ground_truth("code", truth)
    assert formats.guess_reward_kind(truth) == "code"
    verdicts = verify([("code", FENCE.format(program), truth) for program in (right, wrong)])
    assert [v.reward for v in verdicts] == [1.0, 0.0], verdicts


def test_the_tests_of_mbpp_may_use_what_the_solution_defines(verify):
    """Some need a class beside the function, and some functions have the name of a builtin."""
    solution = "class Pair:\n    def __init__(self, a):\n        self.a = a\n"
    solution += "def sum(p, b):\n    return p.a + b\n"
    tests = ["assert isclose(sum(Pair(1), 2), 3)"]
    setup = {"test_setup_code": "from math import isclose", "test_list": tests}
    truth = rows.parse(MBPP | setup | {"code": solution}, "id")["ground_truth"]
    assert json.loads(truth)["names"] == ["Pair", "sum"]
    hack = "Pair = sum = lambda *a: 0\ndef isclose(*a):\n    return True\n"
    verdicts = verify([("code", program, truth) for program in (solution, hack)])
    assert [v.reward for v in verdicts] == [1.0, 0.0]


def test_leetcode_prompts_show_the_signature_and_ask_for_it(verify):
    """The paper's harness left the starter code out, so that every such problem scored 0."""
    row = rows.parse(FUNCTIONAL, "id")
    assert FUNCTIONAL["starter_code"].rstrip() in row["messages"][0]["content"]
    other_name = "def solve(nums, target):\n    return [0, 1]"
    assert verify([("code", other_name, row["ground_truth"])])[0].reward == 0.0


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


MATH = {
    "math": {
        "problem": "1 + 1?",
        "solution": r"So \boxed{1}, no: $\boxed{\frac{4}{2}}$.",
        "level": "Level 1",
    },
    "deepmath": {
        "question": "1 + 1?",
        "final_answer": "2",
        "difficulty": 6.5,
        "topic": "sums",
        "r1_solution_1": "...",
    },
    "gsm8k": {"question": "Ducks?", "answer": "9 * 2 = 18\n#### 1,018"},
    "plain": {"problem": "1 + 1?", "answer": 2},
    "verl": {
        "prompt": [{"role": "user", "content": "1 + 1?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
    },
}


@pytest.mark.parametrize(
    "name, answer",
    [
        ("math", r"\frac{4}{2}"),
        ("deepmath", "2"),
        ("gsm8k", "1018"),
        ("plain", "2"),
        ("verl", "2"),
    ],
)
def test_math(name, answer):
    parsed = formats.read(MATH[name])
    assert (parsed.format, parsed.ground_truth) == (name, answer)
    assert formats.guess_reward_kind(answer) == "math"


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


# ---- Rows without a ground truth.

ALONE = [
    ({"prompt": "Hi?"}, "prompt alone", ""),
    ({"messages": [{"role": "user", "content": "Hi?"}], "ground_truth": None}, "prompt alone", ""),
    ({"prompt": "Hi?", "ground_truth": " "}, "prompt alone", ""),
    ({"prompt": "Hi?", "ground_truth": True}, "prompt alone", ""),
    ({"problem": "Hi?", "solution": "none in a box"}, "prompt alone", ""),
    ({"prompt": "Hi?", "ground_truth": "yes"}, "own", "yes"),
    ({"question": "Hi?", "answer": "so #### 4"}, "gsm8k", "4"),
]


@pytest.mark.parametrize("row, name, truth", ALONE)
def test_a_row_may_be_a_prompt_alone(row, name, truth):
    parsed = formats.read(row, prompt_alone=True)
    assert (parsed.format, parsed.ground_truth) == (name, truth)
    assert parsed.messages == [{"role": "user", "content": "Hi?"}]
    if not truth:
        with pytest.raises(ValueError):
            formats.read(row)
        kept = {key: value for key, value in row.items() if key not in formats.PROMPT_KEYS}
        assert parsed.extra == kept


def test_a_row_without_a_prompt_is_refused_all_the_same():
    with pytest.raises(ValueError, match="no prompt"):
        formats.read({"text": "Hi?"}, prompt_alone=True)
    with pytest.raises(ValueError, match="its roles are"):
        formats.read({"messages": [{"role": "system", "content": "x"}]}, prompt_alone=True)
