"""The loss of one micro-batch: predictions and a packed batch in, one number out.

Every denominator is in the batch's token weights, so the loss is a plain weighted sum.
"""

from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.objective.diagnostics import Diagnostics, TokenRecord, token_diagnostics
from gopd_jax.objective.estimators import forward_kl, state_loss, state_value
from gopd_jax.objective.gopd import importance_weight, policy_loss
from gopd_jax.objective.predictions import Exact, Predictions
from gopd_jax.objective.settings import LossSettings
from gopd_jax.objective.shaping import (
    reference_penalty,
    selected_states,
    shaped_advantages,
    with_forward_kl,
)
from gopd_jax.objective.shaping_settings import ShapingSettings
from gopd_jax.types import PackedBatch


@struct.dataclass
class LossDetails:
    """What the loss was made of.

    diagnostics: partial reductions by domain.
    advantages: float32 [R, S], nats; they mean nothing outside the trained tokens.
    """

    diagnostics: Diagnostics
    advantages: jax.Array


class Loss(Protocol):
    """A loss of one micro-batch; see `weighted_loss`, which is the default of the learner."""

    def __call__(
        self,
        predictions: Predictions,
        batch: PackedBatch,
        settings: LossSettings,
        num_domains: int,
    ) -> tuple[jax.Array, LossDetails]: ...


def weighted_loss(
    predictions: Predictions, batch: PackedBatch, settings: LossSettings, num_domains: int
) -> tuple[jax.Array, LossDetails]:
    """Sum over the trained tokens of weight * loss of the token.

    The loss of a token is importance weight * policy loss, whose advantage is the one from outside
    plus, where a teacher scored, the G-OPD one (`gopd_advantage`), minus its mean over the
    vocabulary with "sampled_baseline". With an estimator of whole states it is the loss of the
    state (`estimators.state_loss`), which does not depend on the drawn token, plus the policy loss
    of an advantage from outside. With `likelihood` it is -advantage * log student, which nothing
    clips: SFT, whose tokens were not drawn from the student. What the settings of shaping switch on
    changes the G-OPD advantage, adds to the loss, or leaves tokens out; see `shaping`.

    Args:
        predictions: of the student, and what teacher and reference say of the whole vocabulary.
        batch: one micro-batch, its fields [R, S].
        settings: estimator, clipping, shaping.

    Returns:
        The loss, a float32 scalar, and its details.
    """
    trained = batch.weights > 0
    batch = _without_untrained(batch, trained)
    clipping, estimator, shaping = settings.clipping, settings.estimator, settings.shaping
    logprobs, exact = predictions.logprobs, predictions.exact
    if exact is not None:
        batch = batch.replace(
            teacher_logprobs=exact.teacher_logprobs, reference_logprobs=exact.reference_logprobs
        )
    fixed = jax.lax.stop_gradient(logprobs)
    old = fixed if batch.old_logprobs is None else batch.old_logprobs
    implicit, watched = None, {}
    if batch.teacher_logprobs is not None:
        models = old, batch.teacher_logprobs, batch.reference_logprobs
        implicit, watched = shaped_advantages(shaping, *models, batch.reward_scale, trained)
        if estimator.estimator == "sampled_baseline":
            implicit = implicit - state_value(exact, batch.reward_scale)
    advantages = batch.advantages if implicit is None else batch.advantages + implicit
    of_policy = batch.advantages if estimator.of_states else advantages
    if settings.likelihood:
        loss, clipped = -advantages * logprobs, jnp.zeros_like(trained)
    else:
        limits = clipping.clip_low, clipping.clip_high, clipping.dual_clip
        loss, clipped = policy_loss(logprobs, old, of_policy, *limits)
    importance = None
    if batch.behaviour_logprobs is not None:
        importance = importance_weight(old, batch.behaviour_logprobs, clipping.importance_cap)
        loss = loss * importance
    if estimator.of_states:
        loss = loss + state_loss(exact, batch.reward_scale, estimator)
    loss, more = _shaped_loss(loss, logprobs, batch, trained, exact, shaping)
    record = TokenRecord(
        logprobs=fixed,
        advantages=advantages,
        entropy=predictions.entropy,
        clipped=clipped,
        importance=importance,
        behaviour_logprobs=batch.behaviour_logprobs,
        sampler_logprobs=predictions.sampler_logprobs,
        teacher_logprobs=batch.teacher_logprobs,
        reference_logprobs=batch.reference_logprobs,
        reward_scale=batch.reward_scale,
        exact=jax.lax.stop_gradient(exact),
        shaping=watched | more,
        reference_everywhere=shaping.reference_everywhere,
    )
    diagnostics = token_diagnostics(
        record, batch.domains, num_domains, trained, clipping.importance_cap
    )
    total = jnp.sum(jnp.where(trained, batch.weights * loss, 0.0))
    return total, LossDetails(diagnostics, advantages)


def _shaped_loss(
    loss: jax.Array,
    logprobs: jax.Array,
    batch: PackedBatch,
    trained: jax.Array,
    exact: Exact | None,
    shaping: ShapingSettings,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of each token with what is added to it or leaves it out, and what is watched."""
    watched = {}
    if shaping.forward_kl:
        given = forward_kl(exact), exact.teacher_entropy, shaping.forward_kl_entropy
        loss, watched["forward_kl_states"] = with_forward_kl(loss, *given, shaping.forward_kl)
    if batch.kl_coefficients is not None:
        given = batch.reference_logprobs, batch.kl_coefficients
        penalty, watched["kl_trust_region"] = reference_penalty(logprobs, *given)
        loss = loss + penalty
    if shaping.keep_states < 1:
        scores = jnp.where(trained, exact.divergence, 0.0)
        factor, watched["states_kept"] = selected_states(scores, trained, shaping.keep_states)
        loss = loss * factor
    return loss, {name: x.astype(jnp.float32) for name, x in watched.items()}


def _without_untrained(batch: PackedBatch, trained: jax.Array) -> PackedBatch:
    """The batch with zeros in its float fields wherever no token is trained on.

    What stands there, NaN too, must not reach the gradient: 0 * NaN is NaN.
    """
    logprobs = ("behaviour_logprobs", "old_logprobs", "teacher_logprobs", "reference_logprobs")
    names = ("weights", "reward_scale", "advantages", "kl_coefficients", *logprobs)
    given = {name: getattr(batch, name) for name in names}
    kept = {n: jnp.where(trained, x, 0.0) for n, x in given.items() if x is not None}
    return batch.replace(**kept)
