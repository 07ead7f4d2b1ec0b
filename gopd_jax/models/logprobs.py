"""Log-probs of given tokens from hidden states and the output head, and their gradients.

In: hidden states of one or more models, their heads, token ids, and which of them are wanted. Out:
log-probs, entropies, and expectations over the whole vocabulary, of each wanted prediction. The
logits exist in blocks only (`head_pass`), and are computed again in the backward pass.
"""

from collections.abc import Mapping, Sequence
import functools

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.models import head_blocks, head_gradient, head_pass
from gopd_jax.models.head_devices import ROWS, TOKENS, WHOLE_HEAD, OnDevices
from gopd_jax.models.head_pass import (
    LOGPROBS,
    STUDENT,
    TARGET,
    Asked,
    Chunks,
    Heads,
    block_of,
)
from gopd_jax.models.heads import has_padded_rows, log_distribution
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.runtime.mesh import on_each_device


@struct.dataclass
class Statistics:
    """What models say of each prediction, float32 [R, S], nats; 0 where nothing is wanted.

    logprobs: by model, of the target id.
    means: by distribution and model, sum_v p_v log q_v, with p of the distribution and q of the
        model; minus the entropy where the two are the same.
    norms: by distribution, the log of the sum of exp(logits).
    candidates: by model, [R, S, k] log-probs of the most likely ids, or None.
    jensen_shannon: divergence of student and target, or None.
    """

    logprobs: dict[str, jax.Array]
    means: dict[str, dict[str, jax.Array]]
    norms: dict[str, jax.Array]
    candidates: dict[str, jax.Array] | None = None
    jensen_shannon: jax.Array | None = None


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
    if wanted_RS is None:
        wanted_RS = jnp.ones(targets_RS.shape, bool)
    if rule != PLAIN:
        num_ids = num_ids if has_padded_rows(head_VD.shape[0], num_ids) else None
        fixed = jax.lax.stop_gradient((hidden_RSD, head_VD.astype(hidden_RSD.dtype)))
        function = functools.partial(_ruled, rule=rule, num_ids=num_ids)
        run = on_each_device(function, (ROWS, WHOLE_HEAD, TOKENS, TOKENS), (TOKENS, TOKENS))
        return run(*fixed, targets_RS, wanted_RS)
    models = {STUDENT: (hidden_RSD, head_VD)}
    options = {"num_ids": num_ids, "frozen_head": frozen_head}
    found = statistics(models, targets_RS, wanted_RS, LOGPROBS, **options)
    return found.logprobs[STUDENT], jax.lax.stop_gradient(-found.means[STUDENT][STUDENT])


def statistics(
    models: Mapping[str, Sequence[jax.Array]],
    targets_RS: jax.Array,
    wanted_RS: jax.Array,
    asked: Asked,
    *,
    scale_RS: jax.Array | None = None,
    which: jax.Array | None = None,
    num_ids: int | None = None,
    frozen_head: bool = False,
) -> Statistics:
    """What some models say of each wanted prediction, over the whole vocabulary.

    The gradient flows to the student's hidden states and head, through what `asked.gradients`
    names; all else has none.

    Args:
        models: by name ("student", "teacher", "reference"), the hidden states [R, S, D] after the
            final norm, and one or more heads [V, D]; all but the student are frozen.
        targets_RS, wanted_RS, num_ids, frozen_head: as for `token_logprobs`.
        asked: what is computed.
        scale_RS: float32, weight of the teacher's logits in the target's, whose others are those of
            the reference; needed where the target is asked for and there is a reference.
        which: int32 scalar, the teacher's head that counts, where it has several.
    """
    (student, head_VD), V = models[STUDENT], models[STUDENT][1].shape[0]
    ids = num_ids if has_padded_rows(V, num_ids) else None
    hidden, heads = {}, {}
    for name in asked.models[1:]:
        of_model, *its_heads = models[name]
        hidden[name] = of_model.astype(student.dtype)
        heads[name] = tuple(_rows(x, V, num_ids).astype(student.dtype) for x in its_heads)
    frozen = jax.lax.stop_gradient((hidden, heads))
    given = targets_RS, wanted_RS, scale_RS if asked.mixes else None, which
    return _statistics(student, head_VD, *frozen, *given, asked, ids, frozen_head)


def _rows(head_VD: jax.Array, rows: int, num_ids: int | None) -> jax.Array:
    """A head with so many rows: models with one tokenizer may have padded it differently."""
    if len(head_VD) < rows:
        if num_ids is None or num_ids > len(head_VD):
            raise ValueError(
                f"a head of {len(head_VD)} ids beside one of {rows}: expected num_ids, at most "
                f"{len(head_VD)}"
            )
        return jnp.pad(head_VD, [(0, rows - len(head_VD)), (0, 0)])
    return head_VD[:rows]


@functools.partial(jax.custom_vjp, nondiff_argnums=(8, 9, 10))
def _statistics(
    student, head_VD, hidden, heads, targets, wanted, scale, which, asked, num_ids, frozen_head
) -> Statistics:
    args = student, head_VD, hidden, heads, targets, wanted, scale, which
    return _forward(*args, asked, num_ids, frozen_head)[0]


def _forward(
    student, head_VD, hidden, heads, targets, wanted, scale, which, asked, num_ids, frozen_head
):
    del frozen_head  # of the backward pass
    head = head_VD.astype(student.dtype)
    models = {STUDENT: (student, head)} | {n: (hidden[n], *heads[n]) for n in hidden}
    on = OnDevices(models, which, num_ids)
    found = head_pass.joined(on.forward(asked, targets, wanted, scale), asked)
    norms = {
        name: found[name]["largest"] + jnp.log(found[name]["total"]) for name, _ in asked.means
    }
    # Means of logits under a distribution.
    means = {
        name: {x: s / found[name]["total"] for x, s in zip(of, found[name]["sums"], strict=True)}
        for name, of in asked.means
    }
    tokens = head_gradient.Tokens(
        targets,
        scale,
        norms[STUDENT],
        norms.get(TARGET),
        {name: means[STUDENT][name] for name in means[STUDENT]},
    )
    candidates, divergence = None, None
    if asked.candidates:
        ids = found["candidates"].pop("ids")
        tokens = tokens._replace(candidates=ids)
        candidates = {name: x - norms[name][..., None] for name, x in found["candidates"].items()}
    if asked.beta is not None:
        parts = on.jensen_shannon(asked, wanted, tokens)
        divergence, log_share = (jnp.sum(x, axis=0) for x in parts)
        tokens = tokens._replace(log_share=log_share)
    result = Statistics(
        logprobs={name: x - norms[name] for name, x in found["logits"].items()},
        means={name: {x: mean - norms[x] for x, mean in of.items()} for name, of in means.items()},
        norms=norms,
        candidates=candidates,
        jensen_shannon=divergence,
    )
    result = jax.tree.map(lambda x: jnp.where(_like(wanted, x), x, 0.0), result)
    return result, (student, head_VD, hidden, heads, wanted, which, tokens)


def _like(wanted_RS: jax.Array, x: jax.Array) -> jax.Array:
    return wanted_RS.reshape(*wanted_RS.shape, *[1] * (x.ndim - wanted_RS.ndim))


def _backward(asked, num_ids, frozen_head, kept, gradients: Statistics):
    student, head_VD, hidden, heads, wanted, which, tokens = kept
    head = head_VD.astype(student.dtype)
    models = {STUDENT: (student, head)} | {n: (hidden[n], *heads[n]) for n in hidden}
    models = {name: models[name] for name in head_gradient.needed_models(asked)}
    on = OnDevices(models, which, num_ids)
    given = {
        "logprobs": lambda: gradients.logprobs[STUDENT],
        "means": lambda: dict(gradients.means[STUDENT]),
        "target": lambda: gradients.means[TARGET][STUDENT],
        "candidates": lambda: gradients.candidates[STUDENT],
        "jensen_shannon": lambda: gradients.jensen_shannon,
    }
    of_results = {name: given[name]() for name in asked.gradients}
    grad_hidden, *of_head = on.backward(asked, frozen_head, wanted, tokens, of_results)
    grad_hidden = jnp.sum(grad_hidden, axis=0).astype(student.dtype)
    grad_head = None
    if not frozen_head:
        (grad_head,) = of_head
        grad_head = grad_head if on.split else jnp.sum(grad_head, axis=(0, 1))
        grad_head = grad_head.astype(head_VD.dtype)
    return grad_hidden, grad_head, *(None,) * 6


_statistics.defvjp(_forward, _backward)


def _ruled(hidden_RSD, head_VD, targets_RS, wanted_RS, *, rule: SamplingRule, num_ids: int | None):
    """`token_logprobs` of the distribution that a rule draws from, which needs all logits at once.

    float32 [R, S] each.
    """
    R, S, _ = hidden_RSD.shape
    V = head_VD.shape[0]
    chunks = Chunks(wanted_RS, head_blocks.whole_chunk(R * S, V))
    hidden, weights = {STUDENT: hidden_RSD}, {STUDENT: (head_VD,)}
    block = block_of(Heads(hidden, weights, None, jnp.arange(V), num_ids), 0, V, (STUDENT,))

    def chunk(index, gathered):
        hidden_CD, targets_C = chunks.take(index, hidden_RSD), chunks.take(index, targets_RS)
        logits = block.logits(LOGPROBS, {STUDENT: hidden_CD}, None)[STUDENT]
        logprobs = log_distribution(logits, rule)
        of_target = jnp.take_along_axis(logprobs, targets_C[:, None], axis=-1)[:, 0]
        plogp = jnp.where(logprobs == -jnp.inf, 0.0, jnp.exp(logprobs) * logprobs)
        found = of_target, -jnp.sum(plogp, axis=-1)
        return tuple(chunks.put(index, g, x) for g, x in zip(gathered, found, strict=True))

    found = jax.lax.fori_loop(0, chunks.count, chunk, (jnp.zeros(chunks.padded),) * 2)
    return tuple(map(chunks.spread, found))
