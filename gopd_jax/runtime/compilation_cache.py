"""JAX's persistent compilation cache: a program is compiled once on a machine, not once a process.

In: where it is to be. Out: JAX's settings. The cached program is the one that a fresh compilation
makes, so that no number depends on it. Trouble with the folder is a warning: the run compiles.
"""

from collections.abc import Mapping
import contextlib
import functools
import hashlib
import os
from pathlib import Path
import platform
import re
from typing import TextIO
import warnings

from etils import epath
import filelock
import jax

from gopd_jax.runtime.progress import say
from gopd_jax.runtime.user_cache import OFF, VARIABLE, cache_folder

# Below this a compilation is about as fast as a look into the folder. JAX's default, 1 s, leaves
# out most programs of a small model.
LEAST_SECONDS = 0.05
MAX_BYTES = 4 * 2**30  # then the entries go that were not used for the longest time
LOCK, LOCK_SECONDS = ".lockfile", 10.0  # the lock is JAX's
ENTRY, USED = "-cache", "-atime"  # suffixes of JAX's files: a program, and when it was last used
# Lines of /proc/cpuinfo that say which processor it is and what it can do.
PROCESSOR = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU ")
TROUBLE = re.compile(r"Error (reading|writing) persistent compilation cache entry for '(.*?)': ")


def use_compilation_cache(setting: str = "") -> None:
    """Turns the cache on for this process; to be called before anything is compiled.

    JAX's own settings win: with JAX_COMPILATION_CACHE_DIR the cache is there, and with
    JAX_ENABLE_COMPILATION_CACHE=false there is none. Next is GOPD_CACHE=off, and then `setting`.

    Args:
        setting: a folder, local or on an object store; "off" for no cache; empty for "compiled" in
            the user's cache folder, see `user_cache`. A folder gets one below it for each kind of
            machine.
    """
    _wrap_warnings()
    if jax.config.jax_compilation_cache_dir is not None:
        _set({"jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS})
        return
    if not jax.config.jax_enable_compilation_cache:
        return
    if setting == OFF or os.environ.get(VARIABLE) == OFF:
        return
    root = epath.Path(setting) if setting else cache_folder("compiled")
    if root is None:
        return
    folder, is_remote = root / machine(), "://" in str(root)
    values: dict[str, object] = {"jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS}
    if is_remote:  # XLA writes its autotuning results to local files only
        values["jax_persistent_cache_enable_xla_caches"] = "none"
    else:  # the limit needs a file lock
        values["jax_compilation_cache_max_size"] = MAX_BYTES
    _set(values)
    try:
        _tidy(folder, is_remote)
    except (OSError, filelock.Timeout, NotImplementedError) as e:
        reason = getattr(e, "strerror", None) or e
        say(f"warning: compilation cache {folder} is not used ({reason}): every start compiles")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))


def where() -> str:
    """The folder of the cache that is in use, or "off"."""
    folder = jax.config.jax_compilation_cache_dir
    return folder if folder and jax.config.jax_enable_compilation_cache else OFF


@functools.cache
def machine() -> str:
    """What XLA compiles for on the host: instruction set, number of cores, processor.

    JAX does not look at the number of cores when it looks for a program, although XLA divides the
    work of one by it, and a program for another processor may use instructions that this one lacks.
    """
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        kept = [line for line in lines if line.startswith(PROCESSOR)]
    except OSError:
        kept = [platform.processor(), platform.node()]
    digest = hashlib.sha256("\n".join(kept).encode()).hexdigest()[:12]
    return f"{platform.machine()}-{usable}-cores-{digest}"


def _set(values: Mapping[str, object]) -> None:
    """Sets what the environment does not set."""
    for name, value in values.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _tidy(folder: epath.Path, is_remote: bool) -> None:
    """Makes the folder and tries to write to it; removes what a killed process has left half done.

    JAX writes an entry first and the time of its use after that. With an entry that lacks the time,
    JAX 0.10 writes no further one.

    Raises:
        OSError: the folder cannot be written.
        filelock.Timeout: another process holds its lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_remote:
        (folder / LOCK).write_text("")
        return
    path = Path(folder)
    with filelock.FileLock(path / LOCK, timeout=LOCK_SECONDS):
        probe = path / f"{LOCK}.probe"
        probe.write_text("x")
        probe.unlink()
        if jax.config.jax_compilation_cache_max_size == -1:
            return  # without a limit JAX writes no times
        names = {p.name for p in path.iterdir()}
        entries = {n.removesuffix(ENTRY) for n in names if n.endswith(ENTRY)}
        used = {n.removesuffix(USED) for n in names if n.endswith(USED)}
        for half in [f"{key}{ENTRY}" for key in entries - used]:
            (path / half).unlink()


@functools.cache
def _wrap_warnings() -> None:
    """JAX's warnings of the cache become one line, and an entry that cannot be read goes.

    JAX would leave it there, and warn and compile at every start.
    """
    show, writing = warnings.showwarning, set()

    def show_ours(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        found = TROUBLE.match(str(message))
        if found is None:
            show(message, category, filename, lineno, file, line)
            return
        reason = " ".join(str(message)[found.end() :].split())
        action, module = found.groups()
        if action == "reading":
            _remove(module)
            say(f"warning: compilation cache: damaged entry of {module} is replaced ({reason})")
        elif not writing:
            writing.add(action)
            say(f"warning: compilation cache {where()} cannot be written ({reason})")

    warnings.showwarning = show_ours


def _remove(module: str) -> None:
    """Removes the entries of a module; which of them is damaged is not known."""
    with contextlib.suppress(OSError):
        for path in epath.Path(where()).glob(f"{module}-*{ENTRY}"):
            path.unlink()
            path.with_name(path.name.removesuffix(ENTRY) + USED).unlink(missing_ok=True)
