"""The manifest of a checkpoint: which files it has, their sizes and their checksums.

In: the folder of a checkpoint. Out: manifest.json in that folder, and later what has become of the
files since. Does not know what the files hold.
"""

from collections.abc import Iterator
import concurrent.futures
import hashlib
import json
import os

from etils import epath

from gopd_jax.runtime.files import JsonObject, replace_json

MANIFEST = "manifest.json"
DAMAGED = ".damaged"  # ends the name of a folder that was set aside
CHUNK = 2**20
READERS = 4  # files read at once by a check, for which a command waits


def write_manifest(folder: epath.Path) -> None:
    """Writes the manifest of a checkpoint that is complete; a kill leaves it whole or absent.

    On an object store (gs://) it holds sizes alone: the store keeps and checks checksums itself,
    and to read a checkpoint back would cost as much as to save it.
    """
    hashed = "://" not in str(folder)
    files = {name: _entry(folder / name, hashed) for name in _names(folder)}
    replace_json(folder / MANIFEST, {"files": files})


def has_manifest(folder: epath.Path) -> bool:
    return (folder / MANIFEST).exists()


def damage(folder: epath.Path) -> str:
    """What is wrong with a checkpoint, by its manifest; "" for an intact one.

    Sizes are compared first, because that is quick. Files that the manifest does not list are
    ignored, and so is all of a checkpoint without a manifest.
    """
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
    hashed = [name for name, entry in files.items() if "sha256" in entry]
    with concurrent.futures.ThreadPoolExecutor(READERS) as readers:
        found = readers.map(_sha256, [folder / name for name in hashed])
        for name, sha256 in zip(hashed, found, strict=True):
            if sha256 != files[name]["sha256"]:
                return f"{name} has other content than its sha256 says"
    return ""


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
