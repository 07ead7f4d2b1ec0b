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


def test_an_evaluation_has_the_interval_of_its_prompts():
    values = np.random.default_rng(0).integers(0, 5, 30) / 4
    assert evaluation(values).estimate == interval(values)
    assert evaluation(values).mean == evaluation(values).estimate.mean


def test_paired_difference_takes_out_what_the_prompts_share():
    rng = np.random.default_rng(1)
    hardness = 0.8 * rng.random(500)
    a, b = hardness + 0.1 + rng.normal(0, 0.02, 500), hardness + 0.05
    gain, turned = (paired_difference(evaluation(x), evaluation(y)) for x, y in ((a, b), (b, a)))
    assert gain.mean == pytest.approx(a.mean() - b.mean()) and gain.low > 0
    assert gain.high - gain.low < (interval(a).high - interval(a).low) / 3
    assert (turned.low, turned.high) == pytest.approx((-gain.high, -gain.low))


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
