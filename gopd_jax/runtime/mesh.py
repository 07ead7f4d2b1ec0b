"""The device mesh and the table that maps logical axes to it.

In: logical axes of parameters and activations. Out: shardings. `RULES` serves training and scoring,
which shard parameters over every axis but data; `DECODE_RULES` serves sampling, which keeps a copy
of the weights for each group of tensor ranks, and of the experts for each group of expert ranks.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from gopd_jax.types import Tree

# The last axis has the nearest neighbours: it exchanges most.
AXES = ("data", "fsdp", "expert", "context", "tensor")

Rules = dict[str, str | tuple[str, ...] | None]
RULES: Rules = {
    "batch": ("data", "fsdp", "expert"),
    "slots": ("data", "fsdp", "expert", "context"),
    "vocab": "tensor",
    "embed": ("fsdp", "expert", "context"),
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "experts": "expert",
    "expert_embed": ("fsdp", "context"),
    "head_size": None,
    "norm": None,
    "rank": None,
    "layers": None,
}
# A parameter is whole on every device if the mesh does not divide its axis of one of these names.
WHOLE_IF_ODD = ("kv_heads",)
DECODE_RULES = RULES | {"embed": None, "expert_embed": None}


def compute_dtype(name: str) -> type[np.generic]:
    """The dtype of a name; "auto" is float32 on CPU and bfloat16 on accelerators."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name).type


def make_mesh(
    data: int = 1,
    fsdp: int = -1,
    tensor: int = 1,
    *,
    expert: int = 1,
    context: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over all devices with the axes of `AXES`.

    Args:
        data, fsdp, tensor, expert, context: sizes of the axes; one may be -1 and takes the devices
            that are left.
        devices: the devices of the mesh; None takes all.

    Raises:
        ValueError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    given = {"data": data, "fsdp": fsdp, "expert": expert, "context": context, "tensor": tensor}
    sizes = {name: given[name] for name in AXES}
    free = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) > 1 or known < 1 or len(devices) % known or (not free and known != len(devices)):
        asked = " ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"mesh {asked} does not fit {len(devices)} devices: "
            "the sizes must multiply to that number; one of them may be -1"
        )
    if free:
        sizes[free[0]] = len(devices) // known
    return jax.make_mesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices
    )


def shardings(mesh: Mesh, abstract: Tree, axes: Tree, rules: Rules = RULES) -> Tree:
    """A NamedSharding for each parameter, from its logical axes.

    Args:
        abstract: the parameter tree, arrays or shapes.
        axes: the same tree with a PartitionSpec of logical axis names for each parameter.
        rules: logical axis -> mesh axis or axes, or None for a copy on every device.

    Raises:
        ValueError: an axis that the table does not know, two axes of one parameter on the same mesh
            axis, or a size that the mesh does not divide; the message names the parameter.
    """

    def one(path, leaf, spec):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        names = tuple(spec) + (None,) * (len(leaf.shape) - len(spec))
        return NamedSharding(mesh, _partition(mesh, name, leaf.shape, names, rules))

    return jax.tree_util.tree_map_with_path(one, abstract, axes)


def _partition(
    mesh: Mesh, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...], rules: Rules
) -> PartitionSpec:
    """The mesh axes of one parameter."""
    used: list[str] = []
    entries = []
    for axis, size in zip(axes, shape, strict=True):
        if axis is not None and axis not in rules:
            raise ValueError(
                f"parameter {name}: unknown logical axis {axis!r}; known: {sorted(rules)}"
            )
        target = rules[axis] if axis is not None else None
        names = (target,) if isinstance(target, str) else target or ()
        if any(n in used for n in names):
            given = tuple(a for a in axes if a is not None)
            raise ValueError(
                f"parameter {name}: two of its axes {given} map to the same mesh axis {names}"
            )
        ways = math.prod(mesh.shape[n] for n in names)
        if size % ways and axis in WHOLE_IF_ODD:
            entries.append(None)
            continue
        if size % ways:
            raise ValueError(
                f"parameter {name}: axis {axis!r} of size {size} does not divide over {names} "
                f"({ways} ways)"
            )
        used.extend(names)
        entries.append(target)
    return PartitionSpec(*entries)


def with_shardings(abstract: Tree, shardings: Tree) -> Tree:
    """The same tree of shapes, each with its sharding: what a restore or a compilation needs."""

    def one(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(one, abstract, shardings)


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Rows over data and fsdp: the sharding of an array whose axis `leading` counts rows."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, RULES["batch"]))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def constrain(x: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Shards an activation over the mesh in use (`jax.set_mesh`); does nothing without one."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(*[RULES[a] if a else None for a in axes])
    )


Axes = tuple[str | None, ...]


def on_each_device(
    function: Callable[..., Any], inputs: Sequence[Axes], outputs: Axes | Sequence[Axes]
) -> Callable[..., Any]:
    """The function, run by each device of the mesh in use on its own part of the arrays.

    For work that the partitioner cannot split, such as a loop whose length depends on the data.
    Without a mesh, or on one device, it is the function itself, and so it is within another one.

    Args:
        function: of the arrays that a device holds.
        inputs, outputs: the logical axes of each argument, and of each result. An axis of which the
            mesh does not divide every size among the arguments is not split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:  # each device has its part
        return function

    def ways(name: str) -> int:
        target = RULES[name]
        names = (target,) if isinstance(target, str) else target or ()
        return math.prod(mesh.shape[n] for n in names)

    def call(*args: jax.Array) -> Any:
        whole = {
            name
            for axes, x in zip(inputs, args, strict=True)
            for name, size in zip(axes, x.shape, strict=True)
            if name is not None and size % ways(name)
        }

        def spec(axes: Axes) -> PartitionSpec:
            return PartitionSpec(*[RULES[a] if a and a not in whole else None for a in axes])

        several = isinstance(outputs[0], tuple)
        out = tuple(map(spec, outputs)) if several else spec(outputs)
        run = jax.shard_map(
            function, in_specs=tuple(map(spec, inputs)), out_specs=out, check_vma=False
        )
        return run(*args)

    return call


@dataclasses.dataclass(frozen=True)
class WidthSplit:
    """How the width of a matrix [V, D] is split among devices that each have rows of their own.

    For use inside `on_each_device`.

    width: mesh axes that D is split over.
    others: mesh axes that the rows are split over besides.
    """

    width: tuple[str, ...]
    others: tuple[str, ...]

    def gather(self, part: jax.Array) -> jax.Array:
        """The whole width of [v, D / n]."""
        return jax.lax.all_gather(part, self.width, axis=1, tiled=True)

    def add_up(self, x: jax.Array) -> jax.Array:
        """The sum of [v, D] over the devices' rows; each gets its part of the width."""
        # Not psum_scatter: the TPU compiler makes an all-reduce of it, twice the traffic.
        parts = jax.lax.all_to_all(x, self.width, split_axis=1, concat_axis=0, tiled=True)
        x = jnp.sum(parts.reshape(-1, x.shape[0], parts.shape[1]), axis=0)
        return jax.lax.psum(x, self.others) if self.others else x


def width_split(rows: int, width: int, axis: str = "batch") -> WidthSplit | None:
    """How `RULES` splits a matrix of this width that so many rows are multiplied with.

    `axis` is the logical axis of the rows.
    None where it does not, and where the mesh in use does not divide the rows or the width.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return None
    over, embed = RULES[axis], RULES["embed"]
    ways = math.prod(mesh.shape[a] for a in embed)
    if ways == 1 or width % ways or rows % math.prod(mesh.shape[a] for a in over):
        return None
    return WidthSplit(embed, tuple(a for a in over if a not in embed))


def platform_in_use() -> str:
    """What the mesh in use (`jax.set_mesh`) runs on, "cpu" for example; or the default devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()


def rows_multiple(mesh: Mesh) -> int:
    """Devices on the data and fsdp axes: row counts must be a multiple of this number."""
    return int(np.prod([mesh.shape[a] for a in RULES["batch"]]))


def slots_multiple(mesh: Mesh) -> int:
    """Devices that have slots of their own: all but those of one tensor group."""
    return math.prod(mesh.shape[a] for a in RULES["slots"])


def kv_copies(kv_heads: int, mesh: Mesh | AbstractMesh | None = None) -> int:
    """How often each key/value head is repeated, so that the tensor axis divides them all.

    A tensor rank then holds the key/value heads that its query heads need, and few others.

    Args:
        mesh: None takes the mesh in use.
    """
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if mesh.empty:
        return 1
    return math.lcm(kv_heads, mesh.shape["tensor"]) // kv_heads
