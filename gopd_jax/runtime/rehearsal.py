"""A program table that compiles nothing: what a run would compile, with shapes in place of arrays.

In: the calls that a `ProgramTable` gets, with ShapeDtypeStructs as arguments. Out: a `Call` for
each program, in the order in which they are asked for. What a program returns is given back as
shapes with shardings, so that the code which runs a program goes on as if it had run.
"""

from collections.abc import Callable, Hashable, Iterator
import contextlib
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from gopd_jax.runtime.mesh import with_shardings
from gopd_jax.runtime.programs import ProgramTable, jitted, key_of
from gopd_jax.types import Tree


@dataclasses.dataclass
class Call:
    """A program that a run asks for.

    name, bucket: what the log calls it.
    function: what it runs.
    args: arrays, or shapes with shardings.
    key: as in a `ProgramTable`.
    """

    name: str
    bucket: str
    function: Callable
    args: tuple[Tree, ...]
    key: Hashable
    mesh: Mesh
    _make: Callable[[], jax.stages.Wrapped]
    _out: Callable[[], Tree]
    _result: Tree = None

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        # Kernels ask the default device for its generation.
        with jax.set_mesh(self.mesh), jax.default_device(self.mesh.devices.flat[0]):
            yield

    def lowered(self) -> jax.stages.Lowered:
        """The program as XLA gets it."""
        with self._on_mesh():
            return self._make().lower(*self.args)

    def result(self) -> Tree:
        """What the program returns, as shapes with shardings; it is traced once for that."""
        if self._result is None:
            with self._on_mesh():
                found = jax.eval_shape(self.function, *self.args)
            shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)
            self._result = with_shardings(shapes, jax.tree.broadcast(self._out(), shapes))
        return self._result

    def __call__(self, *args: Any) -> Tree:
        """Stands for running the compiled program."""
        return self.result()


class Rehearsal(ProgramTable):
    """The programs of a run that does not take place.

    Attributes:
        calls: by key, in the order in which they were first asked for.
    """

    def __init__(self, mesh: Mesh):
        super().__init__(mesh)
        self.calls: dict[Hashable, Call] = {}
        self._asked: list[Call] = []

    @contextlib.contextmanager
    def asked(self) -> Iterator[list[Call]]:
        """A list that gets every program that is asked for within this context, new or not."""
        before, self._asked = self._asked, []
        try:
            yield self._asked
        finally:
            self._asked = before

    def compiled(
        self,
        function: Callable,
        *args: Tree,
        name: str,
        out: Callable[[], Tree],
        bucket: str = "",
        donate: int | tuple[int, ...] = (),
    ) -> Call:
        """The call, which returns shapes; see `ProgramTable.compiled`."""
        key = key_of(function, args, donate)
        if key not in self.calls:
            make = jitted(function, out, donate)
            self.calls[key] = Call(name, bucket, function, args, key, self.mesh, make, out)
        self._asked.append(self.calls[key])
        return self.calls[key]

    def compile_ahead(self, function: Callable, *args: Tree, **options: Any) -> None:
        """Notes the program."""
        self.compiled(function, *args, **options)
