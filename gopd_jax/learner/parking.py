"""Arrays that wait in the memory of the host, and come back to the devices when they are used.

In: arrays on a mesh. Out: the same numbers with the same sharding, as `pinned_host` arrays or on
the devices again. Programs take arrays on the devices only, unless they say otherwise.
"""

import jax

from gopd_jax.runtime.mesh import with_shardings
from gopd_jax.types import Tree

HOST, DEVICE = "pinned_host", "device"


def is_parked(tree: Tree) -> bool:
    """Whether arrays of the tree are in the memory of the host."""
    return any(x.sharding.memory_kind == HOST for x in jax.tree.leaves(tree))


def park(tree: Tree) -> Tree:
    """The arrays in the memory of the host, once they are there; those given can be dropped."""
    return jax.block_until_ready(_put(tree, HOST))


def bring(tree: Tree) -> Tree:
    """The arrays on the devices; the tree itself if they are there already."""
    return _put(tree, DEVICE) if is_parked(tree) else tree


def _put(tree: Tree, kind: str) -> Tree:
    """The arrays in a memory of that kind; of a tree of shapes, the shapes there."""
    where = in_memory(tree, kind)
    if all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(tree)):
        return with_shardings(tree, where)
    return jax.device_put(tree, where)


def in_memory(tree: Tree, kind: str) -> Tree:
    """The sharding of each array or shape, with a memory of that kind."""
    return jax.tree.map(lambda x: x.sharding.with_memory_kind(kind), tree)


def moments_to(where: jax.memory.Space | str, opt_state: Tree) -> Tree:
    """The optimizer state with its moments in one memory; counters stay on the devices.

    Args:
        where: within a program, a `jax.memory.Space`; outside, `HOST` or `DEVICE`.
    """

    def one(x):
        if not x.ndim:
            return x
        return _put(x, where) if type(where) is str else jax.device_put(x, where)

    return jax.tree.map(one, opt_state)


def moments_in_host(opt_state: Tree, shardings: Tree) -> Tree:
    """The shardings of an optimizer state whose moments are parked.

    Args:
        opt_state: arrays or shapes.
        shardings: of the same state on the devices.
    """

    def one(x, sharding):
        return sharding.with_memory_kind(HOST) if x.ndim else sharding

    return jax.tree.map(one, opt_state, shardings)
