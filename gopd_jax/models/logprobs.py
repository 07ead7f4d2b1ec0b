"""Log-probs of given tokens from hidden states and the output head, and their gradients.

In: hidden states, the head, token ids, and which of them are wanted. Out: the log-prob of each
wanted id and the entropy of each prediction. The wanted hidden states are gathered first, and the
head is applied to these alone, in chunks of tokens and blocks of the vocabulary; the logits of a
chunk are computed again in the backward pass.

The loops run on each device for its own rows and its own part of the vocabulary. What the parts of
the vocabulary found is joined once after the loop. Where the width of the head is split over
devices it stays so: a block of the vocabulary is gathered when its turn comes, and its gradient is
summed over the devices and split again before the next block, so that no device holds the whole
head or its whole gradient.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gopd_jax.models import head_blocks
from gopd_jax.models.heads import has_padded_rows, log_distribution
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.runtime.mesh import WidthSplit, on_each_device, width_split

NO_ID = 2**31 - 1  # more than any id


def token_logprobs(
    hidden_RSD: jax.Array,
    head_VD: jax.Array,
    targets_RS: jax.Array,
    wanted_RS: jax.Array | None = None,
    *,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
    frozen_head: bool = False,
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
        frozen_head: the head gets no gradient, and none is computed.

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
    return _logprobs(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids, frozen_head)


# Logical axes. The first axis of a partial result counts the parts that are still to be joined.
ROWS, TOKENS = ("batch", None, None), ("batch", None)
HEAD, SPLIT_HEAD, WHOLE_HEAD, IDS = ("vocab", None), ("vocab", "embed"), (None, None), ("vocab",)
OF_VOCABULARY = ("vocab", "batch", None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _logprobs(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids, frozen_head):
    return _logprobs_forward(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids, frozen_head)[0]


def _logprobs_forward(hidden_RSD, head_VD, targets_RS, wanted_RS, num_ids, frozen_head):
    del frozen_head  # of the backward pass
    split = width_split(hidden_RSD.shape[0], head_VD.shape[1])
    function = functools.partial(_forward_split, split=split) if split else _forward
    run = on_each_device(
        functools.partial(function, num_ids=num_ids),
        (ROWS, SPLIT_HEAD if split else HEAD, IDS, TOKENS, TOKENS),
        (OF_VOCABULARY,) * 4,
    )
    head, ids_V = head_VD.astype(hidden_RSD.dtype), jnp.arange(head_VD.shape[0])
    parts = run(hidden_RSD, head, ids_V, targets_RS, wanted_RS)
    largest, total, weighted, target = _joined(parts)
    norm_RS = largest + jnp.log(total)
    entropy_RS = norm_RS - weighted / total
    results = jnp.where(wanted_RS, target - norm_RS, 0.0), jnp.where(wanted_RS, entropy_RS, 0.0)
    return results, (hidden_RSD, head_VD, targets_RS, wanted_RS, norm_RS)


def _logprobs_backward(num_ids, frozen_head, kept, gradients):
    hidden_RSD, head_VD, targets_RS, wanted_RS, norm_RS = kept
    split = width_split(hidden_RSD.shape[0], head_VD.shape[1])
    function = functools.partial(_backward_split, split=split) if split else _backward
    axes = SPLIT_HEAD if split else HEAD
    run = on_each_device(
        functools.partial(function, num_ids=num_ids, frozen=frozen_head),
        (ROWS, axes, IDS, TOKENS, TOKENS, TOKENS, TOKENS),
        (("vocab", *ROWS), *([] if frozen_head else [axes if split else ("batch", *axes)])),
    )
    head, ids_V = head_VD.astype(hidden_RSD.dtype), jnp.arange(head_VD.shape[0])
    args = hidden_RSD, head, ids_V, targets_RS, wanted_RS, norm_RS, gradients[0]
    grad_hidden, *of_head = run(*args)
    grad_hidden = jnp.sum(grad_hidden, axis=0).astype(hidden_RSD.dtype)
    if frozen_head:
        return grad_hidden, None, None, None
    (grad_head,) = of_head
    grad_head = grad_head if split else jnp.sum(grad_head, axis=0)
    return grad_hidden, grad_head.astype(head_VD.dtype), None, None


_logprobs.defvjp(_logprobs_forward, _logprobs_backward)


def _joined(parts: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """What parts of the vocabulary found, see `_forward`, [parts, ...] each, as that of one."""
    largest, total, weighted, target = parts
    overall = jnp.max(largest, axis=0)
    shrink = jnp.exp(largest - overall)
    added = (jnp.sum(x * shrink, axis=0) for x in (total, weighted))
    return overall, *added, jnp.sum(target, axis=0)


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


def _over_blocks(blocks: int, body: Callable[[ArrayLike, Any], Any], start: Any) -> Any:
    """`fori_loop` over the blocks of the vocabulary; without a loop where there is one."""
    return body(0, start) if blocks == 1 else jax.lax.fori_loop(0, blocks, body, start)


def _block(head_VD, ids_V, number, size: int, num_ids: int | None):
    """A block of the head, its ids, and which of them count: [v, D], [v], [v].

    The last block begins early enough to be whole; what an earlier one had does not count.
    """
    start = jnp.minimum(number * size, head_VD.shape[0] - size)
    rows = jax.lax.dynamic_slice_in_dim(head_VD, start, size)
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


def _forward(hidden_RSD, head_VD, ids_V, targets_RS, wanted_RS, *, num_ids: int | None):
    """What a part of the vocabulary adds: largest logit, norm, sum of p * logit, target's logit.

    Each is float32 [1, R, S]; norm and sum are relative to exp(largest).
    """
    R, S, _ = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, head_blocks.chunk_tokens(R * S))
    size, blocks = head_blocks.vocabulary_blocks(chunks.size, V)
    whole = num_ids is None and V % size == 0

    def block(number, running, hidden_CD, targets_C):
        largest, total, weighted, target = running
        _, rows, ids, counts = _block(head_VD, ids_V, number, size, num_ids)
        logits = _logits(hidden_CD, rows, counts, whole)
        new = jnp.maximum(largest, jnp.max(logits, axis=-1))
        shares = jnp.exp(logits - new[:, None])
        products = shares * (logits if whole else jnp.where(counts, logits, 0.0))
        shrink = jnp.exp(largest - new)
        hit = (ids == targets_C[:, None]) & counts
        return (
            new,
            total * shrink + jnp.sum(shares, axis=-1),
            weighted * shrink + jnp.sum(products, axis=-1),
            # A comparison and not a gather: the id may be in another part.
            target + jnp.sum(jnp.where(hit, logits, 0.0), axis=-1),
        )

    def chunk(index, gathered):
        hidden_CD, targets_C = chunks.take(index, hidden_RSD), chunks.take(index, targets_RS)
        # Not -inf: a part may have no id that counts, and inf - inf is NaN.
        start = jnp.full(chunks.size, jnp.finfo(jnp.float32).min), *(jnp.zeros(chunks.size),) * 3
        found = _over_blocks(blocks, lambda n, x: block(n, x, hidden_CD, targets_C), start)
        return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

    found = jax.lax.fori_loop(0, chunks.count, chunk, (jnp.zeros(chunks.padded),) * 4)
    return tuple(chunks.spread(x)[None] for x in found)


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
    frozen: bool,
):
    """Gradients: what this part of the vocabulary, and these rows, add to them.

    Returns:
        float32 [1, R, S, D] of the hidden states; [1, V, D] of the head, unless it is frozen.
    """
    R, S, D = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, head_blocks.chunk_tokens(R * S))
    size, blocks = head_blocks.vocabulary_blocks(chunks.size, V)
    whole = num_ids is None and V % size == 0

    def block(number, carry, hidden_CD, targets_C, norm_C, grad_C):
        grad_hidden, grad_head = carry
        start, rows, ids, counts = _block(head_VD, ids_V, number, size, num_ids)
        logits = _logits(hidden_CD, rows, counts, whole)
        hit = (ids == targets_C[:, None]) & counts
        # d logprob / d logit = [id is the target] - p
        shares = jnp.exp(logits - norm_C[:, None])
        grad_logits = (grad_C[:, None] * (hit - shares)).astype(hidden_CD.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
        grad_hidden += product("cv,vd->cd", grad_logits, rows)
        if frozen:
            return grad_hidden, grad_head
        more = product("cv,cd->vd", grad_logits, hidden_CD)
        so_far = jax.lax.dynamic_slice_in_dim(grad_head, start, size)
        return grad_hidden, jax.lax.dynamic_update_slice(grad_head, so_far + more, (start, 0))

    def chunk(index, carry):
        gathered, grad_head = carry
        of_chunk = [chunks.take(index, x) for x in (hidden_RSD, targets_RS, norm_RS, grad_RS)]
        # What fills up the chunk has probabilities and gradients of 0.
        is_token = chunks.is_token(index)
        of_chunk[2] = jnp.where(is_token, of_chunk[2], jnp.inf)
        of_chunk[3] = jnp.where(is_token, of_chunk[3], 0.0)
        start = jnp.zeros((chunks.size, D)), grad_head
        grad_hidden, grad_head = _over_blocks(blocks, lambda n, x: block(n, x, *of_chunk), start)
        return chunks.put(index, gathered, grad_hidden), grad_head

    zeros = jnp.zeros((chunks.padded, D)), None if frozen else jnp.zeros((V, D))
    gathered, grad_head = jax.lax.fori_loop(0, chunks.count, chunk, zeros)
    return chunks.spread(gathered)[None], *(() if frozen else (grad_head[None],))


# ---- One device with a part of the width of the head.


class _Gathered:
    """The blocks of the vocabulary of a head that is split by width, each with its whole width.

    Args:
        part_Vd, ids_V: what this device has of the head, and its ids.
        tokens: those that the head is applied to.
        split: how the width is split.
    """

    def __init__(self, part_Vd, ids_V, tokens: int, split: WidthSplit):
        self.part, self.ids, self.split = part_Vd, ids_V, split
        chunk = head_blocks.chunk_tokens(tokens)
        self.size, self.count = head_blocks.vocabulary_blocks(chunk, len(ids_V))

    def start(self, number: jax.Array) -> jax.Array:
        """The first row of a block. The last block begins early enough to be whole."""
        return jnp.minimum(number * self.size, len(self.ids) - self.size)

    def block(self, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A block and its ids, [v, D] and [v]; what an earlier one had gets the id NO_ID."""
        start = self.start(number)
        part_vd = jax.lax.dynamic_slice_in_dim(self.part, start, self.size)
        ids = jax.lax.dynamic_slice_in_dim(self.ids, start, self.size)
        is_new = start + jnp.arange(self.size) >= number * self.size
        return self.split.gather(part_vd), jnp.where(is_new, ids, NO_ID)


def _forward_split(hidden_RSD, part_Vd, ids_V, targets_RS, wanted_RS, *, num_ids, split):
    """`_forward`, one gathered block after the other."""
    head = _Gathered(part_Vd, ids_V, wanted_RS.size, split)
    num_ids = NO_ID if num_ids is None else num_ids

    def found_in(number):
        of_head = head.block(number)
        return _forward(hidden_RSD, *of_head, targets_RS, wanted_RS, num_ids=num_ids)

    return _joined(jax.lax.map(found_in, jnp.arange(head.count)))


def _backward_split(hidden_RSD, part_Vd, ids_V, *of_tokens, num_ids, frozen, split):
    """`_backward`, one gathered block after the other.

    Returns:
        float32 [1, R, S, D] as there, and the gradient of the part of the head, [V, d], of all
        devices' rows.
    """
    head = _Gathered(part_Vd, ids_V, of_tokens[0].size, split)
    num_ids = NO_ID if num_ids is None else num_ids

    def add(number, so_far):
        grad_hidden, *grad_part = so_far
        of_head = head.block(number)
        args = hidden_RSD, *of_head, *of_tokens
        more, *grad_rows = _backward(*args, num_ids=num_ids, frozen=frozen)
        if frozen:
            return (grad_hidden + more,)
        added, start = split.add_up(grad_rows[0][0]), head.start(number)
        added += jax.lax.dynamic_slice_in_dim(grad_part[0], start, head.size)
        joined = jax.lax.dynamic_update_slice(grad_part[0], added, (start, 0))
        return grad_hidden + more, joined

    zeros = jnp.zeros((1, *hidden_RSD.shape)), *(() if frozen else (jnp.zeros(part_Vd.shape),))
    return jax.lax.fori_loop(0, head.count, add, zeros)


def _ruled(hidden_RSD, head_VD, targets_RS, wanted_RS, *, rule: SamplingRule, num_ids: int | None):
    """`token_logprobs` of the distribution that a rule draws from, which needs all logits at once.

    float32 [R, S] each.
    """
    R, S, _ = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = _Chunks(wanted_RS, head_blocks.whole_chunk(R * S, V))

    def chunk(index, gathered):
        _, rows, ids, counts = _block(head_VD, jnp.arange(V), 0, V, num_ids)
        hidden_CD, targets_C = chunks.take(index, hidden_RSD), chunks.take(index, targets_RS)
        logits = _logits(hidden_CD, rows, counts, num_ids is None)
        logprobs = log_distribution(logits, rule)
        of_target = jnp.take_along_axis(logprobs, targets_C[:, None], axis=-1)[:, 0]
        plogp = jnp.where(logprobs == -jnp.inf, 0.0, jnp.exp(logprobs) * logprobs)
        found = of_target, -jnp.sum(plogp, axis=-1)
        return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

    found = jax.lax.fori_loop(0, chunks.count, chunk, (jnp.zeros(chunks.padded),) * 2)
    return tuple(map(chunks.spread, found))
