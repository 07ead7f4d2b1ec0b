"""Advantage, importance weight and policy loss against arithmetic written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.objective.gopd import (
    gopd_advantage,
    group_normalised,
    importance_weight,
    needs_reference,
    policy_loss,
)

LAMBDAS = (0.0, 0.25, 1.0, 1.25, 1.5)


def logprobs_of(count=3, shape=(4, 9), seed=0):
    return -np.random.default_rng(seed).exponential(2.0, (count, *shape)).astype(np.float32)


@pytest.mark.parametrize("lam", LAMBDAS)
def test_advantage_is_the_scaled_implicit_reward_minus_the_log_ratio(lam):
    s, t, r = logprobs_of().astype(np.float64)
    with jax.enable_x64(True):
        advantage = np.asarray(gopd_advantage(jnp.asarray(s), jnp.asarray(t), jnp.asarray(r), lam))
    np.testing.assert_allclose(advantage, lam * (t - r) - (s - r), atol=1e-13)
    np.testing.assert_allclose(advantage, -(lam * (s - t) + (1 - lam) * (s - r)), atol=1e-13)


def test_lambda_may_differ_from_token_to_token():
    s, t, r = logprobs_of()
    lam = np.random.default_rng(1).choice(LAMBDAS, s.shape).astype(np.float32)
    advantage = gopd_advantage(s, t, r, lam)
    for one in LAMBDAS:
        here = lam == one
        expected = gopd_advantage(s[here], t[here], r[here], np.float32(one))
        np.testing.assert_array_equal(advantage[here], expected)


def test_at_lambda_1_the_reference_changes_no_bit():
    s, t, r = logprobs_of()
    ones = np.ones_like(s)
    expected = np.asarray(gopd_advantage(s, t, r, ones))
    for other in (-r, np.zeros_like(r), np.full_like(r, -1e30), t, None):
        np.testing.assert_array_equal(np.asarray(gopd_advantage(s, t, other, ones)), expected)
    np.testing.assert_array_equal(expected, t - s)


def test_the_reference_is_needed_unless_lambda_is_1():
    assert [needs_reference(lam) for lam in LAMBDAS] == [True, True, False, True, True]
    np.testing.assert_array_equal(needs_reference(np.array([1.0, 1.25])), [False, True])


def test_no_gradient_flows_through_advantage_and_importance_weight():
    s, t, r = logprobs_of()
    grads = jax.grad(lambda *args: gopd_advantage(*args, 1.25).sum(), argnums=(0, 1, 2))(s, t, r)
    grads += jax.grad(lambda *args: importance_weight(*args, 5.0).sum(), argnums=(0, 1))(s, t)
    assert all(np.all(np.asarray(g) == 0) for g in grads)


def test_importance_weight_is_capped_from_above_alone():
    behaviour = np.full(4, -2.0, np.float32)
    train = behaviour + np.log(np.array([0.01, 1.0, 4.9, 80.0], np.float32))
    weights = importance_weight(train, behaviour, 5.0)
    np.testing.assert_allclose(weights, [0.01, 1.0, 4.9, 5.0], rtol=1e-5)


def test_on_policy_gradient_is_minus_the_advantage():
    s, t, r = logprobs_of()
    advantage = gopd_advantage(s, t, r, 1.25)
    grad = jax.grad(lambda x: policy_loss(x, s, advantage, 0.2, 0.28, 3.0)[0].sum())(s)
    np.testing.assert_array_equal(grad, -advantage)


# ratio, advantage -> loss, gradient with respect to the log-prob, clipped.
# The clips are 0.2 and 0.28, the dual clip is 3.
RULE = [
    (1.0, 2.0, -2.0, -2.0, False),
    (1.25, 2.0, -2.5, -2.5, False),  # below 1 + clip_high
    (1.5, 2.0, -2.56, 0.0, True),  # above it: held at 1.28
    (0.5, 2.0, -1.0, -1.0, False),  # a positive advantage has no lower clip
    (1.5, -2.0, 3.0, 3.0, False),  # a negative one no upper clip
    (0.85, -2.0, 1.7, 1.7, False),
    (0.5, -2.0, 1.6, 0.0, True),  # held at 0.8
    (4.0, -2.0, 6.0, 0.0, True),  # held by the dual clip at 3 |A|
    (4.0, 0.0, 0.0, 0.0, False),
]


@pytest.mark.parametrize("ratio, advantage, loss, grad, clipped", RULE)
def test_policy_loss_case_by_case(ratio, advantage, loss, grad, clipped):
    old = jnp.float32(-1.5)
    logprob = old + jnp.log(jnp.float32(ratio))

    def loss_of(x):
        return policy_loss(x, old, jnp.float32(advantage), 0.2, 0.28, 3.0)

    (value, flag), gradient = jax.value_and_grad(loss_of, has_aux=True)(logprob)
    np.testing.assert_allclose([value, gradient], [loss, grad], rtol=1e-5, atol=1e-7)
    assert bool(flag) == clipped


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_extreme_ratios_stay_finite(advantage):
    logprobs = jnp.array([0.0, -500.0])

    def loss_of(x):
        return policy_loss(x, logprobs[::-1], jnp.full(2, advantage), 0.2, 0.28, 3.0)[0].sum()

    loss, grad = jax.value_and_grad(loss_of)(logprobs)
    assert np.isfinite(loss) and np.isfinite(grad).all()


def test_group_normalised_in_any_order():
    rng = np.random.default_rng(0)
    rewards, groups = rng.normal(size=24), rng.permutation(np.repeat([4, 0, 9], 8))
    expected = np.zeros(24)
    for g in (0, 4, 9):
        centred = rewards[groups == g] - rewards[groups == g].mean()
        expected[groups == g] = centred / (np.sqrt((centred**2).sum() / 7) + 1e-6)
    result = group_normalised(rewards, groups)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    order = rng.permutation(24)
    again = group_normalised(rewards[order], groups[order])
    np.testing.assert_allclose(again, result[order], rtol=1e-6)


def test_group_normalised_without_spread_and_without_a_group():
    np.testing.assert_array_equal(group_normalised(np.ones(4), np.zeros(4, int)), np.zeros(4))
    alone_and_pair = group_normalised(np.array([0.75, 1.0, 0.0]), np.array([7, 1, 1]))
    np.testing.assert_allclose(alone_and_pair, [0.75, 0.707106, -0.707106], rtol=1e-5)
