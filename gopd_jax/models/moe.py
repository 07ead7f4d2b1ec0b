"""The mixture of experts that takes the place of the MLP in Qwen3-MoE.

In: x [B, T, D]. Out: the same shape. Every token goes to its `experts_per_token` best experts, none is dropped: tokens are
sorted by expert and each expert multiplies its own run of them (`jax.lax.ragged_dot`): the work of the chosen experts alone.
"""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from gopd_jax.models.config import ModelConfig
from gopd_jax.runtime.mesh import RULES

_normal = nn.initializers.normal(0.02)


class Moe(nn.Module):
    """sum over the chosen experts e of p_e * down_e(silu(gate_e x) * up_e x), p = softmax(router x).

    The router's product, softmax and weights are float32 whatever the compute dtype; transformers takes the product in the
    compute dtype and the softmax in float32, so that with bfloat16 the two may choose another expert on a near tie.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD):
        c = self.config

        def matrix(name, shape, axes):
            return self.param(name, nn.with_logical_partitioning(_normal, axes), shape)

        into, out = ("experts", "embed", "mlp"), ("experts", "mlp", "embed")
        router_DE = matrix("router", (c.width, c.experts), ("embed", "experts"))
        gate_EDF = matrix("gate", (c.experts, c.width, c.moe_mlp_width), into)
        up_EDF = matrix("up", (c.experts, c.width, c.moe_mlp_width), into)
        down_EFD = matrix("down", (c.experts, c.moe_mlp_width, c.width), out)
        run = functools.partial(
            _mixture, experts_per_token=c.experts_per_token, renormalise=c.norm_topk_prob
        )
        mesh = jax.sharding.get_abstract_mesh()
        if (
            not mesh.empty
            and x_BTD.shape[0] % math.prod(mesh.shape[a] for a in RULES["batch"]) == 0
        ):
            # Each device sorts its own tokens: a sort over all of them would gather the whole batch on every device.
            rows, tensor = P(RULES["batch"]), RULES["mlp"]
            run = jax.shard_map(
                functools.partial(run, tensor=tensor),
                in_specs=(rows, P(), P(None, None, tensor), P(None, None, tensor), P(None, tensor)),
                out_specs=rows,
            )
        return run(x_BTD, router_DE, gate_EDF, up_EDF, down_EFD)


def _mixture(
    x_BTD, router_DE, gate_EDF, up_EDF, down_EFD, *, experts_per_token, renormalise, tensor=None
):
    """The mixture of one device's tokens. tensor: mesh axis over which the experts' width is cut, or None."""
    E, D = router_DE.shape[1], x_BTD.shape[-1]
    x_nD = x_BTD.reshape(-1, D)
    logits_nE = jnp.matmul(
        x_nD.astype(jnp.float32), router_DE.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    share_nk, expert_nk = jax.lax.top_k(jax.nn.softmax(logits_nE, axis=-1), experts_per_token)
    if renormalise:
        share_nk = share_nk / jnp.sum(share_nk, axis=-1, keepdims=True)

    order = jnp.argsort(expert_nk.reshape(-1), stable=True)  # by expert, then by token
    sizes_E = jnp.bincount(expert_nk.reshape(-1), length=E).astype(jnp.int32)
    sorted_mD = jnp.take(x_nD, order // experts_per_token, axis=0)

    def product(x, kernel):
        return jax.lax.ragged_dot(x, kernel.astype(x.dtype), sizes_E)

    hidden_mF = nn.silu(product(sorted_mD, gate_EDF)) * product(sorted_mD, up_EDF)
    out_mD = product(hidden_mF, down_EFD)
    out_nkD = jnp.take(out_mD, jnp.argsort(order), axis=0).reshape(-1, experts_per_token, D)
    out_nD = jnp.sum(out_nkD.astype(jnp.float32) * share_nk[..., None], axis=1)
    if tensor is not None:
        out_nD = jax.lax.psum(out_nD, tensor)
    return out_nD.astype(x_BTD.dtype).reshape(x_BTD.shape)
