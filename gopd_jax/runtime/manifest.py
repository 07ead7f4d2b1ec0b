"""The manifest of a checkpoint: which files it has, their sizes and their checksums.

In: the folder of a checkpoint. Out: manifest.json in that folder, and later what has become of the
files since. Each host hashes its share of the files. Does not know what they hold.
"""

from collections.abc import Iterator, Sequence
import concurrent.futures
import hashlib
import json
import os

from etils import epath

from gopd_jax.runtime.files import JsonObject, replace_json
from gopd_jax.runtime.processes import share, shared, together, told_to_first

MANIFEST = "manifest.json"
DAMAGED = ".damaged"  # ends the name of a folder that was set aside
CHUNK = 2**20
READERS = 4  # files read at once by a check, for which a command waits
SECONDS = 1800  # that the first host waits for the checksums of another


def write_manifest(folder: epath.Path) -> None:
    """Writes the manifest of a checkpoint that is complete; a kill leaves it whole or absent.

    Every host must call it; the first one writes. On an object store (gs://) the manifest holds
    sizes alone: the store keeps and checks checksums itself, and to read a checkpoint back would
    cost as much as to save it.
    """
    hashed = "://" not in str(folder)
    mine = {name: _entry(folder / name, hashed) for name in share(list(_names(folder)))}
    if parts := told_to_first(f"checksums of {folder}", mine, SECONDS):
        files = {name: entry for part in parts for name, entry in part.items()}
        replace_json(folder / MANIFEST, {"files": dict(sorted(files.items()))})


def has_manifest(folder: epath.Path) -> bool:
    return (folder / MANIFEST).exists()


def damage(folder: epath.Path) -> str:
    """What is wrong with a checkpoint, by its manifest; "" for an intact one; on every host.

    Sizes are compared first, because that is quick. Files that the manifest does not list are
    ignored, and so is all of a checkpoint without a manifest.
    """
    found = together(lambda: _damage_seen(folder))
    if reasons := list(filter(None, found)):
        return reasons[0]
    files = _files(folder)
    hashed = [name for name, entry in files.items() if "sha256" in entry]
    digests = shared(lambda names: _sha256_of([folder / name for name in names]), hashed)
    for name, sha256 in zip(hashed, digests, strict=True):
        if sha256 != files[name]["sha256"]:
            return f"{name} has other content than its sha256 says"
    return ""


def _damage_seen(folder: epath.Path) -> str:
    """What is wrong with the names and sizes of the files, as this host sees them."""
    if not has_manifest(folder):
        return ""
    files = _files(folder)
    if not files:
        return f"its {MANIFEST} cannot be read"
    for name, entry in files.items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if (size := path.stat().length) != entry["bytes"]:
            return f"{name} has {size:,} bytes, expected {entry['bytes']:,}"
    return ""


def _sha256_of(paths: Sequence[epath.Path]) -> list[str]:
    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        return list(readers.map(_sha256, paths))


def set_aside(folder: epath.Path) -> epath.Path:
    """Renames a checkpoint so that it no longer counts as one, and returns its new path."""
    for number in range(1, 1000):
        name = folder.name + DAMAGED + (f"-{number}" if number > 1 else "")
        path = folder.parent / name
        if not path.exists():
            folder.rename(path)
            return path
    raise ValueError(f"{folder.parent} holds 1,000 damaged copies of {folder.name}: delete some")


def were_set_aside(folder: epath.Path) -> list[str]:
    """Names of the checkpoints in `folder` that were set aside."""
    if not folder.exists():
        return []
    return sorted(path.name for path in folder.iterdir() if DAMAGED in path.name)


def _names(folder: epath.Path, below: str = "") -> Iterator[str]:
    """Every file of a checkpoint, as its path within `folder`; the manifest is left out."""
    for path in sorted((folder / below).iterdir()):
        name = os.path.join(below, path.name)
        if path.is_dir():
            yield from _names(folder, name)
        elif name not in (MANIFEST, os.path.splitext(MANIFEST)[0] + ".tmp"):
            yield name


def _entry(path: epath.Path, hashed: bool) -> JsonObject:
    entry: JsonObject = {"bytes": path.stat().length}
    return entry | {"sha256": _sha256(path)} if hashed else entry


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)  # other threads run meanwhile
    return digest.hexdigest()


def _files(folder: epath.Path) -> dict[str, JsonObject]:
    """The files that a manifest lists; empty if it is damaged itself."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {str(name): {"bytes": int(e["bytes"])} | e for name, e in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
