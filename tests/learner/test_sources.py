"""From rollouts and rewards, or given answers, to the sequences of each update."""

import numpy as np
import pytest
from step_cases import make_config, make_requests

from gopd_jax.learner.sources import given_answers, order, outside_advantages, to_sequences
from gopd_jax.objective.weights import token_weights
from gopd_jax.types import Rollout


def _rollouts(prompts=4, samples=2, truncated=()):
    rng = np.random.default_rng(0)
    out = []
    for i, request in enumerate(make_requests([5] * prompts, sample_ids=range(samples))):
        n = int(rng.integers(1, 11))
        reason = "length" if i in truncated else "stop"
        out.append(
            Rollout(
                request,
                rng.integers(1, 96, n, dtype=np.int32),
                rng.normal(size=n).astype(np.float32),
                reason,
            )
        )
    return out


def _name(rollout):
    return rollout.request.key


def test_order_is_that_of_prompt_and_sample():
    rollouts = _rollouts()
    shuffled = [rollouts[i] for i in np.random.default_rng(1).permutation(8)]
    assert list(map(_name, order(shuffled))) == [(f"p{i}", s) for i in range(4) for s in range(2)]


def test_given_answers_are_cut_at_the_limit():
    requests = make_requests([3, 3, 3], max_tokens=4)
    answers = [np.arange(3), np.arange(4), np.arange(6)]
    rollouts = given_answers(requests, answers)
    assert [r.finish_reason for r in rollouts] == ["stop", "stop", "length"]
    for rollout, answer in zip(rollouts, answers, strict=True):
        np.testing.assert_array_equal(rollout.tokens, answer[:4])
        assert len(rollout.behaviour_logprobs) == len(rollout.tokens)


def test_advantages_from_outside():
    rollouts, rewards = _rollouts(), [1, 0, 1, 1, 0, 0, 0, 1]
    np.testing.assert_array_equal(outside_advantages("gopd", rollouts, None), np.zeros(8))
    np.testing.assert_array_equal(outside_advantages("sft", rollouts, None), np.ones(8))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        outside_advantages("grpo", rollouts, rewards),
        [half, -half, 0, 0, 0, 0, -half, half],
        rtol=1e-5,
    )


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean-token-mean"])
def test_every_field_of_a_sequence(aggregation):
    config = make_config(
        ("code", "math"), scales={"math": 0.5}, reward_scale=1.5, aggregation=aggregation
    )
    rollouts = _rollouts()
    advantages = np.arange(8.0)
    (sequences,) = to_sequences(rollouts, advantages, config, step=3)
    weights = token_weights(
        np.array([len(r.tokens) for r in rollouts]), np.zeros(8, bool), aggregation, "keep"
    )
    for s, r, advantage, weight in zip(sequences, rollouts, advantages, weights, strict=True):
        assert (s.name, s.domain, s.reward_scale, s.advantage, s.weight) == (
            _name(r),
            1,
            0.5,
            advantage,
            weight,
        )
        assert (
            s.prompt is r.request.prompt.tokens
            and s.response is r.tokens
            and s.behaviour_logprobs is r.behaviour_logprobs
        )


def test_sft_has_no_behaviour_logprobs():
    (sequences,) = to_sequences(_rollouts(), np.ones(8), make_config(method="sft"), 1)
    assert all(s.behaviour_logprobs is None for s in sequences)


def test_each_update_has_its_own_rollouts_and_its_own_mean():
    rollouts = _rollouts()
    config = make_config(updates_per_batch=4)
    updates = to_sequences(rollouts, np.zeros(8), config, step=1)
    assert [len(u) for u in updates] == [2, 2, 2, 2]
    assert sorted(s.name for u in updates for s in u) == sorted(map(_name, rollouts))
    for update in updates:
        assert sum(s.weight * len(s.response) for s in update) == pytest.approx(1.0)

    def split(config, step):
        return [[s.name for s in u] for u in to_sequences(rollouts, np.zeros(8), config, step)]

    assert split(config, 1) == split(config, 1)
    assert (
        split(config, 2) != split(config, 1) != split(make_config(updates_per_batch=4, seed=5), 1)
    )


@pytest.mark.parametrize("rule, counted", [("mask", 8), ("drop", 6)])
def test_rollouts_of_weight_0_are_left_out(rule, counted):
    rollouts = _rollouts(truncated=(1, 6))
    config = make_config(truncation=rule, aggregation="sequence-mean-token-sum")
    (sequences,) = to_sequences(rollouts, np.zeros(8), config, 1)
    assert [s.name for s in sequences] == [
        _name(r) for i, r in enumerate(rollouts) if i not in (1, 6)
    ]
    assert {s.weight for s in sequences} == {1 / counted}
