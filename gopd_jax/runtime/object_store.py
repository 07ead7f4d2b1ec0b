"""Models on an object store (gs://): a folder there becomes a folder on this host's disk.

In: the path of a folder of a model. Out: a local folder with its files, read once for each version
of them. Processes of one host wait for each other, and a copy that was interrupted is never used.
Anything else that is read or written there goes through etils, file by file.
"""

import atexit
from collections.abc import Iterator
import concurrent.futures
import contextlib
import fcntl
import functools
import hashlib
import json
import os
from pathlib import Path
import shutil
import tempfile
import threading
import time

from etils import epath

from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.files import is_remote
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.runtime.user_cache import cache_folder

# What a model's folder is read for: weights, config, tokenizer, chat template, model card.
ENDINGS = (".safetensors", ".json", ".txt", ".jinja", ".model", ".md")
CHUNK = 2**23  # bytes
READERS = 8  # files read at once
PARTIAL = ".partial"  # ends the name of a copy that is not complete
MEGABYTE = 10**6


def check_reachable(option: str, path: str) -> None:
    """Checks that this host can ask an object store for a path, there or not.

    Args:
        option: what gives the path, for errors.

    Raises:
        ValueError: the store's client is not installed, or it refuses.
    """
    if is_remote(path):
        try:
            with contextlib.suppress(FileNotFoundError):  # `exists` would be silent of a refusal
                epath.Path(path).stat()
        except Exception as e:  # each client of a store has errors of its own
            raise ValueError(f"{option}={path!r}: {_reason(e)}") from e


def local_root(kind: str) -> Path:
    """A folder of this host for what is read from an object store: in the user's cache.

    Without a cache, or where that is remote itself, it lasts as long as the process.
    """
    folder = cache_folder(kind)
    if folder is None or is_remote(folder):
        return _of_this_process(kind)
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    return root


@functools.cache
def _of_this_process(kind: str) -> Path:
    folder = tempfile.mkdtemp(prefix=f"gopd_jax_{kind}_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache  # a process sees one version of a model
def local_copy(path: str) -> str:
    """The folder on this host with the files of a model on an object store.

    It is in `models` of the user's cache; without a cache it lasts as long as the process. Which
    version is there is told by the names, sizes and times of the files.

    Args:
        path: of the folder, such as gs://BUCKET/MODEL; a path that is not remote is returned.

    Raises:
        ValueError: it cannot be read, is not there, changes meanwhile, or does not fit on the disk.
    """
    if not is_remote(path):
        return path
    source = epath.Path(path)
    try:
        files = _files(source)
    except Exception as e:  # each client of a store has errors of its own
        raise _unreadable(path, e) from e
    if not files:
        raise ValueError(
            f"no model at {path!r}: expected a folder with config.json and *.safetensors there"
        )
    versions = [[name, size, changed] for name, (size, changed) in files.items()]
    name = f"{source.name}-{_short_hash(path)}"
    root = local_root("models")
    complete = root / f"{name}-{_short_hash(versions)}"
    with _alone(root / f"{name}.lock", path):
        if not complete.is_dir():
            for left in root.glob(f"{name}-*{PARTIAL}"):
                shutil.rmtree(left)
            partial = complete.with_name(complete.name + PARTIAL)
            partial.mkdir()
            _read(source, {n: size for n, (size, _) in files.items()}, partial)
            partial.rename(complete)
    return str(complete)


def _files(source: epath.Path) -> dict[str, tuple[int, int]]:
    """Size and time of each file that a model has, by name."""
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for file in sorted(source.iterdir()):
            if file.name.endswith(ENDINGS):
                stat = file.stat()
                found[file.name] = (stat.length, stat.mtime)
    return found


@contextlib.contextmanager
def _alone(lock: Path, path: str) -> Iterator[None]:
    """Waits until no other process of this host reads the model; ends with the process."""
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process of this host is reading {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(source: epath.Path, sizes: dict[str, int], folder: Path) -> None:
    """Copies files of these sizes into a local folder, and shows how far it is."""
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free:
        raise ValueError(
            f"{source} has {total / 1e9:.1f} GB, but {folder.parent} has {free / 1e9:.1f} GB left: "
            "expected room for it; GOPD_CACHE names a folder on another disk"
        )
    begun, done, shown, counting = time.perf_counter(), 0, 0, threading.Lock()
    whole = max(total // MEGABYTE, 1)
    with Bar(f"read {source}", whole, "MB") as bar:

        def count(read: int) -> None:
            nonlocal done, shown
            with counting:
                done += read
                bar.advance(done // MEGABYTE - shown)
                shown = done // MEGABYTE

        def copy(name: str) -> None:
            written = 0
            with (source / name).open("rb") as from_, open(folder / name, "wb") as to:
                while chunk := from_.read(CHUNK):
                    written += to.write(chunk)
                    count(len(chunk))
                to.flush()
                os.fsync(to.fileno())  # before the folder gets its name
            if written != sizes[name]:
                raise OSError(f"{name} had {sizes[name]:,} bytes, {written:,} were read")

        try:
            with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
                list(readers.map(copy, sizes))
        except Exception as e:
            raise _unreadable(str(source), e) from e
    seconds = time.perf_counter() - begun
    rate = total / MEGABYTE / max(seconds, 1e-9)
    say(f"read {source}: {len(sizes)} files, {total / MEGABYTE:,.1f} MB at {rate:,.0f} MB/s")


def _unreadable(path: str, error: Exception) -> ValueError:
    return ValueError(f"cannot read {path!r}: {_reason(error)}")


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"expected the client of its store, for gs:// pip install gcsfs ({brief(error)})"
    return f"expected a folder that this host may read ({brief(error)})"


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
