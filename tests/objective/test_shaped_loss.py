"""Shaping in the loss of a micro-batch: off is as if there were none, and on, the parts add up."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.objective.estimators import forward_kl, full_loss
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.predictions import Exact, Predictions
from gopd_jax.objective.settings import EstimatorSettings, LossSettings
from gopd_jax.objective.shaping import selected_states
from gopd_jax.objective.shaping_settings import ShapingSettings
from gopd_jax.types import PackedBatch

R, S, CAP = 3, 12, 5.0


def given(**changes):
    """The student's log-probs, what models say of the vocabulary, and a batch."""
    rng = np.random.default_rng(0)

    def numbers(low=-3.0, high=-0.1):
        return rng.uniform(low, high, (R, S)).astype(np.float32)

    trained = rng.random((R, S)) < 0.8
    exact = Exact(
        teacher_logprobs=numbers(),
        own=numbers(),
        teacher=numbers(),
        teacher_entropy=numbers(0, 2),
        log_z=numbers(),
        reference_logprobs=numbers(),
        reference=numbers(),
        target_negentropy=numbers(),
        target_cross=numbers(),
        divergence=numbers(0, 0.6),
    )
    zeros = np.zeros((R, S), np.int32)
    fields = {
        "used": np.int32(1),
        "domains": np.zeros(R, np.int32),
        **dict.fromkeys(("tokens", "positions", "segments", "targets"), zeros),
        "weights": np.where(trained, rng.uniform(0.5, 1.5, (R, S)), 0).astype(np.float32),
        "reward_scale": np.full((R, S), 1.25, np.float32),
        "advantages": numbers(),
        "behaviour_logprobs": numbers(),
        "teacher_logprobs": numbers(),
        "reference_logprobs": numbers(),
    }
    return numbers(), exact, PackedBatch(**(fields | changes)), trained


def loss_of(student, exact, batch, estimator="sampled", **shaping):
    settings = LossSettings(
        estimator=EstimatorSettings(estimator=estimator), shaping=ShapingSettings(**shaping)
    )
    predictions = Predictions(student, jnp.zeros_like(student), exact=exact)
    return weighted_loss(predictions, batch, settings, num_domains=1)


def numbers_of(details):
    return details.diagnostics.finish(["math"])


OFF = [
    {"log_ratio_clip": 1e6},
    {"advantage_clip": 1e6},
    {"gate_tau": 1e30},
    {"reward_scale_start": 2.0, "position_half_life": 5, "task_reward_form": "centred"},
    {"forward_kl_entropy": 0.1, "kl_coefficient_end": 0.3},
]


@pytest.mark.parametrize("shaping", OFF, ids=lambda s: next(iter(s)))
def test_what_does_not_act_changes_no_bit_of_loss_and_gradient(shaping):
    """Operation by operation: compiled, another program may round otherwise."""
    student, _, batch, _ = given()
    of = jax.value_and_grad(lambda x, **s: loss_of(x, None, batch, **s)[0])
    for found, expected in zip(of(student, **shaping), of(student), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_kl_to_the_reference_adds_to_the_loss_and_its_gradient():
    student, _, batch, trained = given()
    coefficients = np.full((R, S), 0.3, np.float32)
    with_kl = batch.replace(kl_coefficients=np.where(trained, coefficients, np.nan))
    of = jax.value_and_grad(lambda x, b: loss_of(x, None, b, kl_coefficient=0.3), has_aux=True)
    (plain, _), plain_gradient = of(student, batch)
    (loss, details), gradient = of(student, with_kl)
    log_r = batch.reference_logprobs - student
    k3 = np.exp(log_r) - 1 - log_r
    np.testing.assert_allclose(loss - plain, (batch.weights * 0.3 * k3).sum(), rtol=1e-4)
    slope = batch.weights * 0.3 * (1 - np.exp(log_r))
    np.testing.assert_allclose(gradient - plain_gradient, slope, rtol=1e-3, atol=1e-5)
    mean = numbers_of(details)["kl_trust_region"]
    assert mean == pytest.approx(k3[trained].mean(), rel=1e-4)
    zero = batch.replace(kl_coefficients=np.zeros((R, S), np.float32))
    (off, _), off_gradient = of(student, zero)
    assert off == plain
    np.testing.assert_array_equal(off_gradient, plain_gradient)


def test_selected_states_and_forward_kl_act_on_the_loss_of_states():
    student, exact, batch, trained = given(behaviour_logprobs=None)
    batch = batch.replace(advantages=np.zeros((R, S), np.float32))
    shaping = {"keep_states": 0.4, "forward_kl": 0.5, "forward_kl_entropy": 1.0}
    loss, details = loss_of(student, exact, batch, "full", **shaping)
    each = full_loss(exact, batch.reward_scale)
    undecided = exact.teacher_entropy > 1.0
    each = each + np.where(undecided, 0.5 * forward_kl(exact), 0.0)
    factor, keep = selected_states(exact.divergence, trained, 0.4)
    np.testing.assert_allclose(loss, (batch.weights * factor * each).sum(), rtol=1e-4)
    found = numbers_of(details)
    assert found["states_kept"] == pytest.approx(np.mean(keep[trained]))
    assert found["forward_kl_states"] == pytest.approx(undecided[trained].mean())
    spoiled = dataclasses.replace(exact, divergence=np.where(trained, exact.divergence, np.nan))
    assert loss_of(student, spoiled, batch, "full", **shaping)[0] == loss


def test_the_baseline_is_subtracted_after_the_returns_are_summed():
    """The value of a later state depends on the token: it must not enter its return."""
    student, exact, batch, trained = given()
    found = {
        (name, gamma): loss_of(student, exact, batch, name, return_discount=gamma)[1].advantages
        for name in ("sampled", "sampled_baseline")
        for gamma in (0.0, 0.9)
    }
    value = full_loss(exact, batch.reward_scale)
    for gamma in (0.0, 0.9):
        gap = found["sampled_baseline", gamma] - found["sampled", gamma]
        np.testing.assert_allclose(gap[trained], value[trained], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["sampled", 0.0][trained], found["sampled", 0.9][trained])


def test_the_kl_to_the_reference_is_reported_wherever_it_was_run():
    student, _, batch, trained = given()
    batch = batch.replace(reward_scale=np.ones((R, S), np.float32))
    expected = (student - batch.reference_logprobs)[trained].mean()
    for shaping, mean in [({}, 0.0), ({"kl_coefficient": 0.1}, expected)]:
        found = numbers_of(loss_of(student, None, batch, **shaping)[1])["kl_reference"]
        assert found == pytest.approx(mean, rel=1e-4)
