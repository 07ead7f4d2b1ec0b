"""A system-call filter for programs under test: one process, no network, no signals, no privileges.

Comes in: whether programs may write files, in which case Landlock says where. `install` confines
the calling process and its threads for good, root or not. Needs Linux on x86-64; elsewhere it
returns False, and only the resource limits of `child.py` remain. A refused call fails with EPERM,
which Python raises as an ordinary PermissionError.
"""

import ctypes
import errno
import functools
import os
import platform
import struct

from gopd_jax.rewards.sandbox.syscalls import REFUSED, REFUSED_READ_ONLY

# System calls that are judged by their arguments.
_CLONE, _CLONE3, _OPEN, _OPENAT, _OPENAT2, _PRLIMIT = 56, 435, 2, 257, 437, 302
_CLONE_THREAD = 0x10000
_O_TMPFILE = 0x400000
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | _O_TMPFILE
# A descriptor can be told to send any signal to any process of this user once it is readable.
_SIGNAL_COMMANDS = {
    72: (8, 10, 15),  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX
    16: (0x8901, 0x8902),  # ioctl: FIOSETOWN, SIOCSPGRP
}

# The filter is a program for the kernel's BPF machine: include/uapi/linux/{bpf_common,seccomp}.h.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16
_AUDIT_ARCH_X86_64 = 0xC000003E
_FIRST_X32_NUMBER = 0x40000000
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _load_argument(index: int, high: bool = False) -> Instruction:
    """Loads the low or high half of a system call's argument."""
    return _LOAD, 0, 0, _ARGUMENTS_OFFSET + 8 * index + 4 * high


def _refuse(number: int, error: int = _EPERM) -> list[Instruction]:
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, error)]


def _filter(writes: bool) -> bytes:
    """The filter's BPF code. A jump is the number of instructions that are skipped."""
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _EPERM)
    code: list[Instruction] = [
        (_LOAD, 0, 0, _ARCHITECTURE_OFFSET),
        (_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_AT_LEAST, 0, 1, _FIRST_X32_NUMBER),  # the x32 interface: other numbers, the same calls
        refuse,
    ]
    for number in REFUSED.values():
        code += _refuse(number)
    if not writes:
        for number in REFUSED_READ_ONLY.values():
            code += _refuse(number)
    for number in (_CLONE3, _OPENAT2):
        # Their flags lie behind a pointer, which a filter cannot follow. libc falls back to the
        # older call when it sees ENOSYS.
        code += _refuse(number, _ENOSYS)
    if not writes:
        for number, index in ((_OPEN, 1), (_OPENAT, 2)):
            code += [(_EQUAL, 0, 4, number), _load_argument(index), (_ANY_BIT, 0, 1, _WRITE_FLAGS)]
            code += [refuse, allow]
    code += [(_EQUAL, 0, 4, _CLONE), _load_argument(0), (_ANY_BIT, 1, 0, _CLONE_THREAD)]
    code += [refuse, allow]
    for number, commands in _SIGNAL_COMMANDS.items():
        code += [(_EQUAL, 0, 2 * len(commands) + 2, number), _load_argument(1)]
        for command in commands:
            code += _refuse(command)
        code += [allow]
    # prlimit64 may read limits, as libc does for every thread, but not set them: its third
    # argument, the new limit, must be NULL.
    code += [(_EQUAL, 0, 5, _PRLIMIT), _load_argument(2), (_EQUAL, 0, 2, 0)]
    code += [_load_argument(2, high=True), (_EQUAL, 1, 0, 0), refuse, allow]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    """struct sock_fprog of include/uapi/linux/filter.h."""

    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


@functools.cache
def prepare(writes: bool) -> tuple[ctypes.CDLL, _Program, ctypes.Array]:
    """Makes what `install` needs: called once before the forks, it saves each child 0.7 ms."""
    code = _filter(writes)
    buffer = ctypes.create_string_buffer(code, len(code))  # returned, so that it stays alive
    return ctypes.CDLL(None), _Program(len(code) // 8, ctypes.addressof(buffer)), buffer


def hide_memory() -> None:
    """Stops other processes of this user from reading this one's memory (/proc/PID/mem)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def install(writes: bool = False) -> bool:
    """Filters the system calls of the calling process from here on.

    Args:
        writes: allow writing files, because Landlock limits where.

    Returns:
        False if this machine cannot filter system calls.
    """
    if platform.system() != "Linux" or os.uname().machine != "x86_64":
        return False
    libc, program, _ = prepare(writes)
    # Without capabilities, root too is refused the memory of non-dumpable processes, such as the
    # judge's.
    libc.capset(struct.pack("II", _CAPABILITY_VERSION_3, 0), bytes(24))
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0
    )
