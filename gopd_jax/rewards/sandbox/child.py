"""The confined process of one program under test: takes limits, runs the program, answers calls.

Comes in, from the fork server: a `Job` and file descriptors, never a test or an expected value.
Goes out: what the program returns, by value (`wire.encode`). This process decides nothing, so that
it holds no verdict for a program to forge. A program may tamper with everything here, and still has
to return the right values.
"""

import contextlib
import operator
import os
import resource
import sys
import tempfile
import types
from typing import Any, TypedDict

from gopd_jax.rewards import wire
from gopd_jax.rewards.sandbox import landlock, seccomp
from gopd_jax.rewards.sandbox.limits import die_with_parent, limit_memory
from gopd_jax.rewards.sandbox.scratch import SIZE_MB

CHANNEL = 3  # file descriptor of the socket to the judge
MAX_OPEN_FILES = 32
MESSAGE_LIMIT = 500  # characters of what an exception says
_ENDED = {"error": None}  # the report of a program that has run to its end


class Job(TypedDict):
    """A program and its limits."""

    program: str  # source
    prelude: str  # source that runs before it
    script: bool  # run as __main__, with stdin and stdout; otherwise as a module to call into
    cpu_s: int  # limit of CPU seconds
    hidden_paths: list[str]  # entries of sys.path that the program must not see


def confine(
    parent: int,
    job: Job,
    fds: list[int],
    memory_mb: int,
    ruleset: int | None,
    writes: bool,
) -> None:
    """Sheds what this process inherited from the fork server, and binds it to its limits.

    Args:
        parent: process id of the fork server.
        job: the program that will run.
        fds: the channel to the judge, then stdin and stdout of a script.
        memory_mb: address space in MiB on top of the present one.
        ruleset: Landlock ruleset; None if the machine has no Landlock.
        writes: whether the program may write in the current folder.
    """
    os.setsid()
    die_with_parent(parent)
    os.chdir(os.getcwd())  # enters the scratch folder that may have been mounted there since
    null = os.open(os.devnull, os.O_RDWR)
    limit_memory(memory_mb)
    if ruleset is not None and not landlock.restrict(ruleset):
        os._exit(1)  # never run a program with fewer guards than were reported
    high = [os.dup(fd) for fd in (fds + [null, null])[:3] + [null]]
    for target, fd in zip((CHANNEL, 0, 1, 2), high, strict=True):
        os.dup2(fd, target)
    os.closerange(CHANNEL + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    os.environ.clear()
    tempfile.tempdir = os.getcwd()
    sys.argv = ["program.py"]
    sys.path = [path for path in sys.path if path not in job["hidden_paths"]]
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)
    file_size = writes * SIZE_MB << 20
    limits = {
        resource.RLIMIT_CPU: job["cpu_s"],
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))
    if not seccomp.install(writes):
        # No processes, and no threads either; root is not bound by it.
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def run_program(job: Job) -> int:
    """Runs the program's top level, reports how it ended, and answers calls if it is no script.

    Returns:
        The exit status for this process.
    """
    module = types.ModuleType("__main__" if job["script"] else "solution")
    sys.modules[module.__name__] = module
    try:
        exec(compile(job["prelude"], "prelude.py", "exec"), module.__dict__)
        exec(compile(job["program"], "program.py", "exec"), module.__dict__)
        sys.stdout.flush()
        report, status = _ENDED, 0
    except BaseException as raised:
        report, status = _reported(raised), 1
        if job["script"] and isinstance(raised, SystemExit):
            with contextlib.suppress(ValueError):  # the program may have closed it
                sys.stdout.flush()
            # As in Python itself: a text is a message, and None is success.
            code = raised.code
            report, status = _ENDED, code & 255 if isinstance(code, int) else int(code is not None)
    with contextlib.suppress(OSError):  # likewise
        wire.send(CHANNEL, report)
    if report is _ENDED and not job["script"]:
        _serve(module)
    return status


def _reported(error: BaseException) -> dict[str, str]:
    """An exception as a message: the name of its type, and what it says."""
    try:
        says = str(error)[:MESSAGE_LIMIT]
    except BaseException:  # the program's own __str__
        says = ""
    return {"error": type(error).__name__, "message": says}


def _serve(module: types.ModuleType) -> None:
    """Answers the judge's requests about the program's names until the judge hangs up.

    A request is {"op", "args", "options"}; a reply is {"value"} or {"error"}. In between, a
    callable that the test passed in is called with {"callback", "args"}; the judge answers with its
    value.
    """
    objects: list[Any] = []
    index_of: dict[int, int] = {}

    def to_handle(value: Any) -> dict[str, Any]:
        if isinstance(value, types.ModuleType):
            return {"module": value.__name__}
        is_numpy = type(value).__module__ == "numpy" and hasattr(value, "dtype")
        if is_numpy and getattr(value, "ndim", 1) == 0:
            return wire.encode(value.item(), to_handle)  # a NumPy scalar is a plain number
        if id(value) not in index_of:
            index_of[id(value)] = len(objects)
            objects.append(value)
        return {"object": index_of[id(value)]}

    def from_handle(name: str, body: int) -> Any:
        if name == "object":
            return objects[body]
        return lambda *args: call_judge(body, args)  # "function": a callable of the test

    def call_judge(index: int, args: tuple) -> Any:
        wire.send(CHANNEL, {"callback": index, "args": wire.encode(args, to_handle)})
        return wire.decode(wire.receive(CHANNEL), from_handle)

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
            request = wire.receive(CHANNEL)
        except EOFError:
            return
        try:
            arguments = [wire.decode(argument, from_handle) for argument in request["args"]]
            result = operations[request["op"]](*arguments, **request.get("options", {}))
            reply = {"value": wire.encode(result, to_handle)}
        except BaseException as error:
            reply = _reported(error)
        wire.send(CHANNEL, reply)
