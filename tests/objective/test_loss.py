"""The loss of one micro-batch: which terms enter, and what is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.objective.gopd import gopd_advantage
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import Clipping, LossSettings
from gopd_jax.types import PackedBatch

R, S, LAMBDA, CAP = 3, 7, 1.25, 1.5


def make_batch(**changes):
    rng = np.random.default_rng(0)
    integers = np.zeros((R, S), np.int32)
    trained = rng.random((R, S)) < 0.7

    def logprobs():
        return rng.normal(-2, 0.5, (R, S)).astype(np.float32)

    fields = {
        "used": np.int32(1),
        "domains": np.zeros(R, np.int32),
        **dict.fromkeys(("tokens", "positions", "segments", "targets"), integers),
        "weights": np.where(trained, rng.uniform(0.5, 1.5, (R, S)), 0).astype(np.float32),
        "reward_scale": np.full((R, S), LAMBDA, np.float32),
        "advantages": rng.normal(size=(R, S)).astype(np.float32),
        "behaviour_logprobs": logprobs(),
        "teacher_logprobs": logprobs(),
        "reference_logprobs": logprobs(),
    }
    return logprobs(), PackedBatch(**(fields | changes))


SETTINGS = LossSettings(Clipping(importance_cap=CAP))


def loss_of(student, batch):
    predictions = Predictions(student, jnp.zeros_like(student))
    return weighted_loss(predictions, batch, SETTINGS, num_domains=1)


ABSENT = [
    {},
    {"teacher_logprobs": None, "reference_logprobs": None},
    {"behaviour_logprobs": None},
    {"behaviour_logprobs": None, "teacher_logprobs": None, "reference_logprobs": None},
]


@pytest.mark.parametrize("absent", ABSENT, ids=["gopd", "grpo", "no importance weight", "sft"])
def test_sum_of_weight_times_importance_times_policy_loss(absent):
    """On-policy, the policy loss is minus the advantage and so is its gradient."""
    student, batch = make_batch(**absent)
    advantages = batch.advantages
    if batch.teacher_logprobs is not None:
        implicit = batch.teacher_logprobs - batch.reference_logprobs
        advantages = advantages + LAMBDA * implicit - (student - batch.reference_logprobs)
    importance = 1.0
    if batch.behaviour_logprobs is not None:
        importance = np.minimum(np.exp(student - batch.behaviour_logprobs), CAP)
        assert (importance == CAP).any() and (importance < CAP).any()
    (loss, details), grad = jax.value_and_grad(loss_of, has_aux=True)(student, batch)
    expected = -batch.weights * importance * advantages
    np.testing.assert_allclose(loss, expected.sum(), rtol=1e-5)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-6)
    trained = batch.weights > 0
    found, expected = details.advantages[trained], advantages[trained]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    tokens = details.diagnostics.finish(["math"])["tokens_trained"]
    assert tokens == (batch.weights > 0).sum()


def test_advantages_in_the_batch_take_the_place_of_those_of_the_teacher():
    """An advantage of one's own: in `advantages`, without teacher log-probs."""
    student, batch = make_batch(advantages=np.zeros((R, S), np.float32))
    own = gopd_advantage(
        student, batch.teacher_logprobs, batch.reference_logprobs, batch.reward_scale
    )
    with_own = batch.replace(advantages=own, teacher_logprobs=None)
    (expected, _), expected_grad = jax.value_and_grad(loss_of, has_aux=True)(student, batch)
    (found, _), grad = jax.value_and_grad(loss_of, has_aux=True)(student, with_own)
    assert found == expected != 0
    np.testing.assert_array_equal(grad, expected_grad)


def test_untrained_tokens_may_hold_anything():
    """NaN there reaches neither the loss nor its gradient, in which 0 * NaN would be NaN."""
    student, batch = make_batch()
    batch = batch.replace(old_logprobs=student + np.float32(0.05))
    names = ("teacher_logprobs", "reference_logprobs", "behaviour_logprobs", "old_logprobs")
    trained = batch.weights > 0
    spoiled = {name: np.where(trained, getattr(batch, name), np.nan) for name in names}
    expected = jax.value_and_grad(loss_of, has_aux=True)(student, batch)
    found = jax.value_and_grad(loss_of, has_aux=True)(student, batch.replace(**spoiled))
    assert found[0][0] == expected[0][0]
    np.testing.assert_array_equal(found[1], expected[1])


def test_the_start_of_the_rollout_batch_decides_advantage_and_importance():
    """With old log-probs, the student's own enter only the ratio."""
    student, batch = make_batch()
    old = student + np.float32(0.05)  # inside the clip range
    loss, details = loss_of(student, batch.replace(old_logprobs=old))
    start_loss, start_details = loss_of(old, batch)
    trained = batch.weights > 0
    found, expected = details.advantages[trained], start_details.advantages[trained]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(loss, start_loss * np.exp(np.float32(-0.05)), rtol=1e-5)
