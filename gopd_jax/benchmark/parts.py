"""How close the MLP and the head come to the peak of a large matrix product.

In: a learner and what it packed. Out: seconds, and shares of the peak. Runs the functions that the
model runs, on random numbers in the shape of a micro-batch; parameters are float32, as in a train
step.
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.benchmark.machine import best_seconds
from gopd_jax.learner.flops import block_elements
from gopd_jax.learner.learner import Learner, Packed, put
from gopd_jax.learner.operations import executed_work
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Mlp
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.models.moe import Moe
from gopd_jax.runtime.mesh import batch_sharding

# Forward, and the gradients of both factors; the head computes its logits again for these.
MLP_PASSES, HEAD_PASSES, HEAD_USEFUL_PASSES = 3, 4, 3


def parts(learner: Learner, packed: Packed, peak: float) -> dict[str, float]:
    """Forward and backward of one layer's MLP and of the head, on the first micro-batch.

    Args:
        learner: whose model and mesh these are.
        packed: its first micro-batch gives the shape, and where a log-prob is wanted.
        peak: operations per second of all devices.

    Returns:
        mlp_seconds, head_seconds: of one layer and one micro-batch, the best of several tries, as
            the peak is.
        mlp_of_peak: 3 passes over all positions, per second and over the peak.
        head_of_peak: 4 passes, for logits are computed again, over whole chunks of positions.
        head_useful_of_peak: 3 passes over the wanted positions alone.
        mlp_and_head_of_peak: what the MLPs of all layers and the head run, in their time together.
    """
    model, batch = learner.student, packed.batches[0]
    R, S = batch.tokens.shape[1:]
    segments_MRS, weights_MRS = (np.asarray(x[:1]) for x in (batch.segments, batch.weights))
    work = executed_work(
        segments_MRS, weights_MRS > 0, model.vocab_size, learner.attention, learner.devices
    )
    position = 2 * model.vocab_size * model.width
    mlp_flops = MLP_PASSES * 2 * R * S * _mlp_elements(model)
    head_flops = HEAD_PASSES * position * work.predictions
    useful_flops = HEAD_USEFUL_PASSES * position * np.count_nonzero(weights_MRS)

    rows = batch_sharding(learner.mesh)
    rng = np.random.default_rng(0)
    hidden_RSD = rng.standard_normal((R, S, model.width), np.float32).astype(learner.dtype)
    hidden_RSD = put(hidden_RSD, rows)
    wanted_RS = put(weights_MRS[0] > 0, rows)
    with jax.set_mesh(learner.mesh):
        mlp = _mlp_seconds(learner, hidden_RSD)
        head = _head_seconds(model, hidden_RSD, put(np.asarray(batch.targets[0]), rows), wanted_RS)
    both = model.layers * mlp_flops + head_flops, model.layers * mlp + head
    return {
        "mlp_seconds": mlp,
        "mlp_of_peak": mlp_flops / mlp / peak,
        "head_seconds": head,
        "head_of_peak": head_flops / head / peak,
        "head_useful_of_peak": useful_flops / head / peak,
        "mlp_and_head_of_peak": both[0] / both[1] / peak,
    }


def _mlp_elements(model: ModelConfig) -> int:
    """Elements of the MLP's matrices that one token is multiplied with."""
    attention = model.width * model.head_size * 2 * (model.heads + model.kv_heads)
    return block_elements(model) - attention


def _mlp_seconds(learner: Learner, hidden_RSD: jax.Array) -> float:
    model = learner.student
    module = Moe(model, learner.decoder(model).matmul) if model.experts else Mlp(model)
    params = nn.meta.unbox(jax.jit(module.init)(jax.random.key(0), hidden_RSD))

    @jax.jit
    def run(params: Any, x_RSD: jax.Array, grad_RSD: jax.Array) -> Any:
        out, backward = jax.vjp(module.apply, params, x_RSD)
        return out, backward(grad_RSD)

    return best_seconds(lambda: run(params, hidden_RSD, hidden_RSD))


def _head_seconds(
    model: ModelConfig, hidden_RSD: jax.Array, targets_RS: jax.Array, wanted_RS: jax.Array
) -> float:
    head_VD = 0.02 * jax.random.normal(jax.random.key(0), (model.vocab_size, model.width))

    @jax.jit
    def run(hidden_RSD: jax.Array, head_VD: jax.Array, *tokens: jax.Array) -> Any:
        out, backward = jax.vjp(lambda x, w: token_logprobs(x, w, *tokens), hidden_RSD, head_VD)
        return out, backward((jnp.ones_like(out[0]), jnp.zeros_like(out[1])))

    return best_seconds(lambda: run(hidden_RSD, head_VD, targets_RS, wanted_RS))
