"""The mixture of experts that replaces the MLP in Qwen3-MoE.

In: x [B, T, D]. Out: the same shape. Every token goes to its `experts_per_token` best experts and
none is dropped: tokens are sorted by expert, and each expert multiplies its own run of them, a
grouped matrix product. Only the chosen experts compute.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gopd_jax.kernels import grouped_matmul
from gopd_jax.kernels.grouped_matmul import GroupedMatmul
from gopd_jax.models.config import ModelConfig
from gopd_jax.runtime.mesh import DECODE_RULES, RULES, rows_multiple

# Logical axes of the parameters.
AXES = {
    "router": ("embed", None),
    "gate": ("experts", "expert_embed", "mlp"),
    "up": ("experts", "expert_embed", "mlp"),
    "down": ("experts", "mlp", "expert_embed"),
}

_normal = nn.initializers.normal(0.02)


class Moe(nn.Module):
    """sum_e p_e * down_e(silu(gate_e x) * up_e x) over the chosen experts e, p = softmax(router x).

    The router's product, its softmax and the weights p are float32 whatever the compute dtype.
    transformers computes the product in the compute dtype, so with bfloat16 the two may choose
    different experts on a near tie.
    """

    config: ModelConfig
    matmul: GroupedMatmul = grouped_matmul.xla

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c = self.config
        shapes = {
            "router": (c.width, c.experts),
            "gate": (c.experts, c.width, c.moe_mlp_width),
            "up": (c.experts, c.width, c.moe_mlp_width),
            "down": (c.experts, c.moe_mlp_width, c.width),
        }
        weights = [
            self.param(name, nn.with_logical_partitioning(_normal, AXES[name]), shape)
            for name, shape in shapes.items()
        ]
        run = functools.partial(
            _mixture,
            matmul=self.matmul,
            experts_per_token=c.experts_per_token,
            renormalise=c.norm_topk_prob,
        )
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.empty and x_BTD.shape[0] % rows_multiple(mesh) == 0:
            # Each device sorts its own tokens; one sort over all of them would gather the whole
            # batch on every device. Experts are whole on every data and fsdp rank, as in decode.
            rows = PartitionSpec(RULES["batch"])
            whole = [
                PartitionSpec(*[DECODE_RULES[a] if a else None for a in AXES[name]])
                for name in shapes
            ]
            run = jax.shard_map(
                functools.partial(run, width_axis=RULES["mlp"]),
                in_specs=(rows, *whole),
                out_specs=rows,
            )
        return run(x_BTD, *weights)


def _mixture(
    x_BTD: jax.Array,
    router_DE: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    *,
    matmul: GroupedMatmul,
    experts_per_token: int,
    renormalise: bool,
    width_axis: str | None = None,
) -> jax.Array:
    """The mixture of one device's tokens.

    Letters: n tokens, k experts per token, m = n * k pairs of a token and one of its experts.
    `width_axis` is the mesh axis that the experts' width F is sharded over, None without a mesh.
    """
    E, D = router_DE.shape[1], x_BTD.shape[-1]
    x_nD = x_BTD.reshape(-1, D)
    logits_nE = jnp.matmul(
        x_nD.astype(jnp.float32), router_DE.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    share_nk, expert_nk = jax.lax.top_k(jax.nn.softmax(logits_nE, axis=-1), experts_per_token)
    if renormalise:
        share_nk = share_nk / jnp.sum(share_nk, axis=-1, keepdims=True)

    order_m = jnp.argsort(expert_nk.reshape(-1), stable=True)  # by expert, then by token
    sizes_E = jnp.bincount(expert_nk.reshape(-1), length=E).astype(jnp.int32)
    sorted_mD = jnp.take(x_nD, order_m // experts_per_token, axis=0)

    def product(rows, matrices):
        return matmul(rows, matrices.astype(rows.dtype), sizes_E)

    hidden_mF = nn.silu(product(sorted_mD, gate_EDF)) * product(sorted_mD, up_EDF)
    out_mD = product(hidden_mF, down_EFD)
    out_nkD = jnp.take(out_mD, jnp.argsort(order_m), axis=0).reshape(-1, experts_per_token, D)
    out_nD = jnp.sum(out_nkD.astype(jnp.float32) * share_nk[..., None], axis=1)
    if width_axis is not None:
        out_nD = jax.lax.psum(out_nD, width_axis)
    return out_nD.astype(x_BTD.dtype).reshape(x_BTD.shape)
