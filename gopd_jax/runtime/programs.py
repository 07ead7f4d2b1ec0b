"""The table of compiled programs: one for each function and shapes, shared by sampler and learner.

In: a pure function and its arguments, or their shapes. Out: the compiled program. A program is
found again by what it computes and on which shapes, never by its name; the name is for people. The
table records what each program cost to compile and the temporary memory it needs.
"""

from collections.abc import Callable, Hashable
import dataclasses
import functools
import time

import jax
from jax.sharding import Mesh

from gopd_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    name: what it does, such as "decode".
    bucket: the shapes that it was compiled for, in words.
    compile_seconds: wall clock of lowering and compilation.
    temporary_bytes: memory on one device besides arguments and results, by the compiler's account.
    """

    name: str
    bucket: str
    compile_seconds: float
    temporary_bytes: int

    def __str__(self) -> str:
        what = f"{self.name} {self.bucket}".rstrip()
        return f"{what} ({self.compile_seconds:.1f} s)"


class ProgramTable:
    """Programs compiled for one mesh.

    Example:
        table = ProgramTable(mesh)
        step = table.compiled(train_step, state, batch, name="train step", donate=0, out=shardings)
        state = step(state, batch)
    """

    def __init__(self, mesh: Mesh):
        self.mesh = mesh
        self.programs: list[Program] = []
        self._compiled: dict[Hashable, jax.stages.Compiled] = {}

    def compiled(
        self,
        function: Callable,
        *args: Tree,
        name: str,
        out: Callable[[], Tree],
        bucket: str = "",
        donate: int | tuple[int, ...] = (),
    ) -> jax.stages.Compiled:
        """The program that runs `function` on such arguments, compiled at the first call.

        Args:
            function: pure; a `functools.partial` counts as the same function when its function and
                bound arguments are equal.
            args: arrays, or ShapeDtypeStructs with shardings.
            name, bucket: what the log calls the program.
            out: returns the shardings of the result; called only to compile.
            donate: positions of arguments whose memory the result may take.
        """
        leaves, structure = jax.tree.flatten(args)
        shapes = tuple((x.shape, x.dtype) for x in leaves)
        key = _identity(function), structure, shapes, donate
        if key not in self._compiled:
            start = time.perf_counter()
            with jax.set_mesh(self.mesh):
                jitted = jax.jit(
                    function, donate_argnums=donate, out_shardings=out(), keep_unused=True
                )
                compiled = jitted.lower(*args).compile()
            temporary = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
            seconds = time.perf_counter() - start
            self.programs.append(Program(name, bucket, seconds, temporary))
            self._compiled[key] = compiled
        return self._compiled[key]


def _identity(function: Callable) -> Hashable:
    """What makes two functions the same program: for a partial, the function and what is bound."""
    if isinstance(function, functools.partial):
        bound = tuple(sorted(function.keywords.items()))
        return _identity(function.func), function.args, bound
    return function
