"""From rollouts and rewards, or given answers, to the examples of each update."""

import dataclasses

import numpy as np
import pytest
from step_cases import make_config, make_requests

from gopd_jax.learner.sources import given_answers, in_order, outside_advantages, to_examples
from gopd_jax.objective.shaping_settings import ShapingSettings
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
        shaping=config.shaping,
        step=step,
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


# ---- Shaping.

REWARDS = [1, 0, 1, 1, 0, 0, 0.5, 1]


def test_a_task_reward_is_added_to_gopd_and_truncated_responses_pay():
    rollouts = make_rollouts(truncated=(1, 6))
    penalty = np.array([0, 1, 0, 0, 0, 0, 1, 0])

    def found(method="gopd", **settings):
        return outside_advantages(method, rollouts, REWARDS, ShapingSettings(**settings))

    grpo = outside_advantages("grpo", rollouts, REWARDS)
    np.testing.assert_allclose(found(task_reward=0.5), 0.5 * grpo)
    centred = [0.5, -0.5, 0, 0, 0, 0, -0.25, 0.25]
    np.testing.assert_allclose(
        found(task_reward=2.0, task_reward_form="centred"), 2 * np.array(centred)
    )
    np.testing.assert_allclose(found(truncation_penalty=0.3), -0.3 * penalty, rtol=1e-6)
    np.testing.assert_allclose(
        found("grpo", truncation_penalty=0.3), grpo - 0.3 * penalty, rtol=1e-5
    )
    np.testing.assert_array_equal(found(), np.zeros(8))
    with pytest.raises(ValueError, match="rewards=None: expected one for each .* a task reward"):
        outside_advantages("gopd", rollouts, None, ShapingSettings(task_reward=1.0))


@pytest.mark.parametrize("rule", ["keep", "mask", "drop"])
@pytest.mark.parametrize(
    "aggregation", ["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]
)
def test_weights_by_position_are_those_of_a_loop(aggregation, rule):
    """With values of one, the aggregation of a weighted mean is the share that is trained on."""
    rollouts = make_rollouts(truncated=(1, 6))
    base = make_config(aggregation=aggregation, truncation=rule)
    shaping = ShapingSettings(position_half_life=3, prefix_limit=6)
    config = dataclasses.replace(base, shaping=shaping)
    (examples,) = examples_of(rollouts, np.zeros(8), config)
    counted = [r for r in rollouts if rule != "drop" or not r.truncated]
    relative = {
        r.request.key: [0.5 ** (t / 3) if t < 6 else 0.0 for t in range(len(r.tokens))]
        for r in counted
    }
    for e in examples:
        own = relative[e.key]
        denominator = {
            "token-mean": sum(map(sum, relative.values())),
            "sequence-mean-token-mean": len(counted) * sum(own),
            "sequence-mean-token-sum": len(counted),
        }[aggregation]
        np.testing.assert_allclose(e.weight, np.array(own) / denominator, rtol=1e-12)
    assert any((e.weight == 0).any() for e in examples)


def test_weights_by_position_that_change_nothing_are_off_to_the_bit():
    rollouts = make_rollouts()
    plain = make_config()
    long = dataclasses.replace(plain, shaping=ShapingSettings(prefix_limit=10_000))
    pairs = zip(
        *examples_of(rollouts, None, plain), *examples_of(rollouts, None, long), strict=True
    )
    for a, b in pairs:
        np.testing.assert_array_equal(np.full(len(a.response), a.weight), b.weight)


def test_schedules_reach_the_examples():
    rollouts = make_rollouts()
    config = make_config(reward_scale=1.5)
    assert {e.kl_coefficients for e in examples_of(rollouts, None, config)[0]} == {None}
    shaping = ShapingSettings(
        reward_scale_start=1.0,
        reward_scale_steps=2,
        kl_coefficient=0.2,
        kl_coefficient_steps=4,
    )
    config = dataclasses.replace(config, shaping=shaping)
    for step, scale, coefficient in [(1, 1.0, 0.2), (2, 1.25, 0.15), (3, 1.5, 0.1), (9, 1.5, 0)]:
        (examples,) = examples_of(rollouts, None, config, step)
        assert {e.reward_scale for e in examples} == {scale}
        assert [e.kl_coefficients for e in examples] == pytest.approx([coefficient] * 8)
