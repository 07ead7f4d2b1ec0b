"""The student's parameters laid out for decode: cast, unstacked and resharded by one device program, int8 if asked for."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gopd_jax.models import ModelConfig, abstract_params, logical_axes, unstack
from gopd_jax.runtime.mesh import DECODE_RULES, shardings

# Matrices of a layer that int8 weights round, and the axes that a product sums over. Embedding, head and norms stay as they
# are.
SUMMED_AXES = {"query": (0,), "key": (0,), "value": (0,), "out": (0, 1), "gate": (0,), "up": (0,), "down": (0,)}


def make_lay_out(config: ModelConfig, mesh: Mesh, dtype: Any, int8: bool) -> Callable[[Any], Any]:
    """The jitted program: parameters as trained -> weights for `models.decode`, each whole on every data and fsdp rank."""
    abstract = abstract_params(config)
    per_layer = jax.eval_shape(functools.partial(unstack, dtype=dtype), abstract)
    out = shardings(mesh, per_layer, _unstack_axes(logical_axes(config), config.layers), DECODE_RULES)

    def lay_out(params: Any) -> Any:
        weights = unstack(params, dtype)
        return weights | {"layers": tuple(_quantize(layer) for layer in weights["layers"])} if int8 else weights

    if int8:
        shapes = jax.eval_shape(lay_out, abstract)
        out["layers"] = tuple(_like(s, layer) for s, layer in zip(shapes["layers"], out["layers"], strict=True))
    return jax.jit(lay_out, out_shardings=out)


def _unstack_axes(axes: Any, num_layers: int) -> Any:
    """Logical axes of `unstack`'s tree: the layer axis is gone, "layers" is a tuple."""
    one = jax.tree.map(lambda spec: type(spec)(*tuple(spec)[1:]), axes["layers"])
    return {**axes, "layers": (one,) * num_layers}


def _quantize(layer: Any) -> Any:
    """The matrices of a layer as qwix arrays: int8 and one scale, in the compute dtype, for each output channel."""
    import qwix  # half a second; only who asks for int8 weights waits for it

    def one(path, x):
        summed = SUMMED_AXES.get(path[-1].key)
        if summed is None:
            return x
        channels = [axis for axis in range(x.ndim) if axis not in summed]
        return qwix.quantize(x, jnp.int8, channelwise_axes=channels, scale_dtype=x.dtype)

    return jax.tree_util.tree_map_with_path(one, layer)


def _like(shapes: Any, placed: Any) -> Any:
    """Shardings of a quantized layer from those of the float one: a scale is not cut along its axes of size 1."""

    def one(sharding, shape):
        def cut(x):
            spec = (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))
            return NamedSharding(
                sharding.mesh, PartitionSpec(*[None if size == 1 else axis for size, axis in zip(x.shape, spec, strict=True)])
            )

        return jax.tree.map(cut, shape)

    return jax.tree.map(one, placed, shapes, is_leaf=lambda x: isinstance(x, NamedSharding))
