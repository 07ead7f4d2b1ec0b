"""Log-probs of given tokens from hidden states and the head, in token chunks: no [tokens, vocabulary] array ever exists."""

import jax
import jax.numpy as jnp

# Logits alive at once on one device, in elements: 2^26 float32 are 268 MB. 441 tokens at V = 151,936.
LOGIT_ELEMENTS = 2**26


def chunk_length(rows: int, length: int, vocab_size: int) -> int:
    """Tokens of each of `rows` local rows whose logits fit the budget; at least 1, at most `length`."""
    return max(1, min(length, LOGIT_ELEMENTS // (rows * vocab_size)))


def token_logprobs(
    hidden_RSD: jax.Array, head_VD: jax.Array, targets_RS: jax.Array, *, devices: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Log-prob of each target and entropy of each prediction, at temperature 1.

        logprob = h W_target - logsumexp_v(h W_v);  entropy = -sum_v p_v log p_v  (no gradient)

    Rows are cut along S into chunks that are scanned; a chunk's logits are computed in float32 accumulation and recomputed in
    the backward pass. Cutting along S leaves the row sharding alone.

    Args:
        hidden_RSD: hidden states after the final norm. head_VD: the output head, any float dtype: it is cast to the hidden
            states' dtype inside a chunk, so its gradient accumulates over chunks in its own dtype.
        targets_RS: int32 ids. devices: over how many devices the rows are spread (sets the chunk length).

    Returns:
        log-probs and entropies, float32 [R, S], nats.
    """
    R, S, D = hidden_RSD.shape
    length = chunk_length(max(1, R // devices), S, head_VD.shape[0])
    pad = -S % length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(R, -1, length, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def one_chunk(head_VD, hidden_RCD, targets_RC):
        logits_RCV = jnp.einsum("rcd,vd->rcv", hidden_RCD, head_VD.astype(hidden_RCD.dtype), preferred_element_type=jnp.float32)
        norm_RC = jax.nn.logsumexp(logits_RCV, axis=-1)
        is_target_RCV = jnp.arange(logits_RCV.shape[-1]) == targets_RC[..., None]  # a compare, not a gather: V may be sharded
        logprobs_RC = jnp.sum(jnp.where(is_target_RCV, logits_RCV, 0.0), axis=-1) - norm_RC
        fixed_RCV = jax.lax.stop_gradient(logits_RCV) - jax.lax.stop_gradient(norm_RC)[..., None]
        return logprobs_RC, -jnp.sum(jnp.exp(fixed_RCV) * fixed_RCV, axis=-1)

    def body(_, chunk):
        return None, one_chunk(head_VD, *chunk)

    _, (logprobs, entropy) = jax.lax.scan(body, None, (split(hidden_RSD), split(targets_RS)))

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(R, S + pad)[:, :S]

    return join(logprobs), join(entropy)
