"""The train step and the scorer: pure functions of parameters and one packed batch.

step: (state, batch with teacher and reference log-probs in it) -> (state, diagnostics, student log-probs).
score: (frozen parameters, batch, which micro-batches) -> log-probs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.heads import token_logprobs
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.settings import Clipping
from gopd_jax.types import PackedBatch, TrainState


def train_step(
    state: TrainState,
    batch: PackedBatch,
    *,
    model: Decoder,
    optimizer: optax.GradientTransformation,
    clipping: Clipping,
    num_domains: int,
    rule: SamplingRule = PLAIN,
    devices: int = 1,
) -> tuple[TrainState, dict[str, Any], jax.Array]:
    """One optimizer update from one packed batch.

    Gradients of the micro-batches are summed by a scan; the weights in the batch already carry every denominator, so nothing
    is divided here and the result does not depend on the split. Empty micro-batches are skipped.

    Args:
        state: donated by the caller's jit. batch: fields as in `PackedBatch`.
        rule: what the samples were drawn by; it enters the diagnostics alone (`sampler_gap`), the loss is that of the plain
            distribution. devices: over how many devices rows are spread.

    Returns:
        the new state; {"loss", "grad_norm", "diagnostics"}; the student's log-probs before the update, float32 [M, R, S].
    """

    def micro_loss(params, micro):
        hidden_RSD = model.apply({"params": params}, micro.tokens, micro.positions, micro.segments)
        logprobs, entropy = token_logprobs(
            hidden_RSD, output_head(params), micro.targets, devices=devices
        )
        ruled = None
        if rule != PLAIN:
            fixed = jax.lax.stop_gradient((hidden_RSD, output_head(params)))
            ruled, _ = token_logprobs(*fixed, micro.targets, rule=rule, devices=devices)
        loss, diagnostics = weighted_loss(logprobs, entropy, micro, clipping, num_domains, ruled)
        return loss, (diagnostics, logprobs)

    def accumulate(total, micro):
        (loss, (diagnostics, logprobs)), grads = jax.value_and_grad(micro_loss, has_aux=True)(
            state.params, micro
        )
        return (
            jax.tree.map(jnp.add, total[0], (loss, grads)),
            total[1].merge(diagnostics),
        ), logprobs

    def skip(total, micro):
        return total, jnp.zeros(micro.targets.shape, jnp.float32)

    def body(total, indexed):
        index, micro = indexed
        return jax.lax.cond(index < batch.used, accumulate, skip, total, micro)

    micros = batch.replace(
        used=jnp.arange(batch.tokens.shape[0])
    )  # scanned along with the rest: the index of each
    shapes = jax.eval_shape(micro_loss, state.params, jax.tree.map(lambda x: x[0], micros))[1][0]
    start = (
        (jnp.zeros(()), jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)),
        shapes.emptied(),
    )
    ((loss, grads), diagnostics), logprobs = jax.lax.scan(body, start, (micros.used, micros))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"loss": loss, "grad_norm": optax.global_norm(grads), "diagnostics": diagnostics}
    return TrainState(state.step + 1, params, opt_state), metrics, logprobs


def score(
    params: Any,
    batch: PackedBatch,
    active_M: jax.Array,
    *,
    model: Decoder,
    rule: SamplingRule = PLAIN,
    devices: int = 1,
) -> jax.Array:
    """Log-probs, float32 [M, R, S], that a model gives the targets of the active micro-batches; exact zeros elsewhere.

    They are those of the plain distribution, or of the one that a sampling rule draws from.

    A teacher is active on the micro-batches of its own domain, the reference where lambda != 1: nothing else is computed.
    """

    def forward(tokens, positions, segments, targets):
        hidden_RSD = model.apply({"params": params}, tokens, positions, segments)
        return token_logprobs(hidden_RSD, output_head(params), targets, rule=rule, devices=devices)[
            0
        ]

    def body(_, args):
        active, *micro = args
        zeros = jnp.zeros(micro[-1].shape, jnp.float32)
        return None, jax.lax.cond(active, forward, lambda *_: zeros, *micro)

    return jax.lax.scan(
        body, None, (active_M, batch.tokens, batch.positions, batch.segments, batch.targets)
    )[1]
