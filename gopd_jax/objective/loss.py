"""The loss of one micro-batch from token log-probs."""

import jax
import jax.numpy as jnp

from gopd_jax.objective.diagnostics import Diagnostics, token_diagnostics
from gopd_jax.objective.gopd import gopd_advantage, importance_weight, policy_loss
from gopd_jax.objective.settings import Clipping
from gopd_jax.types import PackedBatch


def weighted_loss(
    logprobs: jax.Array,
    entropy: jax.Array,
    batch: PackedBatch,
    clipping: Clipping,
    num_domains: int,
    sampler_logprobs: jax.Array | None = None,
) -> tuple[jax.Array, Diagnostics]:
    """The loss of one micro-batch from the student's token log-probs [R, S]: sum of weight * importance * policy loss.

    The advantage is the one from outside plus, where a teacher scored, the G-OPD one (`gopd_advantage`). `sampler_logprobs`:
    the student's under the sampling rule, for diagnostics; None where that is the plain distribution.
    """
    fixed = jax.lax.stop_gradient(logprobs)
    old = fixed if batch.old_logprobs is None else batch.old_logprobs
    advantages = batch.advantages
    if batch.teacher_logprobs is not None:
        # Without a reference every lambda is 1 (the contract sees to it), and any finite number is multiplied by an exact 0.
        reference = (
            batch.teacher_logprobs if batch.reference_logprobs is None else batch.reference_logprobs
        )
        advantages = advantages + gopd_advantage(
            old, batch.teacher_logprobs, reference, batch.reward_scale
        )
    loss, clipped = policy_loss(
        logprobs, old, advantages, clipping.low, clipping.high, clipping.dual
    )
    importance = None
    if batch.behaviour_logprobs is not None:
        importance = importance_weight(old, batch.behaviour_logprobs, clipping.importance_cap)
        loss = loss * importance
    trained = batch.weights > 0
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
    return jnp.sum(jnp.where(trained, batch.weights * loss, 0.0)), diagnostics
