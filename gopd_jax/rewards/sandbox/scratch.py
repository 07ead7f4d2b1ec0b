"""The folder that programs under test may write in: a small tmpfs that no other process can see.

Comes in: an empty folder. Goes out: the same path, writable and limited in bytes and files, and
made anew after a program that left something in it. Needs unprivileged user namespaces, and
Landlock of version 3 (Linux 6.2) to keep programs from writing elsewhere; older versions cannot
refuse truncating. Without them programs cannot write any file.
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
    """A tmpfs mounted over `folder`, in user and mount namespaces of the calling process.

    The process must be single-threaded.

    Raises:
        OSError: if this machine refuses the namespaces or the mount.
    """

    def __init__(self, folder: str):
        is_x86 = sys.platform == "linux" and platform.machine() == "x86_64"
        if not is_x86 or landlock.version() < LANDLOCK_VERSION:
            raise OSError(errno.ENOSYS, "no system-call filter, or no Landlock of version 3")
        self.folder, self._libc = folder, ctypes.CDLL(None, use_errno=True)
        user, group = os.getuid(), os.getgid()
        identity = {
            "setgroups": "deny",
            "uid_map": f"{user} {user} 1",
            "gid_map": f"{group} {group} 1",
        }
        self._call("unshare", _NEW_USER | _NEW_MOUNTS)
        # A process that hides its memory does not own its files in /proc.
        self._libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        try:
            for name, text in identity.items():
                with open(f"/proc/self/{name}", "w") as file:
                    file.write(text)
        finally:
            self._libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
        self._mount()

    def clean(self) -> bool:
        """Empties the folder after a program has ended; True if that made a new folder."""
        if not os.listdir(self.folder):
            return False
        self.close()  # faster and safer than deleting whatever was built there
        self._mount()
        return True

    def close(self) -> None:
        """Unmounts the folder."""
        self._call("umount2", self.folder.encode(), _DETACH)

    def _mount(self) -> None:
        options = f"size={SIZE_MB}m,nr_inodes={FILES},mode=0700".encode()
        folder = self.folder.encode()
        self._call("mount", b"scratch", folder, b"tmpfs", _NOSUID_NODEV_NOEXEC, options)

    def _call(self, name: str, *arguments: int | bytes) -> None:
        if getattr(self._libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
