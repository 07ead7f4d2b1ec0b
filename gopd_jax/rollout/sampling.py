"""The sampling rule: which distribution a token is drawn from, its key, and the log-prob that the draw reports."""

import math
import zlib

import jax
import jax.numpy as jnp

from gopd_jax.models.heads import log_distribution
from gopd_jax.models.settings import SamplingRule


def draw(
    keys_B: jax.Array, logits_BV: jax.Array, rule: SamplingRule
) -> tuple[jax.Array, jax.Array]:
    """Draws one token a row with its own key. Returns int32 [B] tokens and their float32 [B] log-probs.

    Two draws by inversion of the cumulative distribution: a group of about sqrt(V) tokens (those with the same remainder),
    then a token of that group. Two uniform numbers a row in place of one for each entry of the vocabulary; nothing is sorted
    unless the rule has a top-k or top-p. A token of probability 0 is never drawn.
    """
    if rule.top_k or rule.top_p < 1 or rule.temperature == 0:
        logits_BV = log_distribution(logits_BV, rule)
    else:
        logits_BV = logits_BV.astype(jnp.float32) / rule.temperature
    V = logits_BV.shape[-1]
    groups = 1 << max(0, round(math.log2(V) / 2))
    grouped_BnG = jnp.pad(logits_BV, ((0, 0), (0, -V % groups)), constant_values=-jnp.inf)
    grouped_BnG = grouped_BnG.reshape(len(keys_B), -1, groups)
    largest_B = jnp.max(logits_BV, axis=-1)
    masses_BG = jnp.sum(jnp.exp(grouped_BnG - largest_B[:, None, None]), axis=1)
    uniform_B2 = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_B)

    group_B = _invert(masses_BG, uniform_B2[:, 0])
    members_Bn = jnp.take_along_axis(grouped_BnG, group_B[:, None, None], axis=2)[..., 0]
    member_B = _invert(jnp.exp(members_Bn - largest_B[:, None]), uniform_B2[:, 1])
    chosen_B = jnp.take_along_axis(members_Bn, member_B[:, None], axis=1)[:, 0]
    logprobs_B = chosen_B - (largest_B + jnp.log(jnp.sum(masses_BG, axis=-1)))
    return member_B * groups + group_B, logprobs_B


def _invert(masses_BN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first index whose cumulative mass exceeds uniform * total: int32 [B], always one with a mass above 0."""
    cumulative_BN = jnp.cumsum(masses_BN, axis=-1)
    total_B1 = cumulative_BN[:, -1:]
    point_B1 = jnp.minimum(uniform_B[:, None] * total_B1, jnp.nextafter(total_B1, 0.0))
    return jnp.argmax(cumulative_BN > point_B1, axis=-1).astype(jnp.int32)


def prompt_number(prompt_id: str) -> int:
    """The 32-bit number of a prompt id that keys its samples (CRC-32: the same on every host and in every run)."""
    return zlib.crc32(prompt_id.encode())


def sample_keys(key: jax.Array, prompts_B: jax.Array, samples_B: jax.Array) -> jax.Array:
    """The key of each sample, from the key of (run seed, step), the prompt's number and the sample id.

    The key of the token at position t is `fold_in` of this with t: nothing depends on slot, batch, order or device.
    """
    return jax.vmap(lambda p, s: jax.random.fold_in(jax.random.fold_in(key, p), s))(
        prompts_B, samples_B
    )
