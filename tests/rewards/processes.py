"""What the tests see of processes: which ones are below another one, and which still run."""

from pathlib import Path
import time


def descendants(root: int) -> set[int]:
    """Every process below `root`, from /proc."""
    parents = _parents()
    found, before = {root}, set()
    while found != before:
        before, found = found, found | {pid for pid, parent in parents.items() if parent in found}
    return found - {root}


def children(root: int) -> set[int]:
    """The processes whose parent is `root`."""
    return {pid for pid, parent in _parents().items() if parent == root}


def alive(pids: set[int]) -> set[int]:
    """Those of `pids` that run: neither gone nor zombies."""
    states = {}
    for pid in pids:
        try:
            states[pid] = _stat(pid)[0]
        except OSError:
            continue
    return {pid for pid, state in states.items() if state != "Z"}


def wait_until_gone(pids: set[int], seconds: float) -> set[int]:
    """Waits until none of `pids` runs; returns those that do after `seconds`."""
    end = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < end:
        time.sleep(0.05)
    return alive(pids)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on: state, parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parents() -> dict[int, int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int(_stat(int(path.name))[1])
        except OSError:
            continue
    return parents
