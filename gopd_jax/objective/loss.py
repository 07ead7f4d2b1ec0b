"""The loss of one micro-batch: token log-probs and a packed batch in, one number out.

Every denominator is in the batch's token weights, so the loss is a plain weighted sum.
"""

from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.objective.diagnostics import Diagnostics, token_diagnostics
from gopd_jax.objective.gopd import gopd_advantage, importance_weight, policy_loss
from gopd_jax.objective.settings import Clipping
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
        logprobs: jax.Array,
        entropy: jax.Array,
        batch: PackedBatch,
        clipping: Clipping,
        num_domains: int,
        sampler_logprobs: jax.Array | None,
        likelihood: bool,
    ) -> tuple[jax.Array, LossDetails]: ...


def weighted_loss(
    logprobs: jax.Array,
    entropy: jax.Array,
    batch: PackedBatch,
    clipping: Clipping,
    num_domains: int,
    sampler_logprobs: jax.Array | None = None,
    likelihood: bool = False,
) -> tuple[jax.Array, LossDetails]:
    """Sum over the trained tokens of weight * importance weight * policy loss.

    The advantage is the one from outside plus, where a teacher scored, the G-OPD one
    (`gopd_advantage`). With `likelihood` the policy loss is -advantage * log student, which nothing
    clips: SFT, whose tokens were not drawn from the student.

    Args:
        logprobs: the student's log-probs of the targets, float32 [R, S], nats.
        entropy: entropy of the student's predictions, float32 [R, S], nats; for diagnostics.
        batch: one micro-batch, its fields [R, S].
        sampler_logprobs: the student's log-probs under the sampling rule, for diagnostics, NaN
            where they are not known; None where that is the plain distribution.
        likelihood: take the weighted negative log-likelihood in place of the policy loss.

    Returns:
        The loss, a float32 scalar, and its details.
    """
    trained = batch.weights > 0
    batch = _without_untrained(batch, trained)
    fixed = jax.lax.stop_gradient(logprobs)
    old = fixed if batch.old_logprobs is None else batch.old_logprobs
    advantages = batch.advantages
    if batch.teacher_logprobs is not None:
        advantages = advantages + gopd_advantage(
            old, batch.teacher_logprobs, batch.reference_logprobs, batch.reward_scale
        )
    if likelihood:
        loss, clipped = -advantages * logprobs, jnp.zeros_like(trained)
    else:
        loss, clipped = policy_loss(
            logprobs, old, advantages, clipping.clip_low, clipping.clip_high, clipping.dual_clip
        )
    importance = None
    if batch.behaviour_logprobs is not None:
        importance = importance_weight(old, batch.behaviour_logprobs, clipping.importance_cap)
        loss = loss * importance
    diagnostics = token_diagnostics(
        batch.domains,
        num_domains,
        trained,
        logprobs=fixed,
        advantages=advantages,
        entropy=entropy,
        clipped=clipped,
        importance=importance,
        importance_cap=clipping.importance_cap,
        behaviour_logprobs=batch.behaviour_logprobs,
        sampler_logprobs=fixed if sampler_logprobs is None else sampler_logprobs,
        teacher_logprobs=batch.teacher_logprobs,
        reference_logprobs=batch.reference_logprobs,
        reward_scale=batch.reward_scale,
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
