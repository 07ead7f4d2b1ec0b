"""Means and 95% intervals of avg@k, clustered by prompt; the evaluation loop on a fake engine."""

import types

import jax
import numpy as np
import pytest
from step_cases import make_requests

from gopd_jax.evaluate.held_out import Evaluation, evaluate, paired_difference
from gopd_jax.evaluate.statistics import interval
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.types import Rollout

RULE = SamplingRule(temperature=0.5)


def evaluation(by_prompt):
    return Evaluation(tuple(by_prompt), samples=4, tokens=1, truncated=0.0, seconds=1.0)


def test_interval_is_that_of_the_mean_over_prompts():
    values = np.random.default_rng(0).integers(0, 5, 30) / 4
    mean, half = interval(values)
    assert mean == pytest.approx(values.sum() / 30)
    t_29 = 2.045230  # 29 degrees of freedom
    assert half == pytest.approx(t_29 * np.sqrt(((values - mean) ** 2).sum() / 29 / 30))
    assert (evaluation(values).mean, evaluation(values).half_width) == (mean, half)


def test_one_prompt_says_nothing_about_others():
    assert interval([0.5]) == (0.5, float("inf"))


def test_paired_difference_takes_out_what_the_prompts_share():
    rng = np.random.default_rng(1)
    hardness = rng.random(50)
    a, b = hardness + 0.1 + rng.normal(0, 0.02, 50), hardness + rng.normal(0, 0.02, 50)
    mean, half = paired_difference(evaluation(a), evaluation(b))
    assert mean == pytest.approx(a.mean() - b.mean())
    assert half == pytest.approx(2.009575 * np.std(a - b, ddof=1) / np.sqrt(50))
    assert half < interval(a)[1] / 5
    assert paired_difference(evaluation(b), evaluation(a)) == pytest.approx((-mean, half))


def test_intervals_cover_the_truth_95_times_in_100():
    """4000 evaluations of 100 prompts x 8 samples; the prompts differ much in difficulty.

    Unclustered intervals would be too narrow.
    """
    rng = np.random.default_rng(2)
    rate = rng.beta(0.4, 0.6, (4000, 100))  # each prompt's own rate of success; 0.4 on average
    by_prompt = rng.binomial(8, rate) / 8
    covered = [abs(mean - 0.4) <= half for mean, half in map(interval, by_prompt)]
    assert 0.93 < np.mean(covered) < 0.97
    means = by_prompt.mean(axis=1)
    unclustered = 1.959964 * np.sqrt(means * (1 - means) / 800)
    assert np.mean(np.abs(means - 0.4) <= unclustered) < 0.7


def test_evaluate_averages_the_samples_of_each_prompt():
    prompts = [r.prompt for r in make_requests([3, 4, 5])]
    reward = {"p0": [1, 0], "p1": [1, 1], "p2": [0, 0]}

    def engine(weights, requests, key, rule):
        assert weights == "weights" and rule == RULE
        for r in reversed(requests):  # engines yield in any order
            name = r.key.prompt_id
            tokens = np.array([int(name[1]), r.sample_id], np.int32)
            yield Rollout(r, tokens, np.zeros(2, np.float32), "length" if r.sample_id else "stop")

    class Engine:
        slots = 4
        __call__ = staticmethod(engine)

    def verify(items):
        assert {kind for kind, _, _ in items} == {"math"}
        return [Verdict(float(reward[f"p{text[0]}"][text[1]]), "") for _, text, _ in items]

    tokenizer = types.SimpleNamespace(decode=lambda tokens: tuple(int(t) for t in tokens))
    result = evaluate(
        Engine(),
        "weights",
        prompts,
        verify,
        "math",
        tokenizer,
        samples=2,
        max_tokens=5,
        rule=RULE,
        key=jax.random.key(0),
        name="test",
    )
    assert result.by_prompt == (0.5, 1.0, 0.0) and result.mean == 0.5
    assert (result.samples, result.tokens, result.truncated) == (2, 12, 0.5)
