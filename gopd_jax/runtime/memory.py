"""What the memory of one device must hold at least, and what it has.

In: the parts of a run with their bytes on one device, from shapes alone. Out: nothing, or one
sentence with the arithmetic when they cannot fit. Allocates nothing.
"""

from collections.abc import Sequence
import dataclasses
import math
import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from gopd_jax.types import Tree

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclasses.dataclass(frozen=True)
class Part:
    """Something that a device must hold.

    what: its name, such as "rollout cache".
    needs: the arithmetic over all devices, in words.
    bytes: on one device.
    setting: what makes it as large as it is, such as "config.rollout.slots=64".
    """

    what: str
    needs: str
    bytes: int
    setting: str


def device_bytes(tree: Tree) -> int:
    """Bytes on one device of a tree of ShapeDtypeStructs with shardings."""

    def one(x: jax.ShapeDtypeStruct) -> int:
        return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize

    return sum(map(one, jax.tree.leaves(tree)))


def host_memory() -> int:
    """Bytes of physical memory, or of the control group that the process is in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []  # "max" is no limit
    return min(found)


def device_memory(mesh: Mesh) -> int | None:
    """Bytes that one device of this process may hold; None if it does not say.

    The CPU devices of a process share the memory of the machine.
    """
    device = mesh.local_devices[0]
    if device.platform == "cpu":
        return host_memory() // jax.local_device_count()
    return (device.memory_stats() or {}).get("bytes_limit")


def check_fits(parts: Sequence[Part], mesh: Mesh, memory: int | None) -> None:
    """Raises ValueError when the parts together exceed the memory of a device.

    Args:
        parts: what a device must hold at the same time.
        mesh: the devices that they are spread over.
        memory: bytes of one device, as `device_memory` gives them; None checks nothing.
    """
    total = sum(part.bytes for part in parts)
    if memory is None or total <= memory:
        return
    first, *others = sorted(parts, key=lambda part: -part.bytes)
    rest = ", ".join(f"{part.what} {in_words(part.bytes)}" for part in others)
    raise ValueError(
        f"{first.setting}: the {first.what} needs {first.needs} = {in_words(first.bytes)} on each "
        f"of {mesh.size} device(s), and the whole at least {in_words(total)} ({rest}): expected at "
        f"most {in_words(memory)}, the memory of a device"
    )


def in_words(count: int) -> str:
    """A number of bytes with three digits, such as "24.6 GB"; a GB is 10^9 bytes."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power = min(len(units) - 1, max(0, len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g} {units[power]}"
