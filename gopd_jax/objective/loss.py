"""The loss of one micro-batch: predictions and a packed batch in, one number out.

Every denominator is in the batch's token weights, so the loss is a plain weighted sum.
"""

from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.objective.diagnostics import Diagnostics, TokenRecord, token_diagnostics
from gopd_jax.objective.estimators import state_loss, state_value
from gopd_jax.objective.gopd import gopd_advantage, importance_weight, policy_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import LossSettings
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
    clips: SFT, whose tokens were not drawn from the student.

    Args:
        predictions: of the student, and what teacher and reference say of the whole vocabulary.
        batch: one micro-batch, its fields [R, S].
        settings: estimator, clipping.

    Returns:
        The loss, a float32 scalar, and its details.
    """
    trained = batch.weights > 0
    batch = _without_untrained(batch, trained)
    clipping, estimator = settings.clipping, settings.estimator
    logprobs, exact = predictions.logprobs, predictions.exact
    if exact is not None:
        batch = batch.replace(
            teacher_logprobs=exact.teacher_logprobs, reference_logprobs=exact.reference_logprobs
        )
    fixed = jax.lax.stop_gradient(logprobs)
    old = fixed if batch.old_logprobs is None else batch.old_logprobs
    implicit = None
    if batch.teacher_logprobs is not None:
        implicit = gopd_advantage(
            old, batch.teacher_logprobs, batch.reference_logprobs, batch.reward_scale
        )
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
    )
    diagnostics = token_diagnostics(
        record, batch.domains, num_domains, trained, clipping.importance_cap
    )
    total = jnp.sum(jnp.where(trained, batch.weights * loss, 0.0))
    return total, LossDetails(diagnostics, advantages)


def _without_untrained(batch: PackedBatch, trained: jax.Array) -> PackedBatch:
    """The batch with zeros in its float fields wherever no token is trained on.

    What stands there, NaN too, must not reach the gradient: 0 * NaN is NaN.
    """
    logprobs = ("behaviour_logprobs", "old_logprobs", "teacher_logprobs", "reference_logprobs")
    names = ("weights", "reward_scale", "advantages", *logprobs)
    given = {name: getattr(batch, name) for name in names}
    kept = {n: jnp.where(trained, x, 0.0) for n, x in given.items() if x is not None}
    return batch.replace(**kept)
