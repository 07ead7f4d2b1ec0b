"""The folder that programs under test may write in: a small tmpfs which the fork server and its programs alone can see.

Comes in: an empty folder. Goes out: the same path, writable and limited in bytes and files, made anew after a program that left
something in it. It needs user namespaces, which want no privilege, and Landlock of version 3 to keep programs from writing
elsewhere (Linux 6.2; older ones do not know about truncating). Without one of them nothing can be written.
"""

import ctypes
import errno
import os
import platform
import sys

from gopd_jax.rewards.sandbox import landlock

SIZE_MB, FILES = 16, 1024
LANDLOCK_VERSION = 3
_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x20000
_NOSUID_NODEV_NOEXEC, _DETACH = 2 | 4 | 8, 2
_PR_SET_DUMPABLE = 4


class Scratch:
    """Binds the calling process, of one thread, to namespaces of its own; raises OSError where the machine refuses that."""

    def __init__(self, folder: str):
        if (
            sys.platform != "linux"
            or platform.machine() != "x86_64"
            or landlock.version() < LANDLOCK_VERSION
        ):
            raise OSError(errno.ENOSYS, "no system-call filter, or no Landlock of version 3")
        self.folder, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        self._call("unshare", _NEW_USER | _NEW_MOUNTS)
        self._libc.prctl(
            _PR_SET_DUMPABLE, 1, 0, 0, 0
        )  # a process that hides its memory does not own its files in /proc
        try:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{user} {user} 1"),
                ("gid_map", f"{group} {group} 1"),
            ):
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        finally:
            self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._mount()

    def clean(self) -> bool:
        """Empties the folder after a program has gone; True if it is another one than before."""
        if not os.listdir(self.folder):
            return False
        self.close()  # faster and safer than taking apart whatever was built there
        self._mount()
        return True

    def close(self) -> None:
        self._call("umount2", self.folder.encode(), _DETACH)

    def _mount(self) -> None:
        options = f"size={SIZE_MB}m,nr_inodes={FILES},mode=0700".encode()
        self._call(
            "mount", b"scratch", self.folder.encode(), b"tmpfs", _NOSUID_NODEV_NOEXEC, options
        )

    def _call(self, name: str, *arguments: int | bytes) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
