"""Reward functions of the user: called in workers, limited, and never a silent 0."""

import os
from pathlib import Path
import re

import own_functions
from processes import children
import pytest

from gopd_jax.data.verifying import item, try_reward
from gopd_jax.rewards.own import RewardError
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth
from gopd_jax.types import Prompt

FILE = Path(own_functions.__file__)
PROMPT = Prompt(
    "p/1",
    ({"role": "user", "content": "?"},),
    "chat",
    "",
    {"level": 3, "tags": ["a", {"b": None}]},
)


@pytest.fixture(scope="module")
def verify():
    with Verifier(2, timeout_s=1.0, memory_mb=256) as verifier:
        yield verifier


@pytest.fixture
def judge(verify):
    def one(name: str, answer: str = "") -> Verdict:
        return verify([item(f"own_functions:{name}", PROMPT, answer)])[0]

    return one


def test_a_number_is_the_reward(judge):
    assert judge("half") == Verdict(0.5, "judged")


def test_further_numbers_come_along(judge):
    assert judge("named", "two words") == Verdict(0.9, "judged", {"words": 2.0, "level": 3.0})


def test_a_text_comes_along_as_feedback(judge):
    verdict = judge("critic", "two words")
    assert verdict == Verdict(0.0, "judged", {"words": 2.0})
    assert verdict.feedback == verdict.in_words == "too few words: 'two words'"
    assert judge("half").in_words == ""


def test_the_row_comes_whole_and_an_answer_in_unicode(judge):
    assert judge("echo", "héllo").reward == 1.0


WRONG = {
    "raises": rf"raised KeyError: 'no such field' for prompt 'p/1' .*{FILE}:{{line}}: expected",
    "out_of_range": rf"returned 1.5 for prompt 'p/1' and the answer 'x' at {FILE}:{{line}}: exp",
    "not_finite": "returned nan as its 'loss' for",
    "text": "returned '0.5' for",
    "nothing": "returned None for",
    "unnamed": r"returned {'score': 0.5} without a \"reward\" for",
    "taken": "returned a number named 'low'",
    "no_text": "returned 3 as its 'feedback' for",
    "exits": "raised SystemExit",
    "dies": "ended its process, .* for prompt 'p/1'",
}
LINES = {"raises": '    return record["no such field"]', "out_of_range": "def out_of_range("}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_function_may_not_do_is_an_error(judge, name):
    lines = FILE.read_text().splitlines()
    wanted = LINES.get(name)
    line = next((i for i, text in enumerate(lines, 1) if wanted and text.startswith(wanted)), 0)
    pattern = WRONG[name].replace("{line}", str(line))
    with pytest.raises(RewardError, match=rf"reward 'own_functions:{name}' {pattern}") as error:
        judge(name, "x")
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    assert judge("half").reward == 0.5  # the other workers go on


def test_an_error_among_many_answers_ends_them(verify):
    items = [item("own_functions:half", PROMPT, str(i)) for i in range(50)]
    items.insert(10, item("own_functions:raises", PROMPT, "x"))
    with pytest.raises(RewardError, match="KeyError"):
        verify(items)


@pytest.mark.parametrize("name", ["slow", "never_interrupted"])
def test_the_time_limit_holds(judge, name):
    assert judge(name, "slow") == Verdict(0.0, "timeout")
    assert judge(name, "fast") == Verdict(1.0, "judged")


def test_the_memory_limit_holds(judge):
    assert judge("hungry", "hungry") == Verdict(0.0, "memory")
    assert judge("hungry", "modest") == Verdict(1.0, "judged")


def test_what_a_function_prints_is_no_reply(judge):
    assert judge("prints") == Verdict(1.0, "judged")


def test_the_trainer_does_not_import_the_module_and_equal_items_are_judged_once(verify):
    before = list(own_functions.CALLS)
    first = verify([item("own_functions:counts", PROMPT, a) for a in "aab"])
    assert first[0] == first[1]
    assert verify([item("own_functions:counts", PROMPT, "a")]) == first[:1]
    assert own_functions.CALLS == before


def test_modules_of_the_current_folder_and_edits_of_their_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    module = tmp_path / "pack" / "mine.py"
    module.write_text("from pack.other import VALUE\ndef f(record, answer): return VALUE\n")
    (tmp_path / "pack" / "other.py").write_text("VALUE = 0.25\n")
    sources = []
    for _ in range(2):
        with Verifier() as verifier:
            assert verifier([item("pack.mine:f", PROMPT, "")]) == [Verdict(0.25, "judged")]
            sources.append(verifier.source("pack.mine:f"))
        module.write_text(module.read_text() + "# edited\n")
    assert sources[0] != sources[1] and all(re.fullmatch("[0-9a-f]{64}", s) for s in sources)


NOT_THERE = {
    "no_such_module:f": "'no_such_module' cannot be imported .ModuleNotFoundError: No module named",
    "own_functions:hafl": "'hafl' is nothing in own_functions .*; nearest: 'half'",
    "own_functions:not_a_function": "'not_a_function' is of type int in own_functions",
    "broken:f": r"'broken' cannot be imported \(SyntaxError: .* at .*broken.py:2\); expected a",
    "failing:f": r"'failing' cannot be imported \(ZeroDivisionError: .* at .*failing.py:1\); exp",
}


@pytest.mark.parametrize("reward", NOT_THERE)
def test_a_function_that_is_not_there(reward, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text("\ndef f(:\n")
    (tmp_path / "failing.py").write_text("1 / 0\n")
    before = children(os.getpid())
    with Verifier() as verifier:
        with pytest.raises(RewardError, match=f"reward '{reward}': {NOT_THERE[reward]}"):
            verifier.source(reward)
        assert children(os.getpid()) == before


def test_a_first_call_finds_what_is_wrong(verify, tmp_path, monkeypatch):
    try_reward("own_functions:half", PROMPT, verify)
    with pytest.raises(RewardError, match="without a"):
        try_reward("own_functions:unnamed", PROMPT, verify)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "sleeps.py").write_text("import time\ndef f(record, answer): time.sleep(60)\n")
    with pytest.raises(RewardError, match="limit of the verifier .timeout. .*at most 1 s and 256"):
        try_reward("sleeps:f", PROMPT, verify)


def test_ground_truths_are_no_business_of_kinds(verify):
    with pytest.raises(ValueError, match="nearest: 'math'"):
        check_ground_truth("mth", "1")
