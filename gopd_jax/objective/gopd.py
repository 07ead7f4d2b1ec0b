"""Advantage, importance weight and policy loss of G-OPD (Yang et al., arXiv 2602.12125), per token.

In: log-probs of drawn tokens under student, teacher and reference. Out: arrays of the same shape.
Does not know models, masks or batches.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Scale = TypeVar("Scale", float, np.ndarray, jax.Array)


def needs_reference(reward_scale: Scale):
    """Whether the reference has an influence on the advantage: lambda != 1.

    This is the only place that treats lambda = 1 apart. The formula of `gopd_advantage` holds for
    every lambda; at 1 it multiplies the reference by an exact 0, so that leaving out the forward
    pass of the reference changes no bit.

    Args:
        reward_scale: lambda, a number or an array of any shape.

    Returns:
        A boolean, or a boolean array of that shape.
    """
    return reward_scale != 1


def gopd_advantage(
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    reference_logprobs: jax.Array | None,
    reward_scale: Scale,
) -> jax.Array:
    """Token advantage: the teacher's scaled implicit reward minus the log-ratio to the reference.

        A = lambda (log teacher - log reference) - (log student - log reference)
          = lambda log teacher - log student + (1 - lambda) log reference

    The second form is computed. No gradient flows through A; there is no baseline, normalisation or
    return-to-go.

    Example:
        gopd_advantage(jnp.array([-2.0]), jnp.array([-1.0]), jnp.array([-2.0]), 1.25)  # [1.25]

    Args:
        student_logprobs, teacher_logprobs: log-probs of the drawn tokens, nats, of any one shape.
        reference_logprobs: likewise, finite; None where no token needs it (`needs_reference`).
        reward_scale: lambda, a number or an array of that shape.

    Returns:
        Advantages in nats, of the same shape.

    Source: section 3 of the paper. Its eq. 14 prints the opposite sign; its code has this one.
    """
    if reference_logprobs is None:
        reference_logprobs = teacher_logprobs  # any finite number: its factor is exactly 0
    advantage = (
        reward_scale * teacher_logprobs - student_logprobs + (1 - reward_scale) * reference_logprobs
    )
    return jax.lax.stop_gradient(advantage)


def importance_weight(
    train_logprobs: jax.Array, behaviour_logprobs: jax.Array, cap: float
) -> jax.Array:
    """Truncated importance weight min(pi_train / pi_behaviour, cap); carries no gradient.

    It corrects for a sampler whose distribution differs slightly from that of the trained model.

    Args:
        train_logprobs, behaviour_logprobs: nats, of any one shape.
        cap: upper limit of the weight.

    Returns:
        Weights of the same shape.
    """
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(train_logprobs - behaviour_logprobs), cap))


def policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> tuple[jax.Array, jax.Array]:
    """Clipped policy-gradient loss of each token: PPO with the dual clip (arXiv 1912.09729).

        ratio = exp(log student - log old)
        loss  = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high))
        loss  = min(loss, -A dual_clip) where A < 0

    Args:
        logprobs: log-probs under the current student, nats; the only argument with a gradient.
        old_logprobs: log-probs under the student that the rollout batch began with.
        advantages: nats.

    Returns:
        The loss, and a boolean array that is True where a clip removed the gradient; both of the
        arguments' shape.
    """
    ratio = jnp.exp(jnp.clip(logprobs - old_logprobs, -20.0, 20.0))
    plain = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = jnp.maximum(plain, clipped)
    bound = -advantages * dual_clip
    dual = (advantages < 0) & (loss > bound)
    return jnp.where(dual, bound, loss), (clipped > plain) | dual


def group_centred(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """reward - mean over the samples of one prompt, with the arguments of `group_normalised`.

    Unlike the normalised one, it counts a prompt whose samples differ little for little.

    Returns:
        float32 [B]; the reward itself for a prompt with a single sample.

    Source: Liu et al., "Understanding R1-Zero-Like Training" (arXiv 2503.20783).
    """
    rewards = np.asarray(rewards, np.float64)
    out = np.zeros(len(rewards), np.float32)
    for group in np.unique(groups):
        member = groups == group
        mean = rewards[member].mean() if member.sum() > 1 else 0.0
        out[member] = rewards[member] - mean
    return out


def group_normalised(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """GRPO advantage: (reward - mean) / (std + 1e-6) over the samples of one prompt.

    Args:
        rewards: float [B].
        groups: int [B], equal for samples of the same prompt. The standard deviation divides by
            G - 1.

    Returns:
        float32 [B]. A prompt with a single sample counts as mean 0 and deviation 1, so that its
        advantage is its reward.

    Source: Shao et al., arXiv 2402.03300.
    """
    rewards = np.asarray(rewards, np.float64)
    out = np.zeros(len(rewards), np.float32)
    for group in np.unique(groups):
        member = groups == group
        several = member.sum() > 1
        mean, std = (rewards[member].mean(), rewards[member].std(ddof=1)) if several else (0.0, 1.0)
        out[member] = (rewards[member] - mean) / (std + 1e-6)
    return out
