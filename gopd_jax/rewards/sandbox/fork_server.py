"""The fork server: makes one confined child process for each program under test.

Comes in, from `remote.Program` over a socket: jobs (`child.Job`) with file descriptors. Goes out:
the guards that this machine has, then a child for each job, which answers for itself (`child.py`).
The judge watches the wall-clock time; whatever a child does, it is killed when the judge says so or
is gone.

The guards are seccomp (no process, signal or socket), Landlock (reads Python and system libraries
only), and a scratch folder, the only place where a program may write. None of them needs root.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time

from gopd_jax.rewards import wire
from gopd_jax.rewards.modules import COMMON_MODULES
from gopd_jax.rewards.sandbox import landlock, seccomp
from gopd_jax.rewards.sandbox.child import Job, confine, run_program
from gopd_jax.rewards.sandbox.scratch import Scratch


def fork_server(control: socket.socket, memory_mb: int, hidden: str) -> None:
    """Forks one child for each job until the socket closes.

    First sends the guards in force, {"seccomp": bool, "landlock": bool, "scratch": bool}. Then, for
    each child, receives file descriptors, a job, and, when the child is no longer needed, the
    seconds that it may take to end by itself; answers with its exit status once it is dead, or with
    None if it had to be killed. Programs run in the current folder, which must be empty.

    Args:
        control: socket to the judge.
        memory_mb: address space of a program, in MiB on top of the interpreter's.
        hidden: a folder that no program may read, the project's own.
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
        # Made once, which takes 0.2 ms; each child only binds itself to it.
        ruleset = landlock.rules(readable, writable=writable)
        writes = scratch is not None and ruleset is not None
        guards = {
            "seccomp": _can_filter(writes),
            "landlock": ruleset is not None,
            "scratch": writes,
        }
        wire.send(control.fileno(), guards)
        while (received := _next_job(control)) is not None:
            status = _run_one(control, *received, memory_mb, ruleset, writes)
            if scratch is not None and scratch.clean():
                os.close(ruleset)
                ruleset = landlock.rules(readable, writable=writable)  # for the new folder
            try:
                wire.send(control.fileno(), status)
            except OSError:
                return


def _next_job(control: socket.socket) -> tuple[Job, list[int]] | None:
    """The next job and its file descriptors, or None when the judge is gone."""
    try:
        first, fds, _, _ = socket.recv_fds(control, 1, 3)
        return (wire.receive(control.fileno()), fds) if first else None
    except (EOFError, OSError):
        return None


def _run_one(
    control: socket.socket,
    job: Job,
    fds: list[int],
    memory_mb: int,
    ruleset: int | None,
    writes: bool,
) -> int | None:
    """Runs a child for the job, and kills it when the judge says so or is gone.

    Returns:
        The exit status of a child that ended by itself, negative for a signal; otherwise None.
    """
    me, pid = os.getpid(), os.fork()
    if pid == 0:
        status = 1
        try:
            confine(me, job, fds, memory_mb, ruleset, writes)
            status = run_program(job)
        finally:
            os._exit(status)
    for fd in fds:
        os.close(fd)
    try:
        deadline = time.monotonic() + wire.receive(control.fileno())
    except (EOFError, OSError):
        deadline = 0.0
    # A process that is ending takes a moment. The judge sends nothing in the meantime: its socket
    # becomes readable if the judge is gone.
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= deadline or select.select([control], [], [], 0.001)[0]:
            break
    for kill in (os.killpg, os.kill):  # the child may not have made its process group yet
        try:
            kill(pid, signal.SIGKILL)
        except OSError:
            pass
    os.waitpid(pid, 0)
    return None


def _can_filter(writes: bool) -> bool:
    """Whether this machine can filter system calls, as found out by a child that tries."""
    if sys.platform == "linux":
        seccomp.prepare(writes)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if seccomp.install(writes) else 1)
    return os.waitpid(pid, 0)[1] == 0
