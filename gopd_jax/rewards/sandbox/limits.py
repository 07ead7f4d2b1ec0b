"""Limits that a forked child of a worker sets on itself: its memory, and death with its parent."""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Asks the kernel to send SIGKILL to this process when its parent ends, whatever it is doing.

    The parent must be single-threaded: the kernel watches the thread that forked, not the process.

    Args:
        parent: process id of the parent. If it has ended already, this process exits at once.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit_memory(memory_mb: int) -> None:
    """Limits the address space of this process to its present size plus `memory_mb` MiB."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (memory_mb << 20),) * 2)
