"""Advantage, importance weight and policy loss of G-OPD (Yang et al., arXiv 2602.12125), one value for each token."""

import jax
import jax.numpy as jnp
import numpy as np


def gopd_advantage(
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    reference_logprobs: jax.Array,
    reward_scale: jax.Array,
) -> jax.Array:
    """Token advantage: the teacher's implicit reward, scaled, minus the log-ratio to the reference.

        A = lambda (log teacher - log reference) - (log student - log reference)
          = lambda log teacher - log student + (1 - lambda) log reference

    The second form is computed: at lambda = 1 the reference is multiplied by an exact 0, so leaving its forward pass out
    changes no bit. No gradient flows through A, no baseline, no normalisation, no return-to-go.

    Args:
        student_logprobs, teacher_logprobs, reference_logprobs: log-probs of the drawn tokens, nats, any one shape, finite.
        reward_scale: lambda, a number or an array of that shape.

    Returns:
        Advantages in nats, same shape. Source: section 3 of the paper (its eq. 14 prints the opposite sign; its code has this).
    """
    advantage = (
        reward_scale * teacher_logprobs - student_logprobs + (1 - reward_scale) * reference_logprobs
    )
    return jax.lax.stop_gradient(advantage)


def importance_weight(
    train_logprobs: jax.Array, behaviour_logprobs: jax.Array, cap: float
) -> jax.Array:
    """min(pi_train / pi_behaviour, cap): corrects for a sampler that is not quite the trained model. No gradient."""
    return jax.lax.stop_gradient(jnp.minimum(jnp.exp(train_logprobs - behaviour_logprobs), cap))


def policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> tuple[jax.Array, jax.Array]:
    """Clipped policy-gradient loss of each token (PPO with the dual clip of Ye et al., arXiv 1912.09729).

        ratio = exp(log student - log old)
        loss  = max(-A ratio, -A clip(ratio, 1 - clip_low, 1 + clip_high)), and for A < 0 at most -A dual_clip

    Args:
        logprobs: log-probs under the current student, nats; the only argument that carries a gradient.
        old_logprobs: log-probs under the student that the rollout batch began with.
        advantages: nats.

    Returns:
        The loss, and a boolean array: where a clip took the gradient away; both of the arguments' shape.
    """
    ratio = jnp.exp(jnp.clip(logprobs - old_logprobs, -20.0, 20.0))
    plain = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = jnp.maximum(plain, clipped)
    bound = -advantages * dual_clip
    dual = (advantages < 0) & (loss > bound)
    return jnp.where(dual, bound, loss), (clipped > plain) | dual


def group_normalised(rewards: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """GRPO advantage: (reward - mean) / (std + 1e-6) over the samples of one prompt (Shao et al., arXiv 2402.03300).

    Args:
        rewards: float [B]. groups: int [B], equal for samples of the same prompt. The standard deviation has G - 1 below.

    Returns:
        float32 [B]; a prompt with a single sample has mean 0 and deviation 1, so its advantage is its reward.
    """
    rewards = np.asarray(rewards, np.float64)
    out = np.zeros(len(rewards), np.float32)
    for group in np.unique(groups):
        member = groups == group
        mean, std = (
            (rewards[member].mean(), rewards[member].std(ddof=1))
            if member.sum() > 1
            else (0.0, 1.0)
        )
        out[member] = (rewards[member] - mean) / (std + 1e-6)
    return out
