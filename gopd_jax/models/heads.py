"""Log-probs of given tokens from hidden states and the head, in token chunks: no [tokens, vocabulary] array ever exists."""

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import PLAIN, SamplingRule

# Logits alive at once on one device, in elements: 2^26 float32 are 268 MB. 441 tokens at V = 151,936.
LOGIT_ELEMENTS = 2**26


def log_distribution(logits_BV: jax.Array, rule: SamplingRule) -> jax.Array:
    """Log-probs, float32 [B, V], of the distribution the rule draws from; -inf on tokens it never draws.

    top-k keeps the k largest logits (ties at the k-th are kept); top-p keeps the smallest set of most likely tokens whose
    probability reaches p, then renormalises.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    if rule.temperature == 0:
        best_B1 = jnp.argmax(logits_BV, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(logits_BV.shape[-1]) == best_B1, 0.0, -jnp.inf)
    logits_BV = logits_BV / rule.temperature
    if 0 < rule.top_k < logits_BV.shape[-1]:
        smallest_B1 = jax.lax.top_k(logits_BV, rule.top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= smallest_B1, logits_BV, -jnp.inf)
    logprobs_BV = jax.nn.log_softmax(logits_BV)
    if rule.top_p < 1:
        sorted_BV = jnp.sort(logprobs_BV, axis=-1, descending=True)
        before_BV = jnp.cumsum(jnp.exp(sorted_BV), axis=-1) - jnp.exp(
            sorted_BV
        )  # probability of the more likely ones
        count_B1 = jnp.sum(before_BV < rule.top_p, axis=-1, keepdims=True)
        smallest_B1 = jnp.take_along_axis(sorted_BV, count_B1 - 1, axis=-1)
        logprobs_BV = jax.nn.log_softmax(
            jnp.where(logprobs_BV >= smallest_B1, logprobs_BV, -jnp.inf)
        )
    return logprobs_BV


def chunk_length(rows: int, length: int, vocab_size: int) -> int:
    """Tokens of each of `rows` local rows whose logits fit the budget; at least 1, at most `length`."""
    return max(1, min(length, LOGIT_ELEMENTS // (rows * vocab_size)))


def token_logprobs(
    hidden_RSD: jax.Array,
    head_VD: jax.Array,
    targets_RS: jax.Array,
    *,
    rule: SamplingRule = PLAIN,
    devices: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Log-prob of each target and entropy of each prediction.

        logprob = h W_target - logsumexp_v(h W_v);  entropy = -sum_v p_v log p_v  (no gradient)

    With a `rule` other than the plain one, of the distribution that the rule draws from: what the sampler reports.

    Rows are cut along S into chunks that are scanned; a chunk's logits are computed in float32 accumulation and recomputed in
    the backward pass. Cutting along S leaves the row sharding alone.

    Args:
        hidden_RSD: hidden states after the final norm. head_VD: the output head, any float dtype: it is cast to the hidden
            states' dtype inside a chunk, so its gradient accumulates over chunks in its own dtype.
        targets_RS: int32 ids. rule: temperature, top-k, top-p.
        devices: over how many devices the rows are spread (sets the chunk length).

    Returns:
        log-probs and entropies, float32 [R, S], nats; -inf for a target that the rule never draws.
    """
    R, S, D = hidden_RSD.shape
    length = chunk_length(max(1, R // devices), S, head_VD.shape[0])
    pad = -S % length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(R, -1, length, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one_chunk(head_VD, hidden_RCD, targets_RC):
        logits_RCV = jnp.einsum(
            "rcd,vd->rcv",
            hidden_RCD,
            head_VD.astype(hidden_RCD.dtype),
            preferred_element_type=jnp.float32,
        )
        if rule != PLAIN:
            logits_RCV = log_distribution(
                logits_RCV.reshape(-1, logits_RCV.shape[-1]), rule
            ).reshape(logits_RCV.shape)
        norm_RC = jax.nn.logsumexp(logits_RCV, axis=-1)
        is_target_RCV = (
            jnp.arange(logits_RCV.shape[-1]) == targets_RC[..., None]
        )  # a compare, not a gather: V may be sharded
        logprobs_RC = jnp.sum(jnp.where(is_target_RCV, logits_RCV, 0.0), axis=-1) - norm_RC
        fixed_RCV = jax.lax.stop_gradient(logits_RCV) - jax.lax.stop_gradient(norm_RC)[..., None]
        plogp_RCV = jnp.where(fixed_RCV == -jnp.inf, 0.0, jnp.exp(fixed_RCV) * fixed_RCV)
        return logprobs_RC, -jnp.sum(plogp_RCV, axis=-1)

    def body(_, chunk):
        return None, one_chunk(head_VD, *chunk)

    _, (logprobs, entropy) = jax.lax.scan(body, None, (split(hidden_RSD), split(targets_RS)))

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(R, S + pad)[:, :S]

    return join(logprobs), join(entropy)
