"""From hidden states and the output head to log-probs.

In: hidden states, the head, and token ids. Out: the log-prob of each id and the entropy of each
prediction. `token_logprobs`, for training and scoring, never holds the logits of all tokens: it
computes them in chunks, and again in the backward pass. `log_distribution`, for the sampler, takes
the logits of one token per sequence.
"""

import functools

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.models.truncation import threshold

# Number of logits that exist at once on one device. 2^26 float32 are 268 MB, or 441 tokens at
# V = 151,936.
LOGIT_ELEMENTS = 2**26


def has_padded_rows(vocab_size: int, num_ids: int | None) -> bool:
    """Whether a model has rows of embedding and head for which its tokenizer has no id.

    Such rows are random or zero in published models (Qwen3 has 151,936 rows for 151,669 ids), and
    models that share a tokenizer may have different numbers of them.

    Args:
        vocab_size: V.
        num_ids: number of ids that exist; None stands for all V.
    """
    return num_ids is not None and num_ids < vocab_size


def real_logits(logits: jax.Array, num_ids: int | None) -> jax.Array:
    """The logits [..., V], -inf for ids from `num_ids` on, whatever stands there."""
    V = logits.shape[-1]
    if not has_padded_rows(V, num_ids):
        return logits
    return jnp.where(jnp.arange(V) < num_ids, logits, -jnp.inf)


def real_rows(head_VD: jax.Array, num_ids: int | None) -> jax.Array:
    """The head with zeros in its padded rows, so that 0 * NaN cannot arise in a backward pass."""
    V = head_VD.shape[0]
    if not has_padded_rows(V, num_ids):
        return head_VD
    return jnp.where(jnp.arange(V)[:, None] < num_ids, head_VD, 0)


def log_distribution(logits_BV: jax.Array, rule: SamplingRule) -> jax.Array:
    """Log-probs of the distribution that a sampling rule draws from.

    Temperature, top-k and top-p apply in this order. top-k keeps the k largest logits, and all that
    tie with the k-th. top-p keeps the smallest set of most likely tokens whose probability reaches
    p, and renormalises. Temperature 0 puts all probability on the largest logit.

    Args:
        logits_BV: [B, V], any float dtype.
        rule: the sampling rule.

    Returns:
        float32 [B, V], nats; -inf for tokens that are never drawn.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    if rule.temperature == 0:
        best_B1 = jnp.argmax(logits_BV, axis=-1, keepdims=True)
        return jnp.where(jnp.arange(logits_BV.shape[-1]) == best_B1, 0.0, -jnp.inf)
    scaled_BV = logits_BV / rule.temperature
    if rule.top_k or rule.top_p < 1:
        smallest_B1 = threshold(scaled_BV, rule)[:, None]
        scaled_BV = jnp.where(scaled_BV >= smallest_B1, scaled_BV, -jnp.inf)
    return jax.nn.log_softmax(scaled_BV)


def chunk_length(rows: int, length: int, vocab_size: int) -> int:
    """The number of tokens per chunk: as many as `LOGIT_ELEMENTS` allows, from 1 to `length`.

    Args:
        rows: rows on one device.
        length: tokens of a row.
        vocab_size: V.
    """
    return max(1, min(length, LOGIT_ELEMENTS // (rows * vocab_size)))


def token_logprobs(
    hidden_RSD: jax.Array,
    head_VD: jax.Array,
    targets_RS: jax.Array,
    *,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
    devices: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """The log-prob of each target and the entropy of each prediction.

        logprob = h W_target - logsumexp_v(h W_v)
        entropy = -sum_v p_v log p_v, without gradient

    With a sampling rule, both are those of the distribution that the rule draws from, which is what
    the sampler reports.

    Rows are cut along S into chunks, which leaves the sharding of rows alone, and the chunks are
    scanned. A chunk's logits are accumulated in float32 and recomputed in the backward pass.

    Example:
        hidden = Decoder(config).apply({"params": params}, tokens, positions, segments)
        logprobs, entropies = token_logprobs(hidden, output_head(params), targets)

    Args:
        hidden_RSD: hidden states after the final norm.
        head_VD: the output head, any float dtype. Each chunk casts it to the dtype of the hidden
            states, so its gradient is accumulated over chunks in its own dtype.
        targets_RS: int32 ids.
        rule: temperature, top-k and top-p.
        num_ids: ids from this number on do not exist: they have probability 0, and their rows of
            the head gradient 0. None stands for all V.
        devices: number of devices that rows are sharded over; sets the chunk length.

    Returns:
        Log-probs and entropies, float32 [R, S], nats; -inf for a target that is never drawn.
    """
    R, S, D = hidden_RSD.shape
    length = chunk_length(max(1, R // devices), S, head_VD.shape[0])
    pad = -S % length

    def split(x):
        x = jnp.pad(x, [(0, 0), (0, pad)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(R, -1, length, *x.shape[2:]), 1, 0)

    def body(_, chunk):
        return None, _chunk_logprobs(head_VD, *chunk, rule, num_ids)

    _, (logprobs, entropy) = jax.lax.scan(body, None, (split(hidden_RSD), split(targets_RS)))

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(R, S + pad)[:, :S]

    return join(logprobs), join(entropy)


@functools.partial(jax.checkpoint, static_argnums=(3, 4))
def _chunk_logprobs(
    head_VD: jax.Array,
    hidden_RCD: jax.Array,
    targets_RC: jax.Array,
    rule: SamplingRule,
    num_ids: int | None,
) -> tuple[jax.Array, jax.Array]:
    """`token_logprobs` of C tokens of each row."""
    logits_RCV = jnp.einsum(
        "rcd,vd->rcv",
        hidden_RCD,
        real_rows(head_VD, num_ids).astype(hidden_RCD.dtype),
        preferred_element_type=jnp.float32,
    )
    if has_padded_rows(logits_RCV.shape[-1], num_ids):
        # A sum and not `real_logits`, whose backward pass would hold another array of logits.
        # Their gradient is 0 already, and their rows are 0, so that no sum is NaN.
        logits_RCV += jnp.where(jnp.arange(logits_RCV.shape[-1]) < num_ids, 0.0, -jnp.inf)
    if rule != PLAIN:
        flat = logits_RCV.reshape(-1, logits_RCV.shape[-1])
        logits_RCV = log_distribution(flat, rule).reshape(logits_RCV.shape)
    norm_RC = jax.nn.logsumexp(logits_RCV, axis=-1)
    # A comparison and not a gather, because V may be sharded.
    is_target_RCV = jnp.arange(logits_RCV.shape[-1]) == targets_RC[..., None]
    logprobs_RC = jnp.sum(jnp.where(is_target_RCV, logits_RCV, 0.0), axis=-1) - norm_RC
    fixed_RCV = jax.lax.stop_gradient(logits_RCV) - jax.lax.stop_gradient(norm_RC)[..., None]
    plogp_RCV = jnp.where(fixed_RCV == -jnp.inf, 0.0, jnp.exp(fixed_RCV) * fixed_RCV)
    return logprobs_RC, -jnp.sum(plogp_RCV, axis=-1)
