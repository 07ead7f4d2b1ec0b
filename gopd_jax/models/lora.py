"""Low-rank adapters: which matrices of a student have one, and how base and adapter become a model.

    y = x W + (alpha / rank) (x A) B

In: the student's parameters, frozen, and its adapter, which is trained. Out: the tree that the
decoder reads, in which a matrix with an adapter is an `Adapted`. The adapter is a tree of its own,
with A as "a" and B as "b" in the place of each matrix, layers stacked; shapes and sharding follow
from those of the matrix. Source: https://arxiv.org/abs/2106.09685.
"""

import math
from typing import Any
import zlib

from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.linear import Adapted
from gopd_jax.models.settings import LoraSettings
from gopd_jax.runtime.mesh import shardings
from gopd_jax.types import Params

Path = tuple[str, ...]

ATTENTION, MLP = ("query", "key", "value", "out"), ("gate", "up", "down")
# Number of axes of a matrix that its input has; the others are those of its output.
INPUT_AXES = dict.fromkeys(ATTENTION + MLP, 1) | {"out": 2}


def target_paths(config: ModelConfig, lora: LoraSettings) -> dict[str, Path]:
    """Where the matrices with an adapter are in the parameter tree, by name.

    Raises:
        ValueError: there are none, one is named twice, or one belongs to experts.
    """
    where = f"config.lora.targets={lora.targets}"
    if not lora.targets or len(set(lora.targets)) < len(lora.targets):
        raise ValueError(f"{where}: expected each once of some of {', '.join(ATTENTION + MLP)}")
    if config.experts and set(lora.targets) & set(MLP):
        raise ValueError(
            f"{where}: the student is a {config.family}, and experts have no adapters; expected "
            f"some of {', '.join(ATTENTION)}"
        )
    rooms = dict.fromkeys(ATTENTION, "attention") | dict.fromkeys(MLP, "mlp")
    return {name: ("layers", rooms[name], name) for name in lora.targets}


def abstract_adapter(config: ModelConfig, lora: LoraSettings) -> Params:
    """The adapter as float32 ShapeDtypeStructs."""
    matrices, found = flatten_dict(abstract_params(config)), {}
    for name, path in target_paths(config, lora).items():
        layers, *sizes = matrices[path].shape
        cut = INPUT_AXES[name]
        found[*path, "a"] = (layers, *sizes[:cut], lora.rank)
        found[*path, "b"] = (layers, lora.rank, *sizes[cut:])
    return unflatten_dict({p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in found.items()})


def adapter_axes(config: ModelConfig, lora: LoraSettings) -> Params:
    """The adapter with a PartitionSpec of logical axis names for each array."""
    matrices, found = flatten_dict(logical_axes(config)), {}
    for name, path in target_paths(config, lora).items():
        layers, *axes = matrices[path]
        cut = INPUT_AXES[name]
        found[*path, "a"] = PartitionSpec(layers, *axes[:cut], "rank")
        found[*path, "b"] = PartitionSpec(layers, "rank", *axes[cut:])
    return unflatten_dict(found)


def adapter_shardings(config: ModelConfig, lora: LoraSettings, mesh: Mesh) -> Params:
    """The sharding of each array of the adapter: like its matrix, and the rank is not split."""
    return shardings(mesh, abstract_adapter(config, lora), adapter_axes(config, lora))


def init_adapter(config: ModelConfig, lora: LoraSettings, key: jax.Array) -> Params:
    """An adapter that changes nothing yet: B is 0.

    A is uniform between -1 and 1, divided by the square root of the number of inputs, as in PEFT.
    """

    def one(path, x):
        name, side = path[-2].key, path[-1].key
        if side == "b":
            return jnp.zeros(x.shape, x.dtype)
        bound = 1 / math.sqrt(math.prod(x.shape[1:-1]))
        drawn = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return jax.random.uniform(drawn, x.shape, x.dtype, -bound, bound)

    return jax.tree_util.tree_map_with_path(one, abstract_adapter(config, lora))


def adapted(base: Params, adapter: Params, lora: LoraSettings) -> Params:
    """The tree that the decoder reads; no array is copied.

    Args:
        base: the student's parameters, as `abstract_params` describes them.
        adapter: as `abstract_adapter` describes it.
        lora: alpha and rank give the factor.
    """
    arrays, matrices = flatten_dict(adapter), flatten_dict(base)
    for path in {path[:-1] for path in arrays}:
        matrices[path] = Adapted(matrices[path], arrays[*path, "a"], arrays[*path, "b"], lora.scale)
    return unflatten_dict(matrices)


def merged(params: Params) -> Params:
    """The parameters of a model without adapters, as `abstract_params` describes them.

    Matrices that had an adapter are float32; layers are stacked, and the product is made of all
    layers at once.
    """

    def one(x: Any) -> Any:
        return jax.vmap(Adapted.merged)(x) if isinstance(x, Adapted) else x

    return jax.tree.map(one, params, is_leaf=lambda x: isinstance(x, Adapted))


def adapter_elements(config: ModelConfig, lora: LoraSettings) -> int:
    """Number of parameters that are trained."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_adapter(config, lora)))
