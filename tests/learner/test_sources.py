"""From rollouts and rewards, or given answers, to the examples of each update."""

import dataclasses

import numpy as np
import pytest
from step_cases import make_config, make_requests

from gopd_jax.learner.sources import given_answers, in_order, outside_advantages, to_examples
from gopd_jax.objective.weights import token_weights
from gopd_jax.types import Rollout


def make_rollouts(prompts=4, samples=2, truncated=()):
    rng = np.random.default_rng(0)
    out = []
    for i, request in enumerate(make_requests([5] * prompts, sample_ids=range(samples))):
        n = int(rng.integers(1, 11))
        tokens = rng.integers(1, 96, n, dtype=np.int32)
        logprobs = rng.normal(size=n).astype(np.float32)
        out.append(Rollout(request, tokens, logprobs, "length" if i in truncated else "stop"))
    return out


def examples_of(rollouts, advantages, config, step=1):
    """`to_examples` as a training run with this config calls it."""
    return to_examples(
        rollouts,
        advantages,
        method=config.method,
        reward_scales=config.reward_scales,
        weighting=config.learner.weighting,
        updates=config.learner.updates_per_batch,
        split_seed=(config.seed, step),
    )


def keys(rollouts):
    return [r.request.key for r in rollouts]


def test_order_is_that_of_prompt_and_sample():
    rollouts = make_rollouts()
    shuffled = [rollouts[i] for i in np.random.default_rng(1).permutation(8)]
    assert keys(in_order(shuffled)) == [(f"p{i}", s) for i in range(4) for s in range(2)]


def test_given_answers_are_cut_at_the_limit():
    requests = make_requests([3, 3, 3], max_tokens=4)
    answers = [np.arange(3), np.arange(4), np.arange(6)]
    rollouts = given_answers(requests, answers)
    assert [r.finish_reason for r in rollouts] == ["stop", "stop", "length"]
    for rollout, answer in zip(rollouts, answers, strict=True):
        np.testing.assert_array_equal(rollout.tokens, answer[:4])
        assert len(rollout.behaviour_logprobs) == len(rollout.tokens)


HALF = np.sqrt(0.5)


@pytest.mark.parametrize(
    "method, rewards, expected",
    [
        ("gopd", None, np.zeros(8)),
        ("sft", None, np.ones(8)),
        ("grpo", [1, 0, 1, 1, 0, 0, 0, 1], [HALF, -HALF, 0, 0, 0, 0, -HALF, HALF]),
    ],
)
def test_advantages_from_outside(method, rewards, expected):
    advantages = outside_advantages(method, make_rollouts(), rewards)
    np.testing.assert_allclose(advantages, expected, rtol=1e-5 if method == "grpo" else 0)


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean-token-mean"])
def test_every_field_of_an_example(aggregation):
    config = make_config(
        ("code", "math"), scales={"math": 0.5}, reward_scale=1.5, aggregation=aggregation
    )
    rollouts = make_rollouts()
    advantages = np.arange(8.0)
    (examples,) = examples_of(rollouts, advantages, config, step=3)
    lengths = np.array([len(r.tokens) for r in rollouts])
    weights = token_weights(lengths, np.zeros(8, bool), aggregation, "keep")
    for e, r, advantage, weight in zip(examples, rollouts, advantages, weights, strict=True):
        assert (e.key, e.domain) == (r.request.key, 1)
        assert (e.reward_scale, e.advantage, e.weight) == (0.5, advantage, weight)
        assert e.prompt is r.request.prompt.tokens
        assert e.response is r.tokens
        assert e.behaviour_logprobs is r.behaviour_logprobs
        assert e.teacher_prompt is None


@pytest.mark.parametrize(
    "method, importance, own_prompt",
    [("gopd", True, True), ("grpo", True, False), ("sft", False, False)],
)
def test_what_the_method_decides(method, importance, own_prompt):
    """Behaviour log-probs count for all methods but sft, prompts of the teacher for gopd alone."""
    rollouts = []
    for r in make_rollouts():
        prompt = dataclasses.replace(r.request.prompt, teacher_tokens=np.arange(7))
        request = dataclasses.replace(r.request, prompt=prompt)
        rollouts.append(dataclasses.replace(r, request=request))
    config = make_config(method=method, samples_per_prompt=2)
    (examples,) = examples_of(rollouts, np.ones(8), config)
    assert len(examples) == 8
    assert {e.behaviour_logprobs is not None for e in examples} == {importance}
    assert {e.teacher_prompt is not None for e in examples} == {own_prompt}


def test_each_update_has_its_own_rollouts_and_its_own_mean():
    rollouts = make_rollouts()
    config = make_config(updates_per_batch=4)
    updates = examples_of(rollouts, np.zeros(8), config)
    assert [len(u) for u in updates] == [2, 2, 2, 2]
    assert sorted(e.key for u in updates for e in u) == sorted(keys(rollouts))
    for update in updates:
        assert sum(e.weight * len(e.response) for e in update) == pytest.approx(1.0)

    def split(config, step):
        return [[e.key for e in u] for u in examples_of(rollouts, np.zeros(8), config, step)]

    other_seed = make_config(updates_per_batch=4, seed=5)
    assert split(config, 1) == split(config, 1)
    assert split(config, 2) != split(config, 1) != split(other_seed, 1)


@pytest.mark.parametrize("rule, counted", [("mask", 8), ("drop", 6)])
def test_rollouts_of_weight_0_are_left_out(rule, counted):
    rollouts = make_rollouts(truncated=(1, 6))
    config = make_config(truncation=rule, aggregation="sequence-mean-token-sum")
    (examples,) = examples_of(rollouts, np.zeros(8), config)
    kept = [key for i, key in enumerate(keys(rollouts)) if i not in (1, 6)]
    assert [e.key for e in examples] == kept
    assert {e.weight for e in examples} == {1 / counted}


def test_what_is_not_given_is_that_of_gopd():
    rollouts = make_rollouts(truncated=(2,))
    scales = {"math": 1.25}
    (short,) = to_examples(rollouts, reward_scales=scales)
    (long,) = examples_of(rollouts, np.zeros(8), make_config())
    assert [e.key for e in short] == [e.key for e in long]
    assert [(e.weight, e.advantage) for e in short] == [(e.weight, 0.0) for e in long]
    (answers,) = to_examples(rollouts, method="sft", reward_scales=scales)
    assert {e.advantage for e in answers} == {1.0}
    with pytest.raises(ValueError, match="rewards=None: expected one for each rollout"):
        to_examples(rollouts, method="grpo", reward_scales=scales)
