"""From logits to the distribution that is drawn from; which rows of a head count; chunk sizes.

`logprobs` has the log-probs of given tokens, from hidden states and the head.
"""

import jax
import jax.numpy as jnp

from gopd_jax.models.settings import SamplingRule
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
