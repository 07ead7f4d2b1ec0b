"""Decode weights that stay split over the devices; each layer is gathered where it is used.

In: decode weights split over the axes that hold slots. Out: a whole layer for each tensor group,
the hidden states that tokens begin with, and logits. It takes the memory of two layers instead of
that of all, and each token waits for the weights on their way between the devices. Embedding and
head are never gathered: there the tokens travel.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.embedding import embed
from gopd_jax.rollout.weights import abstract_weights, head_axes
from gopd_jax.runtime.mesh import RULES
from gopd_jax.types import Params


@dataclasses.dataclass(frozen=True)
class Gathered:
    """How a program reads decode weights that are split over a mesh.

    config, mesh, dtype, int8: as `abstract_weights` takes them.
    """

    config: ModelConfig
    mesh: Mesh
    dtype: DTypeLike
    int8: bool

    @functools.cached_property
    def _whole(self) -> Params:
        """The PartitionSpec of each weight of a layer where it is used."""
        weights = abstract_weights(self.config, self.mesh, self.dtype, self.int8)
        return jax.tree.map(lambda x: x.sharding.spec, weights["layers"][0])

    def layer(self, layer: Params, after: jax.Array) -> Params:
        """The weights of a layer, whole for each tensor group.

        Args:
            after: hidden states; the layer is not gathered before they are known. XLA would gather
                all layers before the loop over tokens otherwise, and keep them.
        """
        layer, _ = jax.lax.optimization_barrier((layer, after))
        return jax.tree.map(jax.lax.with_sharding_constraint, layer, self._whole)

    def embed(self, embedding_VD: jax.Array, tokens_BT: jax.Array) -> jax.Array:
        """The embedding of each token, [B, T, D]; the table is split by width."""
        return embed(embedding_VD, tokens_BT, embedding_VD.dtype, rows="slots")

    def logits(self, hidden_BD: jax.Array, head_VD: jax.Array) -> jax.Array:
        """float32 [B, V]. Each device multiplies the slots of all with its part of the rows."""
        over = head_axes(self.config, self.mesh)
        others = tuple(axis for axis in over if axis != "tensor")
        slots = PartitionSpec(RULES["slots"])

        def one_device(hidden_bD, head_vD):
            hidden = jax.lax.all_gather(hidden_bD, others, axis=0, tiled=True)
            part = logits(hidden, head_vD)
            return jax.lax.all_to_all(part, others, split_axis=0, concat_axis=1, tiled=True)

        if math.prod(self.mesh.shape[axis] for axis in others) == 1:
            return logits(hidden_BD, head_VD)
        run = jax.shard_map(
            one_device,
            in_specs=(slots, PartitionSpec(over)),
            out_specs=PartitionSpec(*slots, "tensor"),
            check_vma=False,
        )
        return run(hidden_BD, head_VD)


def logits(hidden_BD: jax.Array, head_VD: jax.Array) -> jax.Array:
    """float32 [B, V]; for weights that are whole."""
    return jnp.einsum("bd,vd->bv", hidden_BD, head_VD, preferred_element_type=jnp.float32)
