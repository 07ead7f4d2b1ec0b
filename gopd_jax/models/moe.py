"""The mixture of experts that replaces the MLP in Qwen3-MoE.

In: x [B, T, D]. Out: the same shape. Every token goes to its `experts_per_token` best experts and
none is dropped: tokens are sorted by expert, and each expert multiplies its own run of them, a
grouped matrix product. Only the chosen experts compute. On a mesh each device routes its own
tokens; experts that are split among devices are reached as `expert_exchange` describes.
"""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gopd_jax.kernels import grouped_matmul
from gopd_jax.kernels.grouped_matmul import GroupedMatmul
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.expert_exchange import exchanged
from gopd_jax.models.experts import at_once
from gopd_jax.models.routing import COLLECTION, Routing, routing
from gopd_jax.runtime.mesh import DECODE_RULES, RULES

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
    def __call__(
        self, x_BTD: jax.Array, segments_BT: jax.Array | None = None, rows: str = "batch"
    ) -> jax.Array:
        """Runs the mixture.

        Args:
            x_BTD: activations.
            segments_BT: 0 where a token is padding; only for the counts of `models.routing`, which
                are made if their collection is mutable.
            rows: logical axis of B.
        """
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
        counting = self.is_mutable_collection(COLLECTION) and segments_BT is not None
        real_BT = segments_BT > 0 if counting else None
        run = functools.partial(
            _mixture,
            matmul=self.matmul,
            experts_per_token=c.experts_per_token,
            renormalise=c.norm_topk_prob,
        )
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.size > 1:
            run = functools.partial(_on_mesh, run, rows)
        out_BTD, counts = run(x_BTD, real_BT, *weights)
        if counting:
            self.sow(
                COLLECTION, "layer", counts, reduce_fn=lambda _, new: new, init_fn=lambda: None
            )
        return out_BTD.astype(x_BTD.dtype)


def _on_mesh(
    run: functools.partial,
    rows: str,
    x_BTD: jax.Array,
    real_BT: jax.Array | None,
    *weights: jax.Array,
) -> tuple[jax.Array, Routing | None]:
    """The mixture with each device of the mesh in use running it on its own rows.

    One sort of the tokens of all devices would gather the whole batch on each of them. Experts are
    whole on every data, fsdp and context rank, as in decode, and split over expert and tensor.
    """
    mesh = jax.sharding.get_abstract_mesh()
    B, counting = len(x_BTD), real_BT is not None
    split, over = (RULES["experts"], RULES["mlp"]), RULES[rows]
    padding = ((0, -B % math.prod(mesh.shape[a] for a in over)), (0, 0), (0, 0))
    args = [jnp.pad(x_BTD, padding)] + ([jnp.pad(real_BT, padding[:2])] if counting else [])
    whole = [
        PartitionSpec(*[DECODE_RULES[a] if a else None for a in axes]) for axes in AXES.values()
    ]

    def on_one(x, *rest):
        real, own = (rest[0], rest[1:]) if counting else (None, rest)
        out, counts = run(x, real, *own, axis=split[0] if mesh.shape[split[0]] > 1 else None)
        # Sums of the width's parts and counts of the devices, on an axis to add them up.
        return out[None], jax.tree.map(lambda x: x[None], counts)

    out, counts = jax.shard_map(
        on_one,
        in_specs=(*[PartitionSpec(over)] * len(args), *whole),
        out_specs=(PartitionSpec(split[1], over), PartitionSpec(over)),
        check_vma=False,  # the kernels of Pallas do not say along which axes their results vary
    )(*args, *weights)
    return jnp.sum(out, axis=0)[:B], jax.tree.map(lambda x: jnp.sum(x, axis=0), counts)


def _mixture(
    x_BTD: jax.Array,
    real_BT: jax.Array | None,
    router_DE: jax.Array,
    *experts: jax.Array,
    matmul: GroupedMatmul,
    experts_per_token: int,
    renormalise: bool,
    axis: str | None = None,
) -> tuple[jax.Array, Routing | None]:
    """The mixture of one device's tokens, float32, and the counts if `real_BT` is given.

    Letters: n tokens, k experts per token, m = n * k pairs of a token and one of its experts.
    `axis` is the mesh axis that the experts are split over, None if they are all here.
    """
    x_nD = x_BTD.reshape(-1, x_BTD.shape[-1])
    logits_nE = jnp.matmul(
        x_nD.astype(jnp.float32), router_DE.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST
    )
    probabilities_nE = jax.nn.softmax(logits_nE, axis=-1)
    share_nk, expert_nk = jax.lax.top_k(probabilities_nE, experts_per_token)
    if renormalise:
        share_nk = share_nk / jnp.sum(share_nk, axis=-1, keepdims=True)
    counts = None
    if real_BT is not None:
        counts = routing(probabilities_nE, expert_nk, real_BT.reshape(-1))
    if axis is None:
        out_nD = at_once(x_nD, share_nk, expert_nk, *experts, matmul)
    else:
        out_nD = exchanged(x_nD, share_nk, expert_nk, *experts, matmul=matmul, axis=axis)
    return out_nD.reshape(x_BTD.shape), counts
