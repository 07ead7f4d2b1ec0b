"""A system-call filter for programs under test: one process, no network, no signals, no privileges, read-only files.

Comes in: whether files may be written after all, where Landlock says which; `install()` binds the calling process for good,
root or not, and its threads. It needs Linux on x86-64; elsewhere it returns False and only the resource limits of `sandbox.py`
remain. Numbers: arch/x86/entry/syscalls/syscall_64.tbl. A refused call fails with EPERM: an ordinary PermissionError.
"""

import ctypes
import errno
import functools
import os
import platform
import struct

_REFUSED = {
    "start a process": (
        57,
        58,
        59,
        322,
    ),  # fork vfork execve execveat (clone without CLONE_THREAD: below)
    "signal, trace or leave the process group": (
        62,
        200,
        234,
        129,
        297,
        424,
        434,
        438,
        101,
        310,
        311,
        440,
        109,
        112,
    ),
    "network": (41,),  # socket (socketpair stays: asyncio wants one)
    "raise limits or priorities": (160, 141, 142, 144, 203, 251, 314),
    "link files, make devices": (86, 88, 133, 259, 265, 266),
    "change what is known of files": (
        90,
        91,
        92,
        93,
        94,
        132,
        235,
        260,
        261,
        268,
        280,
        285,
        452,
        188,
        189,
        190,
        197,
        198,
        199,
    ),
    "memory that outlives it or has no limit": (
        29,
        64,
        68,
        240,
        319,
        447,
    ),  # shmget semget msgget mq_open memfd_*
    "other ways in": (
        425,
        426,
        427,
        298,
        321,
        323,
        248,
        249,
        250,
        304,
        303,
    ),  # io_uring perf bpf userfaultfd keys handles
    "identity": (105, 106, 113, 114, 116, 117, 119, 122, 123, 126),
    "mount and namespaces": (155, 161, 165, 166, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    "administration": (
        103,
        159,
        163,
        164,
        167,
        168,
        169,
        170,
        171,
        172,
        173,
        175,
        176,
        179,
        227,
        246,
        300,
        305,
        313,
        320,
    ),
}
_REFUSED_READ_ONLY = (
    76,
    77,
    82,
    83,
    84,
    85,
    87,
    258,
    263,
    264,
    316,
)  # truncate rename mkdir rmdir creat unlink, and ...at
# Descriptors that send a signal, any signal to any process of this user, when they can be read: refused by call and command.
_SIGNAL_SENDERS = {
    72: (8, 10, 15),
    16: (0x8901, 0x8902),
}  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX; ioctl: FIOSETOWN, SIOCSPGRP
_CLONE, _CLONE3, _OPEN, _OPENAT, _OPENAT2, _PRLIMIT = 56, 435, 2, 257, 437, 302
_CLONE_THREAD = 0x10000
_WRITE_FLAGS = (
    os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0x400000
)  # the last: O_TMPFILE
_AUDIT_ARCH_X86_64 = 0xC000003E
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38


def _argument(index: int, high: bool = False) -> int:
    return 16 + 8 * index + 4 * high


def _filter(writes: bool) -> bytes:
    """BPF code, one (code, jump if true, jump if false, constant) per instruction; jumps count instructions skipped."""
    code = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
    ]
    code += [
        (_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _EPERM),
    ]  # the x32 numbers, another door to the same calls
    refused = [n for numbers in _REFUSED.values() for n in numbers]
    for number in refused if writes else [*refused, *_REFUSED_READ_ONLY]:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    for number in (
        _CLONE3,
        _OPENAT2,
    ):  # their flags lie behind a pointer; libc falls back to the older call
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ENOSYS)]
    for number, index in () if writes else ((_OPEN, 1), (_OPENAT, 2)):
        code += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _argument(index)),
            (_ANY_BIT, 0, 1, _WRITE_FLAGS),
        ]
        code += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, 4, _CLONE), (_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 1, 0, _CLONE_THREAD)]
    code += [(_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    for number, commands in _SIGNAL_SENDERS.items():
        code += [(_EQUAL, 0, 2 * len(commands) + 2, number), (_LOAD, 0, 0, _argument(1))]
        for command in commands:
            code += [(_EQUAL, 0, 1, command), (_RETURN, 0, 0, _EPERM)]
        code += [(_RETURN, 0, 0, _ALLOW)]
    # prlimit64 may read limits (libc does for every thread) but not set them: its third argument must be NULL.
    code += [
        (_EQUAL, 0, 5, _PRLIMIT),
        (_LOAD, 0, 0, _argument(2)),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, _argument(2, high=True)),
    ]
    code += [(_EQUAL, 1, 0, 0), (_RETURN, 0, 0, _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]


@functools.cache
def prepare(writes: bool) -> tuple:
    """What `install` needs, made once before the forks: 0.7 ms."""
    code = _filter(writes)
    buffer = ctypes.create_string_buffer(code, len(code))
    return ctypes.CDLL(None), _Program(len(code) // 8, ctypes.addressof(buffer)), buffer


def hide_memory() -> None:
    """Other processes of this user may no longer read this one's memory (/proc/PID/mem)."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def install(writes: bool = False) -> bool:
    """Filter the calling process from here on; False if this machine cannot. writes: leave the writing of files to Landlock."""
    if platform.system() != "Linux" or os.uname().machine != "x86_64":
        return False
    libc, program, _ = prepare(writes)
    # Without capabilities, root too is refused the memory of non-dumpable processes, such as the judge's.
    libc.capset(struct.pack("II", _CAPABILITY_VERSION_3, 0), bytes(24))
    prctl = libc.prctl
    return (
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and prctl(_PR_SET_SECCOMP, 2, ctypes.byref(program), 0, 0) == 0
    )
