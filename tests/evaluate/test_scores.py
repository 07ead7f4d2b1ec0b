"""Figures that the samples of the embedded model do not show."""

import pytest

from gopd_jax.evaluate.scores import score
from gopd_jax.evaluate.statistics import interval
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.evaluate.table import table
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.types import Prompt


def test_verdicts_of_one_kind_are_counted_together():
    details = ["error: NameError", "error: TypeError", "timeout", "correct"]
    names = [str(i) for i in range(len(details))]
    prompts = tuple(Prompt(name, (), "b", "") for name in names)
    benchmark = Benchmark("b", "b", "code", 1, prompts, dict.fromkeys(names, "h"))
    same = {"tokens": 1, "finish_reason": "stop", "answer": "x"}
    records = [
        same | {"prompt_id": name, "reward": float(detail == "correct"), "verdict": detail}
        for name, detail in zip(names, details, strict=True)
    ]
    scores = score([benchmark], records, {}, lambda items: [Verdict(0.0, "wrong")])
    assert scores["benchmarks"]["b"]["verdicts"] == {"error": 2, "timeout": 1, "correct": 1}


def graded(rewards):
    """The figures of a benchmark with two samples of each problem, judged by a function."""
    names = [str(i) for i in range(len(rewards))]
    prompts = tuple(Prompt(name, (), "b", "") for name in names)
    benchmark = Benchmark("b", "b", "mine:f", 2, prompts, dict.fromkeys(names, "h"))
    same = {"tokens": 1, "finish_reason": "stop", "answer": "x", "verdict": "judged"}
    records = [
        same | {"prompt_id": name, "reward": reward, "reward_metrics": {"words": 10 * reward}}
        for name, pair in zip(names, rewards, strict=True)
        for reward in pair
    ]
    return score([benchmark], records, {}, None)


def test_graded_rewards_are_averaged_and_have_no_pass_at_k():
    figures = graded([(0.5, 1.0), (0.0, 0.25), (1.0, 1.0)])
    found = figures["benchmarks"]["b"]
    assert [p["score"] for p in found["by_problem"].values()] == [0.75, 0.125, 1.0]
    assert found["avg"] == interval([0.75, 0.125, 1.0]).to_json()
    assert "pass" not in found and "majority" not in found
    assert found["reward_metrics"] == {"words": pytest.approx(6.25)}
    shown = table({"model": "m"} | figures)
    assert "      -      -" in shown and "means of b: words 6.25" in shown


def test_rewards_of_a_function_that_are_all_0_or_1_have_pass_at_k():
    found = graded([(0.0, 1.0), (0.0, 0.0)])["benchmarks"]["b"]
    assert {k: p["mean"] for k, p in found["pass"].items()} == {"1": 0.25, "2": 0.5}


def test_the_table_fits_a_narrow_terminal():
    figures = {"model": "m"} | graded([(0.0, 1.0), (0.0, 0.0)])
    assert "no answer" in table(figures).splitlines()[2]
    shown = table(figures, 60).splitlines()
    assert max(map(len, shown)) <= 60
    assert "pass@k" in shown[2] and "no answer" not in shown[2]
    assert shown[4] == "(timeout, error, no answer, cut: results.json)"
