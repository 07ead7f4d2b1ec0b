"""Limits which files programs under test may read and write, with Linux's Landlock.

Comes in: folders. `rules` makes a ruleset once; `restrict` binds the calling process and its
threads to it for good, without any privilege. Needs Linux 5.13 or newer with Landlock enabled;
elsewhere `rules` returns None.

Everything that the ruleset does not allow fails with EACCES, which Python raises as a
PermissionError: reading other files, listing other folders, and making, changing or removing
anything outside the one writable folder, if there is one. Metadata stays visible: `os.stat` still
tells whether a file exists and how large it is.

Source of the numbers: include/uapi/linux/landlock.h of the Linux kernel.
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
# What each version of the interface can refuse: the number of file rights, of TCP rights, and of
# scopes (abstract sockets, signals).
_KNOWN = {1: (13, 0, 0), 2: (14, 0, 0), 3: (15, 0, 0), 4: (15, 2, 0), 5: (16, 2, 0), 6: (16, 2, 2)}

SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")


def version() -> int:
    """The version of the kernel's Landlock interface; 0 if it has none."""
    if platform.system() != "Linux":
        return 0
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))


def readable(hidden: str, *folders: str) -> list[str]:
    """The paths that programs may read.

    These are Python's own modules, installed packages, system libraries and `folders`.

    Args:
        hidden: a folder that stays unreadable even if it lies inside one of these.
    """
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    package_folders = ("site-packages", "dist-packages", "lib-dynload")
    packages = [path for path in sys.path if os.path.basename(path) in package_folders]
    allowed = (*python, *packages, *SYSTEM, *DEVICES, *folders)
    hidden, found = os.path.realpath(hidden), []
    for path in dict.fromkeys(os.path.realpath(path) for path in allowed):
        found += _without(path, hidden)
    return found


def _without(path: str, hidden: str) -> Iterator[str]:
    """`path`, or, if `hidden` lies inside it, the entries around `hidden`.

    A Landlock rule allows a whole folder; it cannot make an exception inside one.
    """
    if path == hidden:
        return
    if not hidden.startswith(os.path.join(path, "")):
        yield path
        return
    for entry in os.scandir(path):
        yield from _without(entry.path, hidden)


def rules(paths: list[str], abi: int | None = None, writable: str | None = None) -> int | None:
    """Makes a ruleset that allows reading `paths` and everything below them.

    Args:
        paths: files and folders. Those that do not exist are skipped.
        abi: the newest version of the interface to use; None takes the kernel's.
        writable: one of `paths`, a folder whose contents may also be made, changed and removed.

    Returns:
        The file descriptor of the ruleset, or None if Landlock is missing.
    """
    abi = min(version() if abi is None else abi, max(_KNOWN))
    if abi < 1:
        return None
    libc = ctypes.CDLL(None)
    files, network, scopes = ((1 << count) - 1 for count in _KNOWN[abi])
    known_bytes = 8 if abi < 4 else 16 if abi < 6 else 24
    attributes = struct.pack("QQQ", files, network, scopes)[:known_bytes]
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return None
    for path in paths:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # not every system has every folder
            continue
        access = _READ_FILE
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            access |= _READ_DIR
        if path == writable:
            access |= _CHANGE
        rule = struct.pack("=Qi", access & files, fd)
        failed = libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0
        os.close(fd)
        if failed:
            os.close(ruleset)
            return None
    return ruleset


def restrict(ruleset: int) -> bool:
    """Binds the calling process to the ruleset for good; False if that fails."""
    libc = ctypes.CDLL(None)
    return (
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        and libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0
    )
