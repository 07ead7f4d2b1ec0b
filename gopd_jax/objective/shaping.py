"""Shaping of the G-OPD advantage and loss: pure functions of packed arrays, each off by default.

In: log-probs, advantages or losses of tokens, [R, S], and which tokens are trained on. Out: arrays
of the same shape, and what is worth watching of each token. A run of trained tokens in a row is one
response (`diagnostics.response_positions`). The functions compose: `shaped_advantages` has their
order. What changes weights is in `weights`, and schedules are in `shaping_settings`.
"""

import jax
import jax.numpy as jnp

from gopd_jax.objective.diagnostics import response_positions
from gopd_jax.objective.gopd import Scale, gopd_advantage
from gopd_jax.objective.shaping_settings import ShapingSettings

# Of a log-ratio, before exp. A token that the reference finds e^5 times as likely as the student
# does is pulled back no further.
LARGEST_LOG_RATIO = 5.0
SHARE_DIGITS = 10_000  # shares of states are rounded to so many parts


def shaped_advantages(
    settings: ShapingSettings,
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    reference_logprobs: jax.Array | None,
    reward_scale: jax.Array,
    trained: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The G-OPD advantage with what the settings switch on, in this order.

    1. gate_tau changes lambda (`gated_scale`).
    2. box_cox and log_ratio_clip change the two log-ratios (`bounded_advantage`).
    3. advantage_clip limits the advantage of the token.
    4. return_discount adds the advantages of later tokens (`returns_to_go`).

    With all of them off it is `gopd_advantage`, the same program. A baseline of the state may be
    subtracted from the result, but not before the returns are summed: the value of a later state
    depends on the token.

    Args:
        student_logprobs, teacher_logprobs: of the drawn tokens, [R, S], nats.
        reference_logprobs: likewise; None where no lambda needs it.
        reward_scale: lambda, [R, S].
        trained: bool [R, S].

    Returns:
        Advantages, [R, S], nats, without gradient; and by name, float32 [R, S], lambda where it is
        not that of the teacher (`reward_scale`), what the gate took of lambda - 1
        (`shaping_gated`), and 1 where a token was clipped (`shaping_clipped`).
    """
    info = {}
    if settings.gate_tau:
        reward_scale, gate = gated_scale(
            reward_scale, student_logprobs, teacher_logprobs, settings.gate_tau
        )
        info["shaping_gated"] = 1 - gate
    if settings.gate_tau or settings.reward_scale_steps:
        info["reward_scale"] = jnp.broadcast_to(reward_scale, student_logprobs.shape)
    models = student_logprobs, teacher_logprobs, reference_logprobs, reward_scale
    clipped = jnp.zeros(student_logprobs.shape, bool)
    if settings.box_cox or settings.log_ratio_clip:
        advantages, clipped = bounded_advantage(*models, settings.box_cox, settings.log_ratio_clip)
    else:
        advantages = gopd_advantage(*models)
    if limit := settings.advantage_clip:
        clipped |= jnp.abs(advantages) > limit
        advantages = jnp.clip(advantages, -limit, limit)
    if settings.log_ratio_clip or settings.advantage_clip:
        info["shaping_clipped"] = clipped.astype(jnp.float32)
    if settings.return_discount:
        advantages = returns_to_go(advantages, trained, settings.return_discount)
    return jax.lax.stop_gradient((advantages, info))


# ---- Of the advantage of one token.


def gated_scale(
    reward_scale: Scale, student_logprobs: jax.Array, teacher_logprobs: jax.Array, tau: float
) -> tuple[jax.Array, jax.Array]:
    """lambda of each token: extrapolated where student and teacher agree about the drawn token.

        x = log teacher - log student
        q = exp(-(e^x - x - 1) / tau), in (0, 1], 1 at x = 0
        lambda_t = 1 + (lambda - 1) q

    Where they disagree, the teacher's own distribution is the target (lambda_t near 1); it is not
    extrapolated, nor mixed with the reference for lambda < 1.

    Args:
        reward_scale: lambda of the teacher, a number or [R, S].
        student_logprobs, teacher_logprobs: of the drawn tokens, nats.
        tau: nats; infinite leaves lambda as it is.

    Returns:
        lambda_t and q, [R, S].

    Source: REOPD, lambda_t = 1 + g q, with g = lambda - 1.
    """
    distance = -k3(student_logprobs, teacher_logprobs) / tau
    # Written so that q = 1 gives lambda, and lambda = 1 gives 1, to the bit.
    return reward_scale + (reward_scale - 1) * jnp.expm1(distance), jnp.exp(distance)


def k3(logprobs: jax.Array, other_logprobs: jax.Array) -> jax.Array:
    """r - 1 - log r of each token with r = other / own probability, an estimate of KL(own, other).

    It is not negative, and 0 where the two agree. r is capped at e^5.

    Source: Schulman, "Approximating KL divergence" (2020).
    """
    log_ratio = other_logprobs - logprobs
    bounded = jnp.minimum(log_ratio, LARGEST_LOG_RATIO)
    return jnp.maximum(jnp.expm1(bounded) - bounded, 0.0)


def bounded_advantage(
    student_logprobs: jax.Array,
    teacher_logprobs: jax.Array,
    reference_logprobs: jax.Array | None,
    reward_scale: Scale,
    alpha: float,
    limit: float,
) -> tuple[jax.Array, jax.Array]:
    """The advantage with bounded functions f in place of the two log-ratios to the student.

        A = lambda f(teacher, student) + (1 - lambda) f(reference, student)
        f(p, q) = log p - log q                    alpha = 0: this is the G-OPD advantage
                  (p^alpha - q^alpha) / alpha      else: has the same sign, is within 1 / alpha
        and with a limit > 0, f is clipped at -limit and limit

    At lambda = 1 the reference has the factor 0. Unlike log(teacher / reference), both ratios are 0
    for a student that has arrived.

    Args:
        student_logprobs, teacher_logprobs, reference_logprobs, reward_scale: as for
            `gopd.gopd_advantage`.
        alpha: exponent of the Box-Cox transformation, or 0.
        limit: of |f|, or 0.

    Returns:
        Advantages, nats, which are those of `gopd_advantage` to the bit where alpha is 0 and
        nothing is clipped; and where a ratio that counts was clipped, bool; both [R, S].

    Source: PowerOPD (arXiv 2606.17199) for f, which leaves out the constant 1 / alpha; its section
    on clipping for the limit. Both take lambda = 1.
    """
    if reference_logprobs is None:
        reference_logprobs = teacher_logprobs  # any finite number: its factor is exactly 0

    def ratio(logprobs):
        if not alpha:
            return logprobs - student_logprobs
        return (jnp.expm1(alpha * logprobs) - jnp.expm1(alpha * student_logprobs)) / alpha

    ratios = ratio(teacher_logprobs), ratio(reference_logprobs)
    counts = reward_scale != 0, reward_scale != 1
    clipped = jnp.zeros(student_logprobs.shape, bool)
    if limit:
        for found, count in zip(ratios, counts, strict=True):
            clipped |= count & (jnp.abs(found) > limit)
        ratios = tuple(jnp.clip(found, -limit, limit) for found in ratios)
    advantages = reward_scale * ratios[0] + (1 - reward_scale) * ratios[1]
    if not alpha:
        models = student_logprobs, teacher_logprobs, reference_logprobs, reward_scale
        advantages = jnp.where(clipped, advantages, gopd_advantage(*models))
    return jax.lax.stop_gradient(advantages), clipped


# ---- Of the tokens of a response.


def returns_to_go(advantages: jax.Array, trained: jax.Array, discount: float) -> jax.Array:
    """Discounted sums of the advantages of each token and of the later ones of its response.

        G_t = A_t + discount * G_(t+1) within a response; 0 outside of trained tokens

    Summed over all later tokens (discount 1) it is the exact gradient of the KL of whole responses,
    with the variance that this has.

    Args:
        advantages: [R, S], nats.
        trained: bool [R, S]; a run of trained tokens is one response.
        discount: gamma in [0, 1]; 0 leaves the advantages as they are.

    Source: the terms that section 3 of arXiv 2602.12125 drops. gamma = 0.99 helped in one report.
    """
    own = jnp.where(trained, advantages, 0.0)
    decay = jnp.where(trained, jnp.float32(discount), 0.0)

    def join(later, earlier):
        """The map x -> decay * x + own of a stretch of tokens, from those of its two parts."""
        return earlier[0] * later[0], earlier[0] * later[1] + earlier[1]

    return jax.lax.associative_scan(join, (decay, own), reverse=True, axis=1)[1]


def selected_states(
    scores: jax.Array, trained: jax.Array, share: float
) -> tuple[jax.Array, jax.Array]:
    """Keeps the states of the highest scores in each response, max(1, ceil(share * states)).

    Those that are kept stand for the response: their loss is multiplied by states / kept, so that
    the weights of a response add up to what they were. The choice depends on nothing but the
    response; of equal scores, the earlier one is kept.

    Args:
        scores: [R, S], finite; the divergence of teacher and reference at each state.
        trained: bool [R, S]; a run of trained tokens is one response.
        share: in (0, 1], to four digits; 1 keeps all.

    Returns:
        The factor of each token's loss, 0 for those not kept; and which are kept, bool; [R, S].

    Source: S2D-OPD (arXiv 2609.29142), with share 0.1 and weights that are equal over all kept
    states of a batch.
    """
    index = jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32), scores.shape)
    first = index - response_positions(trained)
    after = jnp.where(trained, scores.shape[1], index)
    end = jax.lax.cummin(after, axis=1, reverse=True)  # of the response
    count = end - first
    kept = -(-count * round(share * SHARE_DIGITS) // SHARE_DIGITS)
    # Responses keep their places in the order, and each untrained token is a response of its own.
    keys = jnp.where(trained, first, index), jnp.where(trained, -scores, 0.0), index
    _, _, order = jax.lax.sort(keys, dimension=1, num_keys=3)
    rank = jnp.argsort(order, axis=1) - first
    keep = trained & (rank < jnp.maximum(kept, 1))
    factor = count.astype(jnp.float32) / jnp.maximum(kept, 1)
    return jnp.where(keep, factor, 0.0), keep


def coarse_divergence(teacher: jax.Array, reference: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of teacher and reference, all but k candidates as one token.

        m = (p + q) / 2;  (KL(p || m) + KL(q || m)) / 2, in [0, log 2]

    It is at most the divergence over the whole vocabulary.

    Args:
        teacher, reference: [R, S, k], log-probs of the candidates, nats.

    Returns:
        [R, S], nats, without gradient.

    Source: eq. 8 and 9 of S2D-OPD (arXiv 2609.29142), with the student's candidates.
    """

    def with_rest(logprobs):
        p = jnp.exp(logprobs)
        rest = jnp.clip(1 - jnp.sum(p, axis=-1, keepdims=True), 0.0, 1.0)
        return jnp.concatenate([p, rest], axis=-1)

    def half(p, m):
        positive = p > 0
        ratio = jnp.where(positive, p, 1.0) / jnp.where(positive, m, 1.0)
        return jnp.sum(p * jnp.log(ratio), axis=-1) / 2

    p, q = with_rest(teacher), with_rest(reference)
    middle = (p + q) / 2
    return jax.lax.stop_gradient(jnp.maximum(half(p, middle) + half(q, middle), 0.0))


# ---- Of the loss.


def with_forward_kl(
    reverse: jax.Array,
    forward: jax.Array,
    teacher_entropy: jax.Array,
    threshold: float,
    weight: float,
) -> tuple[jax.Array, jax.Array]:
    """The loss of each state, with the forward KL where the teacher is undecided.

        loss = reverse + weight * forward   where H(teacher) > threshold, else reverse

    Args:
        reverse, forward: losses of the state, [R, S], nats: of KL(student || .), KL(. || student).
        teacher_entropy: [R, S], nats.
        threshold: nats.
        weight: of the forward KL; 0 leaves the loss as it is.

    Returns:
        The loss, and where the forward KL was added, bool; [R, S].

    Source: EOPD (arXiv 2603.07079), with weight 1.
    """
    undecided = teacher_entropy > threshold
    return reverse + jnp.where(undecided, weight * forward, 0.0), undecided


def reference_penalty(
    logprobs: jax.Array, reference_logprobs: jax.Array, coefficient: Scale
) -> tuple[jax.Array, jax.Array]:
    """What keeps the student near the reference: coefficient * `k3` of each token.

    Its mean estimates KL(student || reference). Its expected gradient is that of KL(reference ||
    student), but for the cap of `k3`; both are least where the two agree.

    Args:
        logprobs: the student's, nats; the only argument with a gradient.
        reference_logprobs: nats.
        coefficient: a number or [R, S]; 0 adds an exact 0.

    Returns:
        The term of the loss, and k3 without gradient; [R, S], nats.

    Source: the KL term of GRPO (Shao et al., arXiv 2402.03300); for OPD, StableOPD (arXiv
    2604.08527).
    """
    estimate = k3(logprobs, reference_logprobs)
    return coefficient * estimate, jax.lax.stop_gradient(estimate)
