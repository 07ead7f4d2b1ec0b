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
from gopd_jax.models.truncation import threshold


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
    truncated = rule.top_k or rule.top_p < 1
    smallest_B = threshold(logits_BV, rule) if truncated else None
    V = logits_BV.shape[-1]
    groups = 1 << max(0, round(math.log2(V) / 2))
    whole = V // groups * groups
    grouped_BnG = logits_BV[:, :whole].reshape(len(keys_B), -1, groups)
    masses_BG = _group_masses(grouped_BnG, largest_B, smallest_B)
    parts = [grouped_BnG]
    if whole < V:  # some groups have one member more; padding all the logits would copy them
        rest = ((0, 0), (0, whole + groups - V))
        rest_BG = jnp.pad(logits_BV[:, whole:], rest, constant_values=-jnp.inf)
        masses_BG += _group_masses(rest_BG[:, None], largest_B, smallest_B)
        parts.append(rest_BG[:, None])
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)

    group_B = _invert(masses_BG, uniform_B2[:, 0])
    members = [jnp.take_along_axis(part, group_B[:, None, None], axis=2)[..., 0] for part in parts]
    members_Bn = jnp.concatenate(members, axis=1)
    if truncated:
        members_Bn = jnp.where(members_Bn >= smallest_B[:, None], members_Bn, -jnp.inf)
    member_B = _invert(jnp.exp(members_Bn - largest_B[:, None]), uniform_B2[:, 1])
    chosen_B = jnp.take_along_axis(members_Bn, member_B[:, None], axis=1)[:, 0]
    logprobs_B = chosen_B - (largest_B + jnp.log(jnp.sum(masses_BG, axis=-1)))
    return member_B * groups + group_B, logprobs_B


def _group_masses(
    grouped_BnG: jax.Array, largest_B: jax.Array, smallest_B: jax.Array | None
) -> jax.Array:
    """Sums exp(logit - largest) over the members of each group, those below `smallest` left out.

    Returns float32 [B, G].
    """
    B, n, G = grouped_BnG.shape
    if smallest_B is None:
        return jnp.sum(jnp.exp(grouped_BnG - largest_B[:, None, None]), axis=1)
    # XLA on CPU gives plain sums to a library that does not compare, and what is kept would be
    # written to memory first. It compares within a sum of its own, of up to 32 terms.
    terms = math.gcd(n, 16)
    split = grouped_BnG.reshape(B, n // terms, terms, G)
    largest, smallest = (x[:, None, None, None] for x in (largest_B, smallest_B))
    kept = jnp.where(split >= smallest, jnp.exp(split - largest), 0.0)
    sums_BsG = jax.lax.reduce(kept, jnp.float32(0), lambda a, b: a + jnp.abs(b), (2,))
    return jnp.sum(sums_BsG, axis=1)


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
