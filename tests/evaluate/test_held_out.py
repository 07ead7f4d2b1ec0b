"""Means and 95% intervals of avg@k, clustered by prompt; the evaluation loop on a fake engine."""

import threading
import types

import jax
import numpy as np
import pytest
from step_cases import make_requests

from gopd_jax.evaluate import held_out
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


class Engine:
    """Gives each request two tokens: the prompt's number and the sample's, in reverse order."""

    slots = 4

    def __call__(self, weights, requests, key, rule):
        assert weights == "weights" and rule == RULE
        for r in reversed(requests):  # engines yield in any order
            tokens = np.array([int(r.key.prompt_id[1:]), r.sample_id], np.int32)
            yield Rollout(r, tokens, np.zeros(2, np.float32), "length" if r.sample_id else "stop")


def evaluated(prompts, verify, engine=Engine, samples=2):
    return evaluate(
        engine(),
        "weights",
        prompts,
        verify,
        "math",
        types.SimpleNamespace(decode=lambda tokens: tuple(int(t) for t in tokens)),
        samples=samples,
        max_tokens=5,
        rule=RULE,
        key=jax.random.key(0),
        name="test",
    )


def test_evaluate_averages_the_samples_of_each_prompt():
    prompts = [r.prompt for r in make_requests([3, 4, 5])]
    reward = {"p0": [1, 0], "p1": [1, 1], "p2": [0, 0]}

    def verify(items):
        assert {kind for kind, _, _ in items} == {"math"}
        return [Verdict(float(reward[f"p{text[0]}"][text[1]]), "") for _, text, _ in items]

    result = evaluated(prompts, verify)
    assert result.by_prompt == (0.5, 1.0, 0.0) and result.mean == 0.5
    assert (result.samples, result.tokens, result.truncated) == (2, 12, 0.5)


def test_answers_are_verified_while_others_are_drawn():
    """Up to a number of batches; no answer is mixed up, and an error ends the evaluation."""
    prompts = [r.prompt for r in make_requests([1] * 40)]
    started, drawn = threading.Event(), []

    def verify(items):
        assert started.wait(60)  # the engine goes on meanwhile
        return [Verdict(text[0] / 40, "") for _, text, _ in items]

    class Watched(Engine):
        def __call__(self, weights, requests, key, rule):
            for rollout in super().__call__(weights, requests, key, rule):
                drawn.append(rollout)
                if len(drawn) == Engine.slots * held_out.MOST_PENDING:
                    started.set()
                yield rollout

    result = evaluated(prompts, verify, Watched, samples=1)
    assert result.by_prompt == tuple(i / 40 for i in range(40))

    def broken(items):
        raise RuntimeError("no judge")

    with pytest.raises(RuntimeError, match="no judge"):
        evaluated(prompts, broken)
