"""Weight sync: from the student's parameters to decode weights.

In: parameters as they are trained, float32, layers stacked, split over all axes but data. Out: the
weights that `models.decoder.decode` reads: cast, one tree per layer, in int8 on request, whole in
every tensor group or as split as the parameters are. One device program does all of it; nothing
passes through the host.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, output_head, unstack, unstacked_axes
from gopd_jax.runtime.mesh import DECODE_RULES, RULES, kv_copies, shardings
from gopd_jax.types import Params

# The matrices of a layer that int8 weights round, and their axis of output channels. Embedding,
# head and norms stay as they are.
CHANNELS = {"query": 0, "key": 0, "value": 0, "out": 1, "gate": 1, "up": 1, "down": 1}


def decode_weights(
    params: Params, *, dtype: DTypeLike, int8: bool, gathered: bool = False
) -> Params:
    """Decode weights made from the student's parameters.

    Args:
        params: the parameters, as `models.decoder.abstract_params` describes them.
        dtype: compute dtype, and that of all weights that are not rounded.
        int8: whether the matrices of the layers are rounded to int8.
        gathered: whether they stay split, see `gathered.Gathered`. The head is split in another way
            than the embedding then, so that it is an array of its own.
    """
    weights = unstack(params, dtype)
    if gathered:
        weights = weights | {"head": output_head(weights)}
    if not int8:
        return weights
    return weights | {"layers": tuple(_quantize(layer) for layer in weights["layers"])}


def decode_weight_shardings(
    config: ModelConfig, mesh: Mesh, dtype: DTypeLike, int8: bool, gathered: bool = False
) -> Any:
    """The sharding of each of the decode weights."""
    shapes = abstract_weights(config, mesh, dtype, int8, gathered)
    return jax.tree.map(lambda x: x.sharding, shapes)


def head_axes(config: ModelConfig, mesh: Mesh) -> tuple[str, ...]:
    """The mesh axes over which the rows of the head are split where weights are gathered.

    Those of the tensor axis alone if the vocabulary does not divide over all of them.
    """
    over = ("tensor", *RULES["embed"])
    ways = math.prod(mesh.shape[axis] for axis in over)
    return ("tensor",) if config.vocab_size % ways else over


def abstract_weights(
    config: ModelConfig, mesh: Mesh, dtype: DTypeLike, int8: bool, gathered: bool = False
) -> Params:
    """The decode weights as ShapeDtypeStructs with shardings; nothing is allocated."""

    def shapes(int8: bool) -> Params:
        make = functools.partial(decode_weights, dtype=dtype, int8=int8, gathered=gathered)
        return jax.eval_shape(make, abstract_params(config))

    def place(sharding: NamedSharding, matrix: Any) -> Any:
        """A parameter, or the int8 array and the scale that stand for it."""

        def one(x):
            spec = (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))
            # An axis of size 1, which a scale has, is not sharded.
            spec = [None if size == 1 else axis for size, axis in zip(x.shape, spec, strict=True)]
            sharded = NamedSharding(mesh, PartitionSpec(*spec))
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharded)

        return jax.tree.map(one, matrix)

    # Here the heads of a matrix are one axis with their sizes, which may divide where heads do not.
    odd = {"kv_heads": None} if kv_copies(config.kv_heads, mesh) > 1 else {}
    axes, rules = unstacked_axes(config), (RULES if gathered else DECODE_RULES) | odd
    if gathered:
        axes |= {"embedding": PartitionSpec(None, "embed"), "head": PartitionSpec("head", None)}
        rules |= {"head": head_axes(config, mesh)}
    by_parameter = shardings(mesh, shapes(int8=False), axes, rules)
    return jax.tree.map(
        place, by_parameter, shapes(int8), is_leaf=lambda x: isinstance(x, NamedSharding)
    )


def _quantize(layer: Params) -> Params:
    """The matrices of a layer as qwix arrays: int8, with one scale for each output channel."""
    import qwix  # takes half a second to import, and only int8 weights need it

    def one(path, x):
        channel = CHANNELS.get(path[-1].key)
        # Experts [E, D, F] stay as they are: `ragged_dot` does not take int8.
        if channel is None or x.ndim == 3:
            return x
        return qwix.quantize(x, jnp.int8, channelwise_axes=[channel], scale_dtype=x.dtype)

    return jax.tree_util.tree_map_with_path(one, layer)
