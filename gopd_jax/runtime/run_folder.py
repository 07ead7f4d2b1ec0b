"""The folder of a run: who works in it, and run.json.

run.json says what a run is made of, and with which versions each of its starts was made.
`gopd_jax.train` writes it; whoever reads a run folder reads it first and so notices a folder of
another format.
"""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import socket

from etils import epath
import jax

from gopd_jax.runtime.files import JsonObject, read_json, replace_json
from gopd_jax.runtime.progress import say

LOCK = ".lock"  # names the process that trains in the folder
FORMAT = 3  # of a run folder: run.json, checkpoints, logs; one higher with each incompatible change


def read_run(workdir: str) -> JsonObject:
    """The content of run.json: "config", "fingerprints" and "starts".

    Raises:
        ValueError: there is no run in that folder, or one of another format, or run.json is
            damaged.
    """
    path = epath.Path(workdir) / "run.json"
    if not path.exists():
        raise ValueError(
            f"{workdir!r} holds no run: expected a folder written by gopd_jax.train, but {path} "
            "does not exist"
        )
    run = read_json(path)
    if run.get("format", 1) != FORMAT:
        commit = next(filter(None, map(_commit, _starts(run))), None)
        raise ValueError(
            f"{workdir!r} is a run folder of format {run.get('format', 1)}, this version of "
            f"gopd_jax reads format {FORMAT}: use the version that wrote it"
            + (f" (commit {commit[:12]})" if commit else "")
            + ", or another folder"
        )
    run = read_json(path, config=dict, fingerprints=dict, starts=list)
    if len(_starts(run)) < len(run["starts"]):
        raise ValueError(f"{path} is damaged: expected only JSON objects in its 'starts'")
    return run


def _starts(run: JsonObject) -> list[JsonObject]:
    starts = run.get("starts")
    return [s for s in starts if isinstance(s, dict)] if isinstance(starts, list) else []


def _commit(start: JsonObject) -> str | None:
    return start.get("git_commit") and str(start["git_commit"])


def holds_run(workdir: str) -> bool:
    """Whether there is a run in a folder.

    Raises:
        ValueError: there are checkpoints without run.json, which says of which run they are.
    """
    folder = epath.Path(workdir)
    if (folder / "run.json").exists():
        return True
    checkpoints = folder / "checkpoints"
    if checkpoints.exists() and (names := sorted(path.name for path in checkpoints.iterdir())):
        raise ValueError(
            f"{workdir!r} has no run.json, but checkpoints ({', '.join(names)}): expected both or "
            "neither. Put run.json back, or use another folder"
        )
    return False


def read_summary(workdir: str, steps: int = 0) -> JsonObject | None:
    """The summary of a run that has finished at least `steps` steps, or None.

    Raises:
        ValueError: it is damaged.
    """
    path = epath.Path(workdir) / "summary.json"
    result = read_json(path, steps=int) if path.exists() else None
    return result if result and result["steps"] >= steps else None


def write_run(workdir: str, run: JsonObject) -> None:
    """Writes run.json, the format included."""
    path = epath.Path(workdir) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_json(path, {"format": FORMAT} | run)


@contextlib.contextmanager
def one_process(workdir: str) -> Iterator[None]:
    """Keeps other processes from training in the folder, by a lock that ends with the process.

    On several hosts, the first holds it for all. Object stores (gs://) have no locks, and some
    network file systems have none; a line says so of the latter.

    Raises:
        ValueError: another process trains there.
    """
    if "://" in workdir or jax.process_index() > 0:
        yield
        return
    os.makedirs(workdir, exist_ok=True)
    with open(os.path.join(workdir, LOCK), "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            lock.seek(0)
            raise ValueError(
                f"--workdir={workdir}: {lock.read() or 'another process'} is training there; "
                "expected a folder that no other training uses"
            ) from e
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            say(f"warning: {workdir} has no locks ({e.strerror}): start one training there only")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} of {socket.gethostname()}")
        lock.flush()
        yield
