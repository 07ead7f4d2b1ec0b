"""Where programs under test run: one forked, limited child per program, and the fork server that makes them.

Comes in, from `code.py` over a socket: a program and file descriptors, never a test or an expected value. Goes out: what the
program returns, by value (`wire.encode`). The child decides nothing, so there is no verdict here for a program to forge; it
may tamper with everything in its own process and still has to return the right values.

What holds a program: resource limits (memory, CPU seconds, open files, size of files), `seccomp.py` (no process, no signal, no
socket: no namespace, bubblewrap or root is needed for that) and `landlock.py` (reads Python and system libraries only). Its
working directory is empty at the start and the only place to write in (`scratch.py`); without that it stays empty.
Wall-clock time is the judge's to watch; it kills the child whatever that does.
"""

import contextlib
import ctypes
import gc
import importlib
import operator
import os
import resource
import signal
import socket
import sys
import tempfile
import types
from typing import Any

from gopd_jax.rewards import wire
from gopd_jax.rewards.sandbox import landlock, seccomp
from gopd_jax.rewards.sandbox.scratch import SIZE_MB, Scratch

# Imported once before the forks: a program's `import` of these costs nothing.
_COMMON = "array bisect collections copy dataclasses datetime decimal enum fractions functools heapq io itertools json math "
COMMON_MODULES = (
    _COMMON + "operator queue random re statistics string struct threading time typing"
).split()
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when its parent ends, in whatever call it then is. The parent must be single-threaded."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(memory_mb: int) -> None:
    """At most `memory_mb` MiB of address space more than now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (memory_mb << 20),) * 2)


def fork_server(control: socket.socket, memory_mb: int, hidden: str) -> None:
    """Fork one child per message until the socket closes. Per child: in, fds and a job; in, "end"; out, "gone".

    The current folder, empty, is what programs run in. hidden: a folder that no program may read, the project's own.
    """
    for name in COMMON_MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(contextlib.closing(Scratch(os.getcwd())))
        except OSError:
            scratch = None
        readable, writable = landlock.readable(hidden, os.getcwd()), scratch and scratch.folder
        ruleset = landlock.rules(
            readable, writable=writable
        )  # once: 0.2 ms, and each child only binds itself to it
        writes = scratch is not None and ruleset is not None
        wire.send(
            control.fileno(),
            {"seccomp": _probe(writes), "landlock": ruleset is not None, "scratch": writes},
        )
        while (received := _next_job(control)) is not None:
            _run_one(control, *received, memory_mb, ruleset, writes)
            if scratch is not None and scratch.clean():
                os.close(ruleset)
                ruleset = landlock.rules(readable, writable=writable)  # of the new folder
            try:
                wire.send(control.fileno(), "gone")
            except OSError:
                return


def _next_job(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next job and its descriptors, or None when the judge is gone."""
    try:
        first, fds, _, _ = socket.recv_fds(control, 1, 3)
        return (wire.receive(control.fileno()), fds) if first else None
    except (EOFError, OSError):
        return None


def _run_one(
    control: socket.socket,
    job: dict[str, Any],
    fds: list[int],
    memory_mb: int,
    ruleset: int | None,
    writes: bool,
) -> None:
    """A child for the job, killed when the judge says so or is gone."""
    me, pid = os.getpid(), os.fork()
    if pid == 0:
        try:
            _child(me, job, fds, memory_mb, ruleset, writes)
        finally:
            os._exit(1)
    for fd in fds:
        os.close(fd)
    try:
        wire.receive(control.fileno())  # "end"
    except (EOFError, OSError):
        pass
    for kill in (os.killpg, os.kill):  # the group may not exist yet
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            pass
    os.waitpid(pid, 0)


def _probe(writes: bool) -> bool:
    """Can this machine filter system calls?"""
    if sys.platform == "linux":
        seccomp.prepare(writes)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if seccomp.install(writes) else 1)
    return os.waitpid(pid, 0)[1] == 0


def _child(
    parent: int,
    job: dict[str, Any],
    fds: list[int],
    memory_mb: int,
    ruleset: int | None,
    writes: bool,
) -> None:
    """Shed everything inherited, take the limits, run the program. fds: channel, then stdin and stdout of a script."""
    os.setsid()
    die_with_parent(parent)
    os.chdir(os.getcwd())  # what has been mounted there since
    null = os.open(os.devnull, os.O_RDWR)
    limit_memory(memory_mb)
    if ruleset is not None and not landlock.restrict(ruleset):
        os._exit(1)  # never run a program with less around it than was promised
    high = [os.dup(fd) for fd in (fds + [null, null])[:3] + [null]]
    for target, fd in zip((3, 0, 1, 2), high, strict=True):
        os.dup2(fd, target)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    tempfile.tempdir = os.getcwd()
    sys.argv, sys.path = (
        ["program.py"],
        [path for path in sys.path if path not in job["hidden_paths"]],
    )
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)

    size = writes * SIZE_MB << 20
    for what, value in {"CPU": job["cpu_s"], "FSIZE": size, "NOFILE": 32, "CORE": 0}.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (value, value))
    if not seccomp.install(writes):
        resource.setrlimit(
            resource.RLIMIT_NPROC, (0, 0)
        )  # no threads either; root is not bound by it

    channel = 3
    module = types.ModuleType("__main__" if job["script"] else "solution")
    sys.modules[module.__name__] = module
    try:
        exec(compile(job["prelude"], "prelude.py", "exec"), module.__dict__)
        exec(compile(job["program"], "program.py", "exec"), module.__dict__)
        sys.stdout.flush()
        error = None
    except BaseException as raised:
        error = _name(raised)
        if job["script"] and isinstance(raised, SystemExit):
            sys.stdout.flush()
            error = None
    wire.send(channel, {"error": error})
    if error is None and not job["script"]:
        _serve(channel, module)
    os._exit(0)


def _name(error: BaseException) -> str:
    return type(error).__name__


def _serve(channel: int, module: types.ModuleType) -> None:
    """Answer the judge's questions about the program's names until the judge hangs up."""
    objects: list[Any] = []
    index_of: dict[int, int] = {}

    def to_handle(value: Any) -> dict[str, Any]:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        if (
            type(value).__module__ == "numpy"
            and hasattr(value, "dtype")
            and getattr(value, "ndim", 1) == 0
        ):
            return wire.encode(value.item(), to_handle)  # a number that only looks different
        if id(value) not in index_of:
            index_of[id(value)] = len(objects)
            objects.append(value)
        return {"object": index_of[id(value)]}

    def from_handle(name: str, body: int) -> Any:
        if name == "object":
            return objects[body]
        return lambda *args: call_judge(
            body, args
        )  # "function": a callable that the test passed in

    def call_judge(index: int, args: tuple) -> Any:
        wire.send(channel, {"callback": index, "args": wire.encode(args, to_handle)})
        return wire.decode(wire.receive(channel), from_handle)

    def call(target: Any, *values: Any, names: list[str]) -> list[Any]:
        split = len(values) - len(names)
        result = target(*values[:split], **dict(zip(names, values[split:], strict=True)))
        return [result, values]  # the arguments too: the program may have changed them in place

    operations = {
        "lookup": lambda name: [name in vars(module), vars(module).get(name)],
        "call": call,
        "getattr": getattr,
        "getitem": lambda target, key: target[key],
        "iter": lambda target: list(target) if hasattr(target, "__len__") else iter(target),
        "next": next,
        "bool": bool,
        "operator": lambda left, right, name: getattr(operator, name)(left, right),
        "len": len,
        "str": str,
        "repr": repr,
    }
    while True:
        try:
            request = wire.receive(channel)
        except EOFError:
            return
        try:
            arguments = [wire.decode(argument, from_handle) for argument in request["args"]]
            result = operations[request["op"]](*arguments, **request.get("options", {}))
            reply = {"value": wire.encode(result, to_handle)}
        except BaseException as error:
            reply = {"error": _name(error)}
        wire.send(channel, reply)
