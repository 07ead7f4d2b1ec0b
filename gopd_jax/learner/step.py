"""The train step and the scorer: pure functions of parameters and one packed batch.

train_step: (state, batches with what teacher and reference say) -> (state, metrics, tokens)
score:      (frozen parameters, rows of tokens) -> log-probs
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
import optax

from gopd_jax.kernels.context import balanced, in_order
from gopd_jax.learner.exact import FrozenHeads, exact_predictions
from gopd_jax.learner.noise import no_parts, noise_share, part
from gopd_jax.learner.parking import moments_to
from gopd_jax.learner.settings import SelfTeacherSettings
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.models.routing import Routing, counted
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.objective.diagnostics import Diagnostics
from gopd_jax.objective.loss import Loss, LossDetails, weighted_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import LossSettings
from gopd_jax.types import PackedBatch, Params, TrainState

FIXED = SelfTeacherSettings()
# `sampler_gap` looks at one token in so many: a sampling rule needs all logits of a token at once.
RULED = 16


@struct.dataclass
class StepMetrics:
    """Numbers of one update.

    loss, grad_norm: float32 scalars, the gradient norm before clipping.
    grad_noise: float32 scalar, `noise.noise_share`; NaN with several domains.
    diagnostics: partial reductions by domain.
    finite: for each batch, bool [M] for each number that was checked, by name; True in skipped
        micro-batches.
    applied: bool scalar, whether the state was changed: everything was finite, and there was
        something to learn from.
    routing: of a mixture's layers; None for a dense model.
    """

    loss: jax.Array
    grad_norm: jax.Array
    grad_noise: jax.Array
    diagnostics: Diagnostics
    finite: tuple[dict[str, jax.Array], ...]
    applied: jax.Array
    routing: Routing | None = None


@struct.dataclass
class TokenValues:
    """What one update knew of each token, float32 [M, R, S], nats; 0 in skipped micro-batches.

    logprobs: the student's, before the update.
    advantages: those that the loss used.
    teacher_logprobs, reference_logprobs: where the step has computed them, from hidden states.
    """

    logprobs: jax.Array
    advantages: jax.Array
    teacher_logprobs: jax.Array | None = None
    reference_logprobs: jax.Array | None = None


def train_step(
    state: TrainState,
    *batches: PackedBatch,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    settings: LossSettings,
    num_domains: int,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
    loss_fn: Loss = weighted_loss,
    parked: bool = False,
    student: Callable[[Params], Params] | None = None,
    heads: FrozenHeads | None = None,
    self_teacher: SelfTeacherSettings = FIXED,
) -> tuple[TrainState, StepMetrics, tuple[TokenValues, ...]]:
    """One optimizer update from the packed batches of one update, each with rows of its own length.

    A scan sums the gradients of the micro-batches; the token weights carry every denominator, so
    nothing is divided here and the result does not depend on the split. Empty micro-batches are
    skipped. A batch with a number that is not finite, and one without any example, leave
    parameters and optimizer as they were.

    Args:
        state: donated by the caller's jit.
        batches: fields as in `PackedBatch`.
        settings: what the loss is told.
        num_domains: number of domains that the diagnostics tell apart.
        rule: what the samples were drawn by. It enters only `sampler_gap`; the loss is that of the
            plain distribution.
        num_ids: number of ids of the tokenizer; see `logprobs.token_logprobs`.
        loss_fn: the loss of a micro-batch, with the arguments and results of `weighted_loss`.
        parked: the arrays of the optimizer state are in the memory of the host, and return there.
        student: of the parameters that are trained, the tree that the model reads, where that is
            another one: the rest of it is frozen.
        heads: of teachers and reference, whose hidden states the batches have; None with the
            sampled estimator.
        self_teacher: how the teacher in the state follows the student, if there is one.

    Returns:
        The new state, the metrics, and the values of each token of each batch.
    """

    micro_loss = functools.partial(
        _micro_loss,
        model=model,
        rule=rule,
        num_ids=num_ids,
        loss_of=functools.partial(loss_fn, settings=settings, num_domains=num_domains),
        student=student,
        heads=heads,
        settings=settings,
    )

    (((loss, parts, counts), grads), diagnostics), found = _added_up(
        state.params, batches, micro_loss
    )
    tokens, finite = zip(*found, strict=True)
    grad_norm = optax.global_norm(grads)
    checked = [x for of_batch in finite for x in of_batch.values()]
    all_finite = jnp.isfinite(grad_norm) & jnp.all(jnp.concatenate(checked))
    applied = all_finite & (sum(batch.used for batch in batches) > 0)
    params, opt_state = _updated(state, grads, optimizer, applied, parked)
    # A micro-batch is of one domain, and domains differ by more than the draw of their samples.
    noise = noise_share(parts, grad_norm) if num_domains == 1 else jnp.array(jnp.nan)
    metrics = StepMetrics(loss, grad_norm, noise, diagnostics, finite, applied, counts)
    step = state.step + all_finite
    teacher = followed(state.teacher, params, step, self_teacher)
    return TrainState(step, params, opt_state, teacher), metrics, tokens


def followed(
    teacher: Params | None, student: Params, step: jax.Array, settings: SelfTeacherSettings
) -> Params | None:
    """A teacher that follows the student, after an update.

        average   teacher = decay * teacher + (1 - decay) * student
        refresh   teacher = student, at every `every`-th update

    Args:
        teacher: before it, or None.
        student: after it.
        step: updates done.
    """
    if teacher is None:
        return None
    if settings.follow == "average":
        return jax.tree.map(lambda t, s: t + (1 - settings.decay) * (s - t), teacher, student)
    return jax.tree.map(lambda t, s: jnp.where(step % settings.every == 0, s, t), teacher, student)


def _added_up(
    params: Params, batches: Sequence[PackedBatch], micro_loss: Callable[..., tuple]
) -> tuple[tuple, list[tuple[TokenValues, dict[str, jax.Array]]]]:
    """Sums and diagnostics of all micro-batches, and what each batch knew of its tokens.

    The sums: loss, parts of the gradient's norm, routing; gradients.
    """

    def accumulate(total, micro):
        (sums, diagnostics), value_and_grad = total, jax.value_and_grad(micro_loss, has_aux=True)
        (loss, (more, values, counts)), grads = value_and_grad(params, micro)
        of_micro = loss, part(grads, micro.weights), counts
        sums = jax.tree.map(jnp.add, sums, (of_micro, grads))
        return (sums, diagnostics.merge(more)), values

    def over(total, batch):
        """Adds up the micro-batches of one batch."""
        # The index of each micro-batch is scanned along with the rest, in the place of `used`.
        micros = batch.replace(used=jnp.arange(batch.tokens.shape[0]))
        finite = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes[1][1][1])

        def skip(total, micro):
            zeros = jax.tree.map(lambda x: jnp.zeros(micro.targets.shape), shapes[1][1][0])
            return total, (zeros, finite)

        def body(total, micro):
            return jax.lax.cond(micro.used < batch.used, accumulate, skip, total, micro)

        return jax.lax.scan(body, total, micros)

    first = jax.tree.map(lambda x: x[0], batches[0].replace(used=batches[0].used[None]))
    shapes = jax.eval_shape(micro_loss, params, first)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    no_counts = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1][2])
    nothing = jnp.zeros(()), no_parts(), no_counts
    total, found = ((nothing, zeros), shapes[1][0].emptied()), []
    for batch in batches:
        total, values = over(total, batch)
        found.append(values)
    return total, found


def exact_step(
    state: TrainState, heads: FrozenHeads, *given: Any, step: Callable[..., tuple]
) -> tuple:
    """`train_step`, or that of an adapter, with the heads of frozen models as an argument.

    Args:
        heads: of teachers and reference.
        given: the further arguments of `step`.
    """
    return step(state, *given, heads=heads)


def _micro_loss(
    params: Params,
    micro: PackedBatch,
    *,
    model: Decoder,
    rule: SamplingRule,
    num_ids: int | None,
    loss_of: Callable[..., tuple[jax.Array, LossDetails]],
    student: Callable[[Params], Params] | None,
    heads: FrozenHeads | None,
    settings: LossSettings,
) -> tuple[jax.Array, tuple[Diagnostics, tuple[TokenValues, dict[str, jax.Array]], Routing | None]]:
    """The loss of one micro-batch, its diagnostics, values of tokens, what is finite, routing."""
    params = student(params) if student else params
    rows = micro.tokens, micro.positions, micro.segments
    options = {"num_ids": num_ids, "frozen_head": bool(student)}
    trained = micro.weights > 0
    hidden_RSD, counts = counted(model, params, *rows, in_order=False)
    logprobs_of = functools.partial(_logprobs_of, hidden_RSD, params, micro.targets, **options)
    if heads is None:
        predictions = Predictions(*logprobs_of(trained))
    else:
        given = hidden_RSD, output_head(params), micro, heads, settings
        predictions = exact_predictions(*given, **options)
    if rule != PLAIN:
        some = _one_in(RULED, trained)
        found, _ = logprobs_of(some, rule=rule)
        ruled = jnp.where(some, found, jnp.nan)
        predictions = predictions.replace(sampler_logprobs=ruled)
    loss, details = loss_of(predictions, micro)
    exact = predictions.exact
    tokens = TokenValues(
        jax.lax.stop_gradient(predictions.logprobs),
        details.advantages,
        exact and exact.teacher_logprobs,
        exact and exact.reference_logprobs,
    )
    finite = {"loss": jnp.isfinite(loss), **finite_inputs(micro, tokens)}
    return loss, (details.diagnostics, (tokens, finite), counts)


def _logprobs_of(
    hidden_RSD: jax.Array,
    params: Params,
    targets_RS: jax.Array,
    wanted_RS: jax.Array,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """`token_logprobs` of hidden states in balanced order, which spreads padding over devices."""
    of_tokens = map(balanced, (targets_RS, wanted_RS))
    found = token_logprobs(hidden_RSD, output_head(params), *of_tokens, **options)
    return tuple(map(in_order, found))


def _one_in(number: int, trained_RS: jax.Array) -> jax.Array:
    """Every so many of the tokens, the first among them."""
    rank = jnp.cumsum(trained_RS.reshape(-1)).reshape(trained_RS.shape) - 1
    return trained_RS & (rank % number == 0)


def _updated(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    applied: jax.Array,
    parked: bool,
) -> tuple[Params, optax.OptState]:
    """Parameters and optimizer state after an update; as they were unless it is `applied`."""
    if parked:  # the moments do not come before the gradients are there
        grads, waiting = jax.lax.optimization_barrier((grads, state.opt_state))
        state = state.replace(opt_state=moments_to(jax.memory.Space.Device, waiting))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates), opt_state
    old = state.params, state.opt_state
    params, opt_state = jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)
    return params, moments_to(jax.memory.Space.Host, opt_state) if parked else opt_state


def finite_inputs(micro: PackedBatch, tokens: TokenValues) -> dict[str, jax.Array]:
    """Whether each kind of number of a micro-batch is finite wherever tokens are trained on.

    Returns:
        bool scalars by name, in the order in which a fault would spread.
    """
    checked = {
        "behaviour log-probs": micro.behaviour_logprobs,
        "teacher log-probs": _first(micro.teacher_logprobs, tokens.teacher_logprobs),
        "reference log-probs": _first(micro.reference_logprobs, tokens.reference_logprobs),
        "old log-probs": micro.old_logprobs,
        "student log-probs": tokens.logprobs,
        "advantages": tokens.advantages,
    }
    untrained = ~(micro.weights > 0)  # also where a weight is NaN
    return {
        name: jnp.all(jnp.isfinite(x) | untrained) for name, x in checked.items() if x is not None
    }


def _first(*several: jax.Array | None) -> jax.Array | None:
    return next((x for x in several if x is not None), None)


def score(
    params: Params,
    tokens_RS: jax.Array,
    positions_RS: jax.Array,
    segments_RS: jax.Array,
    targets_RS: jax.Array,
    wanted_RS: jax.Array,
    *,
    model: Decoder,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
) -> jax.Array:
    """Log-probs that a model gives the targets of a micro-batch.

    Args:
        tokens_RS, positions_RS, segments_RS, targets_RS: int32, as in `PackedBatch`.
        wanted_RS: bool, where the log-prob of the target is wanted.
        rule: log-probs of the distribution that this rule draws from.
        num_ids: number of ids of the tokenizer; see `logprobs.token_logprobs`.

    Returns:
        float32 [R, S], nats; exact zeros where nothing is wanted.
    """
    rows = tokens_RS, positions_RS, segments_RS
    hidden_RSD, _ = counted(model, params, *rows, in_order=False)
    given = hidden_RSD, params, targets_RS, wanted_RS
    return _logprobs_of(*given, rule=rule, num_ids=num_ids)[0]


def hidden_states(
    params: Params,
    tokens_RS: jax.Array,
    positions_RS: jax.Array,
    segments_RS: jax.Array,
    targets_RS: jax.Array,
    wanted_RS: jax.Array,
    *,
    model: Decoder,
) -> jax.Array:
    """The hidden states that a model's head would be applied to, with the arguments of `score`.

    Returns:
        [R, S, D] in the compute dtype, after the final norm; 0 where nothing is wanted.
    """
    del targets_RS
    hidden_RSD, _ = counted(model, params, tokens_RS, positions_RS, segments_RS, in_order=False)
    return jnp.where(wanted_RS[..., None], in_order(hidden_RSD), 0)
