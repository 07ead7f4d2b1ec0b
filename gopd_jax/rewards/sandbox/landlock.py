"""Which files programs under test may read: the Python installation and system libraries, by Linux's Landlock.

Comes in: folders; `rules()` makes a ruleset once, `restrict()` binds the calling process and its threads for good, without any
privilege. Needs Linux 5.13 or newer with Landlock switched on; elsewhere `rules()` gives None. What is not allowed fails with
EACCES, a PermissionError: reading other files, listing other folders, making, changing or removing anything elsewhere than in
the one writable folder, if there is one. Metadata stays
open: `os.stat` still tells whether a file exists and how large it is. Numbers: include/uapi/linux/landlock.h.
"""

from collections.abc import Iterator
import ctypes
import os
import platform
import stat
import struct
import sys
import sysconfig

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_DIR, _MAKE_FILE, _MOVE, _TRUNCATE = 1 << 7, 1 << 8, 1 << 13, 1 << 14
_CHANGE = _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_FILE | _MOVE | _TRUNCATE
_PR_SET_NO_NEW_PRIVS = 38
# How many rights of files and of TCP, and scopes (abstract sockets, signals), each version of the interface can refuse.
_KNOWN = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0), 6: (16, 2, 2)}

SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def version() -> int:
    """Version of the kernel's Landlock interface, 0 where there is none."""
    if platform.system() != "Linux":
        return 0
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))


def readable(hidden: str, *folders: str) -> list[str]:
    """What programs may read: Python's own modules, installed packages, system libraries and `folders`; never `hidden`."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    packages = [
        path
        for path in sys.path
        if os.path.basename(path) in ("site-packages", "dist-packages", "lib-dynload")
    ]
    hidden, found = os.path.realpath(hidden), []
    for path in dict.fromkeys(
        os.path.realpath(path) for path in (*python, *packages, *SYSTEM, *DEVICES, *folders)
    ):
        found += _without(path, hidden)
    return found


def _without(path: str, hidden: str) -> Iterator[str]:
    """`path`, or, where `hidden` lies in it, the entries around `hidden`: a rule cannot take a folder out of another."""
    if path == hidden:
        return
    if not hidden.startswith(os.path.join(path, "")):
        yield path
        return
    for entry in os.scandir(path):
        yield from _without(entry.path, hidden)


def rules(paths: list[str], abi: int | None = None, writable: str | None = None) -> int | None:
    """File descriptor of a ruleset that allows reading `paths` and what is below them; None where Landlock is missing.

    abi: the interface to use, at most and by default the kernel's. writable: a folder, of `paths`, whose files and folders may
    be made, changed and removed too.
    """
    abi = min(version() if abi is None else abi, max(_KNOWN))
    if abi < 1:
        return None
    libc = ctypes.CDLL(None)
    files, network, scopes = ((1 << count) - 1 for count in _KNOWN[abi])
    attributes = struct.pack("QQQ", files, network, scopes)[
        : 8 if abi < 4 else 16 if abi < 6 else 24
    ]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return None
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not every system has every folder
            continue
        access = (
            _READ_FILE
            | (_READ_DIR if stat.S_ISDIR(os.fstat(fd).st_mode) else 0)
            | (_CHANGE if path == writable else 0)
        )
        done = libc.syscall(
            _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access & files, fd), 0
        )
        os.close(fd)
        if done != 0:
            os.close(ruleset)
            return None
    return ruleset


def restrict(ruleset: int) -> bool:
    """Bind the calling process to the ruleset; False if that fails."""
    libc = ctypes.CDLL(None)
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    )
