"""Log-probs of given tokens from hidden states and the output head, and their gradients.

In: hidden states, the head, token ids, and which of them are wanted. Out: the log-prob of each
wanted id and the entropy of each prediction. The wanted hidden states are gathered first, and the
head is applied to these alone, in blocks of the vocabulary and chunks of tokens; the logits are
computed again in the backward pass.

The loops run on each device for its own rows and its own part of the vocabulary. Where the width of
the head is split over devices it stays so: a block of the vocabulary is gathered when its turn
comes, and its gradient is summed over the devices and split again before the next block, so that no
device holds the whole head or its whole gradient. What the parts of the vocabulary found is joined
once after the loop.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gopd_jax.models.heads import has_padded_rows, log_distribution
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.runtime.mesh import WidthSplit, on_each_device, width_split

# Tokens of a chunk at most, and logits of a chunk that exist at once on one device: 2^24 float32
# are 67 MB, or 1,024 tokens with 16,384 ids.
CHUNK_TOKENS = 1024
LOGIT_ELEMENTS = 2**24
# A chunk is at most this share of the tokens, so that the last one, partly empty, costs little.
CHUNK_SHARE = 8


def token_logprobs(
    hidden_RSD: jax.Array,
    head_VD: jax.Array,
    targets_RS: jax.Array,
    wanted_RS: jax.Array | None = None,
    *,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The log-prob of each wanted target and the entropy of each wanted prediction.

        logprob = h W_target - logsumexp_v(h W_v)
        entropy = -sum_v p_v log p_v, without gradient

    With a sampling rule, both are those of the distribution that the rule draws from, which is what
    the sampler reports; they have no gradient then.

    Example:
        hidden = Decoder(config).apply({"params": params}, tokens, positions, segments)
        logprobs, entropies = token_logprobs(hidden, output_head(params), targets)

    Args:
        hidden_RSD: hidden states after the final norm.
        head_VD: the output head, any float dtype; cast to the dtype of the hidden states. Its
            gradient is summed in float32.
        targets_RS: int32 ids.
        wanted_RS: bool; None wants all.
        rule: temperature, top-k and top-p.
        num_ids: ids from this number on do not exist: they have probability 0, and their rows of
            the head gradient 0. None stands for all V.

    Returns:
        Log-probs and entropies, float32 [R, S], nats; -inf for a target that is never drawn, 0
        where nothing is wanted.
    """
    num_ids = num_ids if has_padded_rows(head_VD.shape[0], num_ids) else None
    if wanted_RS is None:
        wanted_RS = jnp.ones(targets_RS.shape, bool)
    if rule != PLAIN:
        fixed = jax.lax.stop_gradient((hidden_RSD, head_VD.astype(hidden_RSD.dtype)))
        function = functools.partial(_ruled, rule=rule, num_ids=num_ids)
        run = on_each_device(function, (ROWS, WHOLE_HEAD, TOKENS, TOKENS), (TOKENS, TOKENS))
        return run(*fixed, targets_RS, wanted_RS)
    return _logprobs(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids)


# Logical axes. The first axis of a partial result counts the parts of the vocabulary, which are
# still to be joined.
ROWS, TOKENS = ("batch", None, None), ("batch", None)
WHOLE_HEAD, IDS = (None, None), ("vocab",)
OF_VOCABULARY = ("vocab", "batch", None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _logprobs(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids):
    return _logprobs_forward(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids)[0]


def _head_axes(split: WidthSplit) -> tuple[str | None, str | None]:
    return ("vocab", "embed") if split.width else ("vocab", None)


def _logprobs_forward(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids):
    split = width_split(hidden_RSD.shape[0], head_VD.shape[1])
    run = on_each_device(
        functools.partial(_forward, num_ids=num_ids, split=split),
        (ROWS, _head_axes(split), IDS, TOKENS, TOKENS),
        (OF_VOCABULARY,) * 4,
    )
    head, ids_V = head_VD.astype(hidden_RSD.dtype), jnp.arange(head_VD.shape[0])
    largest, total, weighted, target = run(hidden_RSD, head, ids_V, targets_RS, wanted_RS)
    overall = jnp.max(largest, axis=0)
    shrink = jnp.exp(largest - overall)
    total = jnp.sum(total * shrink, axis=0)
    norm_RS = overall + jnp.log(total)
    logprobs_RS = jnp.sum(target, axis=0) - norm_RS
    entropy_RS = norm_RS - jnp.sum(weighted * shrink, axis=0) / total
    results = jnp.where(wanted_RS, logprobs_RS, 0.0), jnp.where(wanted_RS, entropy_RS, 0.0)
    return results, (hidden_RSD, head_VD, targets_RS, wanted_RS, norm_RS)


def _logprobs_backward(num_ids, kept, gradients):
    hidden_RSD, head_VD, targets_RS, wanted_RS, norm_RS = kept
    split = width_split(hidden_RSD.shape[0], head_VD.shape[1])
    run = on_each_device(
        functools.partial(_backward, num_ids=num_ids, split=split),
        (ROWS, _head_axes(split), IDS, TOKENS, TOKENS, TOKENS, TOKENS),
        (("vocab", *ROWS), _head_axes(split)),
    )
    head, ids_V = head_VD.astype(hidden_RSD.dtype), jnp.arange(head_VD.shape[0])
    args = hidden_RSD, head, ids_V, targets_RS, wanted_RS, norm_RS, gradients[0]
    grad_hidden, grad_head = run(*args)
    grad_hidden = jnp.sum(grad_hidden, axis=0).astype(hidden_RSD.dtype)
    return grad_hidden, grad_head.astype(head_VD.dtype), None, None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


# ---- One device: its rows, its part of the vocabulary.


class _Chunks:
    """The wanted tokens of some rows, in chunks.

    Args:
        wanted_RS: bool.
        most: tokens of a chunk at most.
    """

    def __init__(self, wanted_RS: jax.Array, most: int):
        wanted = wanted_RS.reshape(-1)
        self.shape, self.size = wanted_RS.shape, min(most, wanted.size)
        self.padded = wanted.size + -wanted.size % self.size
        self.wanted = wanted
        self.tokens = jnp.sum(wanted, dtype=jnp.int32)
        order = jnp.nonzero(wanted, size=self.padded, fill_value=0)[0]
        # The last chunk is filled up with a token that is wanted: others may be NaN.
        filler = jnp.argmax(wanted)
        self.order = jnp.where(jnp.arange(self.padded) < self.tokens, order, filler)
        self.rank = jnp.cumsum(wanted) - 1
        self.count = -(-self.tokens // self.size)

    def take(self, index: jax.Array, x: jax.Array) -> jax.Array:
        """The entries of [R, S, ...] that belong to a chunk."""
        places = jax.lax.dynamic_slice(self.order, (index * self.size,), (self.size,))
        return jnp.take(x.reshape(-1, *x.shape[2:]), places, axis=0, mode="clip")

    def is_token(self, index: jax.Array) -> jax.Array:
        """Which entries of a chunk are tokens; the others fill up the last chunk."""
        return index * self.size + jnp.arange(self.size) < self.tokens

    def get(self, index: jax.Array, gathered: jax.Array) -> jax.Array:
        """A chunk's results so far, of `gathered`, [padded, ...]."""
        return jax.lax.dynamic_slice_in_dim(gathered, index * self.size, self.size)

    def put(self, index: jax.Array, gathered: jax.Array, x: jax.Array) -> jax.Array:
        """Writes a chunk's results into `gathered`, [padded, ...]."""
        start = (index * self.size, *[0] * (x.ndim - 1))
        return jax.lax.dynamic_update_slice(gathered, x.astype(gathered.dtype), start)

    def spread(self, gathered: jax.Array) -> jax.Array:
        """[padded, ...] back to [R, S, ...], with 0 where nothing is wanted."""
        tail = gathered.shape[1:]
        wanted = self.wanted.reshape(-1, *[1] * len(tail))
        found = jnp.take(gathered, self.rank, axis=0, mode="clip")
        return jnp.where(wanted, found, 0).reshape(*self.shape, *tail)


def chunk_tokens(tokens: int) -> int:
    """Tokens of a chunk, of `tokens` on one device."""
    return max(1, min(CHUNK_TOKENS, max(128, tokens // CHUNK_SHARE), tokens))


def _blocks(tokens: int, vocabulary: int) -> tuple[int, int]:
    """Ids of a block of the vocabulary, and the number of blocks."""
    size = max(1, min(vocabulary, LOGIT_ELEMENTS // tokens))
    return size, -(-vocabulary // size)


def _over_blocks(blocks: int, body: Callable[[ArrayLike, Any], Any], start: Any) -> Any:
    """`fori_loop` over the blocks of the vocabulary; without a loop where there is one."""
    return body(0, start) if blocks == 1 else jax.lax.fori_loop(0, blocks, body, start)


def _block(head_VD, ids_V, number, size: int, num_ids: int | None, split: WidthSplit):
    """Where a block of the head begins, the block, its ids, and which of them count.

    The last block begins early enough to be whole; what an earlier one had does not count.
    """
    start = jnp.minimum(number * size, head_VD.shape[0] - size)
    rows = split.gather(jax.lax.dynamic_slice_in_dim(head_VD, start, size))
    ids = jax.lax.dynamic_slice_in_dim(ids_V, start, size)
    counts = start + jnp.arange(size) >= number * size
    if num_ids is not None:
        counts &= ids < num_ids
        # Whatever stands there must not meet a 0: 0 * NaN is NaN.
        rows = jnp.where((ids < num_ids)[:, None], rows, 0)
    return start, rows, ids, counts


def _logits(hidden_CD, rows_vD, counts_v, whole: bool) -> jax.Array:
    """float32 [C, v], -inf for ids that do not count; `whole`: all of them do."""
    logits = jnp.einsum("cd,vd->cv", hidden_CD, rows_vD, preferred_element_type=jnp.float32)
    return logits if whole else jnp.where(counts_v, logits, -jnp.inf)


def _forward(
    hidden_RSD,
    head_VD,
    ids_V,
    targets_RS,
    wanted_RS,
    *,
    num_ids: int | None,
    split: WidthSplit,
):
    """What a part of the vocabulary adds: largest logit, norm, sum of p * logit, target's logit.

    Each is float32 [1, R, S]; norm and sum are relative to exp(largest).
    """
    R, S, _ = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, chunk_tokens(R * S))
    size, blocks = _blocks(chunks.size, V)
    whole = num_ids is None and V % size == 0

    def block(number, gathered):
        _, rows, ids, counts = _block(head_VD, ids_V, number, size, num_ids, split)

        def chunk(index, gathered):
            hidden_CD, targets_C = chunks.take(index, hidden_RSD), chunks.take(index, targets_RS)
            largest, total, weighted, target = (chunks.get(index, x) for x in gathered)
            logits = _logits(hidden_CD, rows, counts, whole)
            new = jnp.maximum(largest, jnp.max(logits, axis=-1))
            shares = jnp.exp(logits - new[:, None])
            products = shares * (logits if whole else jnp.where(counts, logits, 0.0))
            shrink = jnp.exp(largest - new)
            hit = (ids == targets_C[:, None]) & counts
            found = (
                new,
                total * shrink + jnp.sum(shares, axis=-1),
                weighted * shrink + jnp.sum(products, axis=-1),
                # A comparison and not a gather: the id may be in another part.
                target + jnp.sum(jnp.where(hit, logits, 0.0), axis=-1),
            )
            return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

        return jax.lax.fori_loop(0, chunks.count, chunk, gathered)

    # Not -inf: a part may have no id that counts, and inf - inf is NaN.
    start = jnp.full(chunks.padded, jnp.finfo(jnp.float32).min), *(jnp.zeros(chunks.padded),) * 3
    return tuple(chunks.spread(x)[None] for x in _over_blocks(blocks, block, start))


def _backward(
    hidden_RSD,
    head_VD,
    ids_V,
    targets_RS,
    wanted_RS,
    norm_RS,
    grad_RS,
    *,
    num_ids: int | None,
    split: WidthSplit,
):
    """Gradients: what this part of the vocabulary adds to that of the rows, and that of the part.

    Returns:
        float32 [1, R, S, D] of the hidden states, and [V, D] of the head, as it is split.
    """
    R, S, D = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, chunk_tokens(R * S))
    size, blocks = _blocks(chunks.size, V)
    whole = num_ids is None and V % size == 0
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def block(number, carry):
        gathered, grad_head = carry
        start, rows, ids, counts = _block(head_VD, ids_V, number, size, num_ids, split)

        def chunk(index, carry):
            gathered, grad_rows = carry
            of_chunk = [chunks.take(index, x) for x in (hidden_RSD, targets_RS, norm_RS, grad_RS)]
            hidden_CD, targets_C, norm_C, grad_C = of_chunk
            # What fills up the chunk has probabilities and gradients of 0.
            is_token = chunks.is_token(index)
            norm_C = jnp.where(is_token, norm_C, jnp.inf)
            grad_C = jnp.where(is_token, grad_C, 0.0)
            logits = _logits(hidden_CD, rows, counts, whole)
            hit = (ids == targets_C[:, None]) & counts
            # d logprob / d logit = [id is the target] - p
            shares = jnp.exp(logits - norm_C[:, None])
            grad_logits = (grad_C[:, None] * (hit - shares)).astype(hidden_CD.dtype)
            grad_hidden = product("cv,vd->cd", grad_logits, rows)
            grad_hidden = chunks.get(index, gathered) + grad_hidden
            grad_rows += product("cv,cd->vd", grad_logits, hidden_CD)
            return chunks.put(index, gathered, grad_hidden), grad_rows

        start_of_block = gathered, jnp.zeros((size, D))
        gathered, more = jax.lax.fori_loop(0, chunks.count, chunk, start_of_block)
        more = split.add_up(more)
        if blocks == 1:
            return gathered, more
        so_far = jax.lax.dynamic_slice_in_dim(grad_head, start, size)
        return gathered, jax.lax.dynamic_update_slice(grad_head, so_far + more, (start, 0))

    zeros = jnp.zeros((chunks.padded, D)), jnp.zeros(head_VD.shape)
    gathered, grad_head = _over_blocks(blocks, block, zeros)
    return chunks.spread(gathered)[None], grad_head


def _ruled(hidden_RSD, head_VD, targets_RS, wanted_RS, *, rule: SamplingRule, num_ids: int | None):
    """`token_logprobs` of the distribution that a rule draws from, which needs all logits at once.

    float32 [R, S] each.
    """
    R, S, _ = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, max(1, min(chunk_tokens(R * S), LOGIT_ELEMENTS // V)))

    def chunk(index, gathered):
        _, rows, ids, counts = _block(head_VD, jnp.arange(V), 0, V, num_ids, WidthSplit())
        hidden_CD, targets_C = chunks.take(index, hidden_RSD), chunks.take(index, targets_RS)
        logits = _logits(hidden_CD, rows, counts, num_ids is None)
        logprobs = log_distribution(logits, rule)
        of_target = jnp.take_along_axis(logprobs, targets_C[:, None], axis=-1)[:, 0]
        plogp = jnp.where(logprobs == -jnp.inf, 0.0, jnp.exp(logprobs) * logprobs)
        found = of_target, -jnp.sum(plogp, axis=-1)
        return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

    found = jax.lax.fori_loop(0, chunks.count, chunk, (jnp.zeros(chunks.padded),) * 2)
    return tuple(map(chunks.spread, found))
