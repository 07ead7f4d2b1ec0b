"""The members of the G-OPD family over the whole vocabulary: losses of states, and the baseline.

In: what the models say at each state (`predictions.Exact`). Out: one number for each state, nats.
All have one minimum where the family is exact: the student equal to the target,
target(v) = teacher(v)^lambda reference(v)^(1 - lambda) / Z.
"""

import jax
import jax.numpy as jnp

from gopd_jax.objective.gopd import Scale
from gopd_jax.objective.predictions import Exact
from gopd_jax.objective.settings import EstimatorSettings

# The tail of a distribution is not taken as smaller: 1 - sum of float32 numbers has this error.
LEAST_TAIL = 2.0**-23


def full_loss(exact: Exact, reward_scale: Scale) -> jax.Array:
    """The exact G-OPD loss of each state.

        sum_v student(v) [log student(v) - lambda log teacher(v) - (1 - lambda) log reference(v)]
          = KL(student || target) - log Z

    Its gradient is that of the sampled loss in expectation over the drawn token; which states are
    visited is not differentiated.

    Args:
        exact: at each state.
        reward_scale: lambda, a number or [R, S].

    Source: Yang et al., arXiv 2602.12125, section 3, summed over the vocabulary.
    """
    loss = exact.own - reward_scale * exact.teacher
    if exact.reference is not None:
        loss = loss - (1 - reward_scale) * exact.reference
    return loss


def state_value(exact: Exact, reward_scale: Scale) -> jax.Array:
    """V(s) = E_student[A(v)], the expected advantage of a state; it has no gradient.

    Subtracted from the sampled advantage it leaves the expected gradient as it is and removes what
    all tokens of a state have in common: at the optimum every advantage is log Z(s), pure variance.
    """
    return -jax.lax.stop_gradient(full_loss(exact, reward_scale))


def forward_kl(exact: Exact) -> jax.Array:
    """KL(target || student) of each state: E_target[log target - log student]."""
    return exact.target_negentropy - exact.target_cross


def top_k_loss(exact: Exact, tail: str) -> jax.Array:
    """KL(student || target) over the k most likely tokens K, with gradient through each of them.

        bucket        sum_K p log(p/t) + p_rest log(p_rest / t_rest), all other tokens as one: an
                      exact KL of the coarsened distributions, at most the full one
        unnormalised  sum_K [p log(p/t) - p + t]: not below 0, whatever the others have

    With k = V both are KL(student || target), the full loss plus log Z. A sum over K alone could be
    made small by moving mass out of K. As the advantage of the drawn token the same sum would have
    an expected gradient of 0: it does not depend on the token.

    Args:
        tail: "bucket" or "unnormalised".
    """
    p, t = jnp.exp(exact.candidates), jnp.exp(exact.candidates_target)
    inside = p * (exact.candidates - exact.candidates_target)
    if tail == "unnormalised":
        return jnp.sum(inside - p + t, axis=-1)
    rest = jnp.maximum(1 - jnp.sum(p, axis=-1), LEAST_TAIL)
    target_rest = jnp.maximum(1 - jnp.sum(t, axis=-1), LEAST_TAIL)
    return jnp.sum(inside, axis=-1) + rest * jnp.log(rest / target_rest)


def state_loss(exact: Exact, reward_scale: Scale, settings: EstimatorSettings) -> jax.Array:
    """The loss of each state with an estimator that needs no drawn token.

    Raises:
        ValueError: the estimator is one of a drawn token.
    """
    if settings.estimator == "full":
        return full_loss(exact, reward_scale)
    if settings.estimator == "top_k":
        return top_k_loss(exact, settings.tail)
    if settings.estimator == "forward_kl":
        return forward_kl(exact)
    if settings.estimator == "jsd":
        return exact.jensen_shannon
    raise ValueError(f"estimator={settings.estimator!r}: expected one of a whole state")
