"""One device's pass over the vocabulary for gradients, and for what needs the norms first.

In: what `head_pass.forward` takes, and for each wanted token the numbers that a first pass found.
Out: the gradient of the student's hidden states and head; or the Jensen-Shannon divergence.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gopd_jax.models.head_pass import (
    MODELS,
    STUDENT,
    TARGET,
    Asked,
    Block,
    Gathered,
    Heads,
    Parts,
    block_of,
    over_blocks,
    sizes,
)
from gopd_jax.runtime.mesh import WidthSplit


class Tokens(NamedTuple):
    """What is known of each wanted token, [R, S] or, in a chunk, [C]; None where not needed.

    targets: int32 ids.
    scale: of the target.
    student_norm, target_norm: log of the sum of exp(logits).
    means: by model, the mean of its logits under the student.
    candidates: int32 [..., k] ids.
    log_share: the mean of log(student / middle) under the student; see `jensen_shannon`.
    """

    targets: jax.Array
    scale: jax.Array | None = None
    student_norm: jax.Array | None = None
    target_norm: jax.Array | None = None
    means: dict[str, jax.Array] | None = None
    candidates: jax.Array | None = None
    log_share: jax.Array | None = None


def needed_models(asked: Asked) -> tuple[str, ...]:
    """The models whose logits the gradient needs."""
    needed = {STUDENT}
    if "means" in asked.gradients:
        needed |= set(dict(asked.means)[STUDENT])
    if {"target", "jensen_shannon"} & set(asked.gradients):
        needed |= asked.of_target
    return tuple(name for name in MODELS if name in needed)


def backward(
    heads: Heads,
    wanted_RS: jax.Array,
    tokens: Tokens,
    gradients: Parts,
    *,
    asked: Asked,
    frozen: bool,
) -> tuple[jax.Array, ...]:
    """What this part of the vocabulary, and these rows, add to the gradients of the student.

        d log p_y           = [v is y] - p_v
        d E_student[logits] = p_v (logits_v - E_student[logits])
        d E_target[log p]   = target_v - p_v
        d JSD               = (1 - beta) p_v (log(p_v / M_v) - E_student[log(p / M)])

    Args:
        gradients: of the results that `asked.gradients` names, [R, S] or [R, S, k].

    Returns:
        float32 [1, R, S, D] of the hidden states; [1, 1, V, D] of the head, unless it is frozen.
    """
    R, S, D = heads.hidden[STUDENT].shape
    models = needed_models(asked)
    chunks, size, blocks = sizes(heads, wanted_RS, len(models))
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def block(number, carry, hidden, tokens_C, gradients_C):
        grad_hidden, grad_head = carry
        here = block_of(heads, number, size, models)
        grad_logits = _of_logits(here, hidden, tokens_C, gradients_C, asked)
        grad_logits = grad_logits.astype(hidden[STUDENT].dtype)
        grad_hidden += product("cv,vd->cd", grad_logits, here.rows[STUDENT])
        if frozen:
            return grad_hidden, grad_head
        more = product("cv,cd->vd", grad_logits, hidden[STUDENT])
        so_far = jax.lax.dynamic_slice_in_dim(grad_head, here.start, size)
        return grad_hidden, jax.lax.dynamic_update_slice(grad_head, so_far + more, (here.start, 0))

    def chunk(index, carry):
        gathered, grad_head = carry
        take = functools.partial(chunks.take, index)
        hidden = {name: take(heads.hidden[name]) for name in models}
        is_token = chunks.is_token(index)  # what fills up the chunk has gradients of 0

        def of_tokens(x):
            x = take(x)
            return jnp.where(is_token.reshape(-1, *[1] * (x.ndim - 1)), x, 0.0)

        given = hidden, jax.tree.map(take, tokens), jax.tree.map(of_tokens, gradients)
        start = jnp.zeros((chunks.size, D)), grad_head
        grad_hidden, grad_head = over_blocks(blocks, lambda n, x: block(n, x, *given), start)
        return chunks.put(index, gathered, grad_hidden), grad_head

    zeros = jnp.zeros((chunks.padded, D)), None if frozen else jnp.zeros((heads.vocabulary, D))
    gathered, grad_head = jax.lax.fori_loop(0, chunks.count, chunk, zeros)
    return chunks.spread(gathered)[None], *(() if frozen else (grad_head[None, None],))


def _of_logits(
    here: Block, hidden: Parts, tokens: Tokens, gradients: Parts, asked: Asked
) -> jax.Array:
    """The gradient of a block's logits of the student, float32 [C, v]."""
    logits = here.logits(asked, hidden, tokens.scale)
    shares = jnp.exp(logits[STUDENT] - tokens.student_norm[:, None])
    found = []
    if "logprobs" in asked.gradients:
        hit = (here.ids == tokens.targets[:, None]) & here.counts
        found.append(gradients["logprobs"][:, None] * (hit - shares))
    if "means" in asked.gradients:
        for name, gradient in gradients["means"].items():
            above = here.masked(logits[name]) - tokens.means[name][:, None]
            found.append(gradient[:, None] * (shares * above))
    if "target" in asked.gradients:
        of_target = jnp.exp(logits[TARGET] - tokens.target_norm[:, None])
        found.append(gradients["target"][:, None] * (of_target - shares))
    if "jensen_shannon" in asked.gradients:
        log_share = _log_shares(here, logits, tokens, asked)[0] - tokens.log_share[:, None]
        factor = (1 - asked.beta) * gradients["jensen_shannon"][:, None]
        found.append(factor * (shares * here.masked(log_share)))
    if "candidates" in asked.gradients:
        of_ids = gradients["candidates"]
        found.append(_scattered(here, tokens.candidates, of_ids))
        found.append(-jnp.sum(of_ids, axis=-1, keepdims=True) * shares)
    return sum(found[1:], start=found[0])


def _scattered(here: Block, ids_Ck: jax.Array, values_Ck: jax.Array) -> jax.Array:
    """Values at their ids, [C, v]; those of other blocks are left out."""
    size = here.ids.shape[0]
    # The last id always counts as new, and ids ascend by 1 up to it.
    places = ids_Ck - (here.ids[-1] - size + 1)
    places = jnp.where(places < 0, size, places)
    zeros = jnp.zeros((ids_Ck.shape[0], size))
    rows = jnp.arange(ids_Ck.shape[0])[:, None]
    return here.masked(zeros.at[rows, places].add(values_Ck, mode="drop"))


def _log_shares(
    here: Block, logits: Parts, tokens: Tokens, asked: Asked
) -> tuple[jax.Array, jax.Array]:
    """log(student / middle) and log(target / middle), [C, v]; 0 for ids that do not count.

    middle = beta * target + (1 - beta) * student.
    """
    student = here.masked(logits[STUDENT] - tokens.student_norm[:, None])
    target = here.masked(logits[TARGET] - tokens.target_norm[:, None])
    middle = jnp.logaddexp(student + jnp.log1p(-asked.beta), target + jnp.log(asked.beta))
    return student - middle, target - middle


def jensen_shannon(
    heads: Heads, wanted_RS: jax.Array, tokens: Tokens, *, asked: Asked
) -> tuple[jax.Array, jax.Array]:
    """What a part of the vocabulary adds to the divergence, and to the mean of log(student / M).

        JSD = beta E_target[log(target / M)] + (1 - beta) E_student[log(student / M)]
        M   = beta target + (1 - beta) student

    Returns:
        float32 [1, R, S] each; the parts are summed.
    """
    chunks, size, blocks = sizes(heads, wanted_RS, len(asked.models))

    def block(number, running, hidden, tokens_C):
        here = block_of(heads, number, size, asked.models)
        logits = here.logits(asked, hidden, tokens_C.scale)
        student, target = _log_shares(here, logits, tokens_C, asked)
        p = jnp.exp(logits[STUDENT] - tokens_C.student_norm[:, None])
        q = jnp.exp(logits[TARGET] - tokens_C.target_norm[:, None])
        of_student = jnp.sum(p * here.masked(student), axis=-1)
        of_target = jnp.sum(q * here.masked(target), axis=-1)
        value, log_share = running
        value += asked.beta * of_target + (1 - asked.beta) * of_student
        return value, log_share + of_student

    def chunk(index, gathered):
        take = functools.partial(chunks.take, index)
        hidden = {name: take(heads.hidden[name]) for name in asked.models}
        tokens_C = jax.tree.map(take, tokens)
        start = (jnp.zeros(chunks.size),) * 2
        found = over_blocks(blocks, lambda n, x: block(n, x, hidden, tokens_C), start)
        return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

    found = jax.lax.fori_loop(0, chunks.count, chunk, (jnp.zeros(chunks.padded),) * 2)
    return tuple(chunks.spread(x)[None] for x in found)


# ---- Where the width of the heads is split over devices.


def backward_split(
    heads: Heads,
    wanted_RS: jax.Array,
    tokens: Tokens,
    gradients: Parts,
    *,
    asked: Asked,
    frozen: bool,
    split: WidthSplit,
) -> tuple[jax.Array, ...]:
    """`backward`, one gathered block after the other.

    Returns:
        float32 [1, R, S, D] as there, and the gradient of the part of the head, [V, d], of all
        devices' rows.
    """
    models = needed_models(asked)
    blocks = Gathered(heads, wanted_RS.size, len(asked.models), split)

    def add(number, so_far):
        grad_hidden, *grad_part = so_far
        here = blocks.block(number, models)
        more, *grad_rows = backward(here, wanted_RS, tokens, gradients, asked=asked, frozen=frozen)
        if frozen:
            return (grad_hidden + more,)
        added, start = split.add_up(grad_rows[0][0, 0]), blocks.start(number)
        added += jax.lax.dynamic_slice_in_dim(grad_part[0], start, blocks.size)
        return grad_hidden + more, jax.lax.dynamic_update_slice(grad_part[0], added, (start, 0))

    (part_Vd,) = heads.weights[STUDENT]
    zeros = jnp.zeros((1, *heads.hidden[STUDENT].shape)), jnp.zeros(part_Vd.shape)
    return jax.lax.fori_loop(0, blocks.count, add, zeros[:1] if frozen else zeros)


def jensen_shannon_split(
    heads: Heads, wanted_RS: jax.Array, tokens: Tokens, *, asked: Asked, split: WidthSplit
) -> tuple[jax.Array, jax.Array]:
    """`jensen_shannon`, one gathered block after the other."""
    blocks = Gathered(heads, wanted_RS.size, len(asked.models), split)

    def found_in(number):
        return jensen_shannon(blocks.block(number, asked.models), wanted_RS, tokens, asked=asked)

    found = jax.lax.map(found_in, jnp.arange(blocks.count))
    return tuple(jnp.sum(x, axis=0) for x in found)
