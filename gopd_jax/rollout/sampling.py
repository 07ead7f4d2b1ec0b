"""Drawing a token: its key, the token, and the log-prob of exactly the distribution drawn from.

In: logits of one position of every slot, keys, the sampling rule. Out: tokens and log-probs. The
distribution is that of `models.heads.log_distribution`; what top-k and top-p keep is found by
`models.truncation`, which the learner's scorer shares.
"""

import math
import zlib

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import SamplingRule
from gopd_jax.models.truncation import masses


def draw(
    keys_B: jax.Array, logits_BV: jax.Array, rule: SamplingRule
) -> tuple[jax.Array, jax.Array]:
    """Draws one token for each row with the row's own key.

    Two draws by inversion of a cumulative distribution: first a group of about sqrt(V) tokens
    (those with the same remainder), then a token of that group. This takes two uniform numbers per
    row instead of one for each entry of the vocabulary, and sorts nothing. A token of probability 0
    is never drawn.

    Args:
        keys_B: one key for each row.
        logits_BV: any float dtype; the arithmetic is in float32.
        rule: the distribution to draw from.

    Returns:
        int32 [B] tokens, and their float32 [B] log-probs in nats.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    if rule.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32), jnp.zeros(len(logits_BV))
    logits_BV = logits_BV / rule.temperature
    largest_B = jnp.max(logits_BV, axis=-1)  # always kept
    B, V = logits_BV.shape
    truncated = rule.top_k > 0 or rule.top_p < 1
    values_BV, bound_B = masses(logits_BV, rule) if truncated else (logits_BV, largest_B)

    def mass(values):
        """exp(logit - largest), 0 for what is not kept."""
        bound = bound_B.reshape(B, *[1] * (values.ndim - 1))
        return jnp.where(values >= bound, values, 0.0) if truncated else jnp.exp(values - bound)

    groups = 1 << max(0, round(math.log2(V) / 2))
    whole = V // groups * groups
    grouped_BnG = values_BV[:, :whole].reshape(B, -1, groups)
    if truncated:
        masses_BG = _sum_members(mass(grouped_BnG))
    else:
        masses_BG = jnp.sum(mass(grouped_BnG), axis=1)
    parts = [grouped_BnG]
    if whole < V:  # some groups have one member more; padding all the logits would copy them
        rest = ((0, 0), (0, whole + groups - V))
        rest_BG = jnp.pad(values_BV[:, whole:], rest, constant_values=-jnp.inf)
        masses_BG += mass(rest_BG)
        parts.append(rest_BG[:, None])
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)

    group_B = _invert(masses_BG, uniform_B2[:, 0])
    members = [jnp.take_along_axis(part, group_B[:, None, None], axis=2)[..., 0] for part in parts]
    member_B = _invert(mass(jnp.concatenate(members, axis=1)), uniform_B2[:, 1])
    token_B = member_B * groups + group_B
    chosen_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return token_B, chosen_B - (largest_B + jnp.log(jnp.sum(masses_BG, axis=-1)))


def _sum_members(masses_BnG: jax.Array) -> jax.Array:
    """The sum over the members of each group, float32 [B, G], in one loop with what it adds up.

    XLA on CPU leaves a plain sum to a library that does not compare: what is kept would be written
    to memory first. This one it computes itself, in one loop if there are at most 32 terms.
    """
    B, n, G = masses_BnG.shape
    terms = math.gcd(n, 16)
    split_BstG = masses_BnG.reshape(B, n // terms, terms, G)

    def add(a, b):
        return a + jnp.abs(b)  # the same, as masses are not negative

    return jnp.sum(jax.lax.reduce(split_BstG, jnp.float32(0), add, (2,)), axis=1)


def _invert(masses_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first index whose cumulative mass exceeds uniform * total.

    Returns int32 [B], always an index with a mass above 0.
    """
    cumulative_BN = jnp.cumsum(masses_BN, axis=-1)
    total_B1 = cumulative_BN[:, -1:]
    point_B1 = jnp.minimum(uniform_B[:, None] * total_B1, jnp.nextafter(total_B1, 0.0))
    return jnp.argmax(cumulative_BN > point_B1, axis=-1).astype(jnp.int32)


def prompt_number(prompt_id: str) -> int:
    """The 32-bit number that keys the samples of a prompt.

    It is the CRC-32 of the id: the same on every host and in every run.
    """
    return zlib.crc32(prompt_id.encode())


def sample_keys(key: jax.Array, prompts_B: jax.Array, samples_B: jax.Array) -> jax.Array:
    """The key of each sample.

    The key of the token at response position t is `fold_in` of the sample's key with t, so that a
    draw does not depend on slot, batch, order or device.

    Args:
        key: the key of (run seed, step).
        prompts_B: uint32, see `prompt_number`.
        samples_B: uint32, sample ids.

    Returns:
        [B] keys.
    """
    return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(key, p), s))(
        prompts_B, samples_B
    )
