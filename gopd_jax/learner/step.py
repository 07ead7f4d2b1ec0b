"""The train step and the scorer: pure functions of parameters and one packed batch.

train_step: (state, batch with teacher and reference log-probs) -> (state, metrics, tokens)
score:      (frozen parameters, batch, active micro-batches) -> log-probs
"""

import functools

from flax import struct
import jax
import jax.numpy as jnp
import optax

from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.objective.diagnostics import Diagnostics
from gopd_jax.objective.loss import Loss, weighted_loss
from gopd_jax.objective.settings import Clipping
from gopd_jax.types import PackedBatch, Params, TrainState


@struct.dataclass
class StepMetrics:
    """Numbers of one update.

    loss, grad_norm: float32 scalars, the gradient norm before clipping.
    diagnostics: partial reductions by domain.
    finite: bool [M] for each number that was checked, by name; True in skipped micro-batches.
    applied: bool scalar, whether the state was changed: everything was finite, and there was
        something to learn from.
    """

    loss: jax.Array
    grad_norm: jax.Array
    diagnostics: Diagnostics
    finite: dict[str, jax.Array]
    applied: jax.Array


@struct.dataclass
class TokenValues:
    """What one update knew of each token, float32 [M, R, S], nats; 0 in skipped micro-batches.

    logprobs: the student's, before the update.
    advantages: those that the loss used.
    """

    logprobs: jax.Array
    advantages: jax.Array


def train_step(
    state: TrainState,
    batch: PackedBatch,
    *,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    clipping: Clipping,
    num_domains: int,
    rule: SamplingRule = PLAIN,
    likelihood: bool = False,
    num_ids: int | None = None,
    loss_fn: Loss = weighted_loss,
) -> tuple[TrainState, StepMetrics, TokenValues]:
    """One optimizer update from one packed batch.

    A scan sums the gradients of the micro-batches; the token weights carry every denominator, so
    nothing is divided here and the result does not depend on the split. Empty micro-batches are
    skipped. A batch with a number that is not finite, and one without any example, leave
    parameters and optimizer as they were.

    Args:
        state: donated by the caller's jit.
        batch: fields as in `PackedBatch`.
        clipping: limits of the policy loss.
        num_domains: number of domains that the diagnostics tell apart.
        rule: what the samples were drawn by. It enters only `sampler_gap`; the loss is that of the
            plain distribution.
        likelihood: the loss is the negative log-likelihood (SFT); see `objective.loss`.
        num_ids: number of ids of the tokenizer; see `logprobs.token_logprobs`.
        loss_fn: the loss of a micro-batch, with the arguments and results of `weighted_loss`.

    Returns:
        The new state, the metrics, and the values of each token.
    """
    logprobs_of = functools.partial(token_logprobs, num_ids=num_ids)

    def micro_loss(params, micro):
        hidden_RSD = model.apply({"params": params}, micro.tokens, micro.positions, micro.segments)
        head_VD = output_head(params)
        trained = micro.weights > 0
        logprobs, entropy = logprobs_of(hidden_RSD, head_VD, micro.targets, trained)
        ruled = None
        if rule != PLAIN:
            ruled, _ = logprobs_of(hidden_RSD, head_VD, micro.targets, trained, rule=rule)
        loss, details = loss_fn(logprobs, entropy, micro, clipping, num_domains, ruled, likelihood)
        tokens = TokenValues(jax.lax.stop_gradient(logprobs), details.advantages)
        finite = {"loss": jnp.isfinite(loss), **finite_inputs(micro, tokens)}
        return loss, (details.diagnostics, (tokens, finite))

    def accumulate(total, micro):
        (sums, diagnostics), value_and_grad = total, jax.value_and_grad(micro_loss, has_aux=True)
        (loss, (more, values)), grads = value_and_grad(state.params, micro)
        sums = jax.tree.map(jnp.add, sums, (loss, grads))
        return (sums, diagnostics.merge(more)), values

    def skip(total, micro):
        zeros = jnp.zeros(micro.targets.shape, jnp.float32)
        return total, (TokenValues(zeros, zeros), all_true)

    def body(total, indexed):
        index, micro = indexed
        return jax.lax.cond(index < batch.used, accumulate, skip, total, micro)

    # The index of each micro-batch is scanned along with the rest, in the place of `used`.
    micros = batch.replace(used=jnp.arange(batch.tokens.shape[0]))
    shapes = jax.eval_shape(micro_loss, state.params, jax.tree.map(lambda x: x[0], micros))
    diagnostics = shapes[1][0].emptied()
    all_true = jax.tree.map(lambda x: jnp.ones(x.shape, x.dtype), shapes[1][1][1])
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
    start = ((jnp.zeros(()), zeros), diagnostics)
    ((loss, grads), diagnostics), (tokens, finite) = jax.lax.scan(
        body, start, (micros.used, micros)
    )
    grad_norm = optax.global_norm(grads)
    all_finite = jnp.isfinite(grad_norm) & jnp.all(jnp.stack(list(finite.values())))
    applied = all_finite & (batch.used > 0)
    params, opt_state = _updated(state, grads, optimizer, applied)
    metrics = StepMetrics(loss, grad_norm, diagnostics, finite, applied)
    return TrainState(state.step + all_finite, params, opt_state), metrics, tokens


def _updated(
    state: TrainState,
    grads: Params,
    optimizer: optax.GradientTransformation,
    applied: jax.Array,
) -> tuple[Params, optax.OptState]:
    """Parameters and optimizer state after an update; as they were unless it is `applied`."""
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    new = optax.apply_updates(state.params, updates), opt_state
    old = state.params, state.opt_state
    return jax.tree.map(lambda n, o: jnp.where(applied, n, o), new, old)


def finite_inputs(micro: PackedBatch, tokens: TokenValues) -> dict[str, jax.Array]:
    """Whether each kind of number of a micro-batch is finite wherever tokens are trained on.

    Returns:
        bool scalars by name, in the order in which a fault would spread.
    """
    checked = {
        "behaviour log-probs": micro.behaviour_logprobs,
        "teacher log-probs": micro.teacher_logprobs,
        "reference log-probs": micro.reference_logprobs,
        "old log-probs": micro.old_logprobs,
        "student log-probs": tokens.logprobs,
        "advantages": tokens.advantages,
    }
    untrained = ~(micro.weights > 0)  # also where a weight is NaN
    return {
        name: jnp.all(jnp.isfinite(x) | untrained) for name, x in checked.items() if x is not None
    }


def score(
    params: Params,
    batch: PackedBatch,
    active_M: jax.Array,
    *,
    model: Decoder,
    rule: SamplingRule = PLAIN,
    num_ids: int | None = None,
) -> jax.Array:
    """Log-probs that a model gives the targets of the active micro-batches.

    A teacher is active on the micro-batches of its own domain, the reference where lambda needs it:
    nothing else is computed.

    Args:
        batch: tokens, positions, segments, targets and weights are read.
        active_M: bool [M].
        rule: log-probs of the distribution that this rule draws from.
        num_ids: number of ids of the tokenizer; see `logprobs.token_logprobs`.

    Returns:
        float32 [M, R, S], nats; exact zeros in micro-batches that are not active, and where no
        token is trained on.
    """

    def forward(tokens, positions, segments, targets, weights):
        hidden_RSD = model.apply({"params": params}, tokens, positions, segments)
        args = hidden_RSD, output_head(params), targets, weights > 0
        return token_logprobs(*args, rule=rule, num_ids=num_ids)[0]

    def body(_, args):
        active, *micro = args
        zeros = jnp.zeros(micro[-1].shape, jnp.float32)
        return None, jax.lax.cond(active, forward, lambda *_: zeros, *micro)

    read = (batch.tokens, batch.positions, batch.segments, batch.targets, batch.weights)
    return jax.lax.scan(body, None, (active_M, *read))[1]
