"""The student's parameters laid out for decode: cast, unstacked and resharded by one device program, int8 if asked for."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, unstack, unstacked_axes
from gopd_jax.runtime.mesh import DECODE_RULES, shardings

# Matrices of a layer that int8 weights round, and their axis of output channels. Embedding, head and norms stay as they are.
CHANNELS = {"query": 0, "key": 0, "value": 0, "out": 1, "gate": 1, "up": 1, "down": 1}


def make_lay_out(config: ModelConfig, mesh: Mesh, dtype: Any, int8: bool) -> Callable[[Any], Any]:
    """The jitted program: parameters as trained -> weights for `models.decode`, each whole on every data and fsdp rank."""
    places = jax.tree.map(lambda x: x.sharding, abstract_weights(config, mesh, dtype, int8))
    return jax.jit(functools.partial(_lay_out, dtype=dtype, int8=int8), out_shardings=places)


def abstract_weights(config: ModelConfig, mesh: Mesh, dtype: Any, int8: bool) -> Any:
    """What `make_lay_out`'s program returns, as ShapeDtypeStructs with shardings."""
    abstract = abstract_params(config)
    plain = jax.eval_shape(functools.partial(_lay_out, dtype=dtype, int8=False), abstract)
    places = shardings(mesh, plain, unstacked_axes(config), DECODE_RULES)
    shapes = jax.eval_shape(functools.partial(_lay_out, dtype=dtype, int8=int8), abstract)

    def placed(
        place, shape
    ):  # a parameter, or the int8 array and scale in its place: a scale is not cut where its size is 1
        def one(x):
            spec = (*place.spec, *[None] * (x.ndim - len(place.spec)))
            cut = [None if size == 1 else axis for size, axis in zip(x.shape, spec, strict=True)]
            return jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, PartitionSpec(*cut))
            )

        return jax.tree.map(one, shape)

    return jax.tree.map(placed, places, shapes, is_leaf=lambda x: isinstance(x, NamedSharding))


def _lay_out(params: Any, dtype: Any, int8: bool) -> Any:
    weights = unstack(params, dtype)
    return (
        weights | {"layers": tuple(_quantize(layer) for layer in weights["layers"])}
        if int8
        else weights
    )


def _quantize(layer: Any) -> Any:
    """The matrices of a layer as qwix arrays: int8 and one scale, in the compute dtype, for each output channel."""
    import qwix  # half a second; only who asks for int8 weights waits for it

    def one(path, x):
        channel = CHANNELS.get(path[-1].key)
        if (
            channel is None or x.ndim == 3
        ):  # experts [E, D, F] stay as they are: ragged_dot takes no int8
            return x
        return qwix.quantize(x, jnp.int8, channelwise_axes=[channel], scale_dtype=x.dtype)

    return jax.tree_util.tree_map_with_path(one, layer)
