"""The table of compiled programs: one for each function and shapes, shared by sampler and learner.

In: a pure function and its arguments, or their shapes. Out: the compiled program. A program is
found again by what it computes and on which shapes, never by its name; the name is for people. The
table records what each program cost to compile and the temporary memory it needs. A program that
is sure to be needed can be compiled ahead, beside other work.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
import ctypes
import dataclasses
import functools
import threading
import time

import jax
from jax.sharding import Mesh

from gopd_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program.

    name: what it does, such as "decode".
    bucket: the shapes that it was compiled for, in words.
    compile_seconds: wall clock of lowering and compilation, or of loading from the cache.
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
        self.programs: list[Program] = []  # in the order of their first use
        self._compiled: dict[Hashable, jax.stages.Compiled] = {}  # those that were used
        self._futures: dict[Hashable, Future[tuple[Program, jax.stages.Compiled]]] = {}
        self._lock = threading.Lock()  # of `_futures`

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
        key = key_of(function, args, donate)
        if (compiled := self._compiled.get(key)) is None:
            future, is_new = self._future(key)
            if is_new:
                self._compile(key, future, name, bucket, jitted(function, out, donate), args)
            program, compiled = future.result()
            self.programs.append(program)
            self._compiled[key] = compiled
        return compiled

    def compile_ahead(
        self,
        function: Callable,
        *args: Tree,
        name: str,
        out: Callable[[], Tree],
        bucket: str = "",
        donate: int | tuple[int, ...] = (),
    ) -> None:
        """Begins to compile in another thread what `compiled` with the same arguments returns.

        XLA needs no Python, so that other work goes on. An error is raised by `compiled`. On a GPU
        nothing happens: XLA chooses its kernels there by measuring them, on a device at rest.
        """
        if self.mesh.devices.flat[0].platform == "gpu":
            return
        key = key_of(function, args, donate)
        future, is_new = self._future(key)
        if is_new:
            work = key, future, name, bucket, jitted(function, out, donate), args
            # Python waits for it at its end: a daemon thread within XLA would abort the process.
            threading.Thread(target=self._compile, args=work, name=name).start()

    def used(self) -> dict[Hashable, jax.stages.Compiled]:
        """The programs that were asked for, by `key_of`."""
        return dict(self._compiled)

    def _future(self, key: Hashable) -> tuple[Future, bool]:
        """The future of a program, and whether the caller has to see to it."""
        with self._lock:
            if is_new := key not in self._futures:
                self._futures[key] = Future()
            return self._futures[key], is_new

    def _compile(
        self,
        key: Hashable,
        future: Future,
        name: str,
        bucket: str,
        make: Callable[[], jax.stages.Wrapped],
        args: tuple[Tree, ...],
    ) -> None:
        """Puts the program into `future`, or the error, which the next call does not find again."""
        start = time.perf_counter()
        try:
            with jax.set_mesh(self.mesh):
                compiled = make().lower(*args).compile()
            temporary = getattr(compiled.memory_analysis(), "temp_size_in_bytes", 0)
        except BaseException as error:
            with self._lock:
                del self._futures[key]
            future.set_exception(error)
            return
        give_back_memory()
        seconds = time.perf_counter() - start
        future.set_result((Program(name, bucket, seconds, temporary), compiled))


def give_back_memory() -> None:
    """Returns freed memory to the operating system, which glibc keeps otherwise.

    XLA takes hundreds of megabytes to compile a train step.
    """
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def jitted(
    function: Callable, out: Callable[[], Tree], donate: int | tuple[int, ...]
) -> Callable[[], jax.stages.Wrapped]:
    """What makes the function that is lowered and compiled; see `ProgramTable.compiled`."""

    def make() -> jax.stages.Wrapped:
        return jax.jit(function, donate_argnums=donate, out_shardings=out(), keep_unused=True)

    return make


def key_of(
    function: Callable, args: tuple[Tree, ...], donate: int | tuple[int, ...] = ()
) -> Hashable:
    """What a program is found again by: what it computes, and on which shapes."""
    leaves, structure = jax.tree.flatten(args)
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    return _identity(function), structure, shapes, donate


def _identity(function: Callable) -> Hashable:
    """What makes two functions the same program: for a partial, the function and what is bound."""
    if isinstance(function, functools.partial):
        bound = tuple(sorted(function.keywords.items()))
        return _identity(function.func), function.args, bound
    return function
