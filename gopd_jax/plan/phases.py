"""What a phase of a run is: what a device holds meanwhile, and the programs that run.

In: calls of a rehearsal. Out: bytes on one device that are held, and that programs find there.
"""

import dataclasses

import jax

from gopd_jax.learner.parking import is_parked
from gopd_jax.runtime.memory import device_bytes
from gopd_jax.runtime.rehearsal import Call
from gopd_jax.types import PackedBatch, Tree

# Arguments of a program that a phase holds anyway, by position; the others come and go with it.
HELD_ARGUMENTS = {
    "start": (0,),
    "restart": (0,),
    "weights": (0,),
    "prefill": (0, 1),
    "decode": (0, 1, 2),
    "copy": (0,),
    "shrink": (0, 1),
    "score": (0,),
    "distance": (0, 1),
    "train step": (0, 1),  # an adapter's step takes the frozen parameters, too
}
# Programs whose results a phase holds.
MAKE_HELD = ("start", "restart", "weights", "cache")


@dataclasses.dataclass(frozen=True)
class Held:
    """Something that stays on a device while programs run.

    what: such as "rollout cache".
    bytes: of one device.
    """

    what: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program of a phase.

    role: the model that it runs, such as "student".
    call: what is compiled.
    brought: its first argument comes to the devices for it alone.
    """

    role: str
    call: Call
    brought: bool = False

    @property
    def name(self) -> str:
        """Such as "score (teacher of math): 16 x 18432"."""
        size = f": {self.size}" if self.size else ""
        return f"{self.call.name} ({self.role}){size}"

    @property
    def size(self) -> str:
        """The shapes that it is for, in words."""
        if self.call.name == "score":
            return " x ".join(map(str, self.call.args[1].shape))
        if self.call.name == "train step":
            return " + ".join(" x ".join(map(str, b.tokens.shape)) for b in self.batches)
        return self.call.bucket

    @property
    def batches(self) -> list[PackedBatch]:
        """Those among its arguments."""
        return [x for x in self.call.args if isinstance(x, PackedBatch)]

    @property
    def held_arguments(self) -> int:
        """Bytes on one device of its arguments that a phase holds anyway."""
        places = HELD_ARGUMENTS.get(self.call.name, ())
        held = [self.call.args[i] for i in places if i or not self.brought]
        return sum(on_device(x) for x in held if not isinstance(x, PackedBatch))

    @property
    def held_results(self) -> int:
        """Bytes on one device of its results that a phase holds from then on."""
        return on_device(self.call.result()) if self.call.name in MAKE_HELD else 0


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run.

    name: such as "rollout".
    held: what stays on the devices while its programs run.
    programs: one runs after the other.
    """

    name: str
    held: tuple[Held, ...]
    programs: tuple[Planned, ...]


def on_device(tree: Tree) -> int:
    """Bytes on one device of the shapes in a tree; what is in the host's memory does not count."""
    shapes = [x for x in jax.tree.leaves(tree) if isinstance(x, jax.ShapeDtypeStruct)]
    return device_bytes([x for x in shapes if not is_parked(x) or _on_cpu(x.sharding)])


def _on_cpu(sharding: jax.sharding.Sharding) -> bool:
    """Whether the devices have no memory but the host's."""
    return next(iter(sharding.device_set)).platform == "cpu"
