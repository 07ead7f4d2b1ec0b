"""Files that are replaced as a whole: a kill leaves the old content or the new, never a half."""

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

from etils import epath

_KINDS = {dict: "JSON object", list: "list", str: "text", int: "whole number"}
JsonObject = dict[str, Any]  # as json.loads returns it: the values may be anything


def is_remote(path: object) -> bool:
    """Whether a path is one of an object store, such as gs://BUCKET/MODEL."""
    return "://" in str(path)


def absolute(path: str | os.PathLike) -> epath.Path:
    """The absolute path of a file or folder; one of an object store is absolute already."""
    path = epath.Path(path)
    return path if is_remote(path) else path.absolute()


def replace_text(path: str | os.PathLike, text: str) -> None:
    """`replace_bytes` of a text in UTF-8."""
    replace_bytes(path, text.encode())


def replace_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes `content` beside `path` and renames it to `path`.

    An object store (gs://) does so by itself: an object is there as a whole or not at all.

    Raises:
        OSError: it cannot be written; names the file, which is as it was.
    """
    path = epath.Path(path)
    temporary = path if is_remote(path) else path.with_suffix(".tmp")
    try:
        temporary.write_bytes(content)
        if temporary != path:
            temporary.replace(path)
    except Exception as e:  # each client of a store has errors of its own
        if not isinstance(e, OSError) and not is_remote(path):
            raise
        if temporary != path:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise cannot_write(path, e) from e


def append(file: io.FileIO, data: bytes, path: str | os.PathLike) -> None:
    """Writes all of `data` at the end of an unbuffered file, or nothing.

    Raises:
        OSError: the disk is full, or the like; the file is as it was.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        written = 0
        while written < len(data):
            written += file.write(data[written:])
    except OSError as e:
        file.truncate(end)
        raise cannot_write(path, e) from e


def cannot_write(path: str | os.PathLike, error: Exception) -> OSError:
    """The error of a write, with the file's name and what is left of it."""
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(f"{path} cannot be written ({reason}); what it held is kept")


def check_output(option: str, value: str | os.PathLike) -> None:
    """Checks that a file can be written, before the work whose result it is to hold.

    Args:
        option: the name of the option that gives it, for errors.
        value: path of the file; on an object store it is not checked.

    Raises:
        ValueError: it is no file name, a folder, below a file, or not to be written.
    """
    if "://" in str(value):
        return
    path = Path(value)
    said = f"{option}={str(value)!r}: cannot write there, expected"
    if not path.name or "\0" in str(value):
        raise ValueError(f"{said} the name of a file")
    if path.is_dir():
        raise ValueError(f"{said} a file, but it is a folder")
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if there != path and not there.is_dir():
        raise ValueError(f"{said} a folder above it, but {str(there)!r} is a file")
    if not os.access(there, os.W_OK):
        raise ValueError(f"{said} permission to write to {str(there)!r}")


def read_json(path: str | os.PathLike, **parts: type | tuple[type, ...]) -> JsonObject:
    """A JSON object from a file.

    Args:
        path: of the file.
        parts: keys that it must have, and the types of their values.

    Raises:
        ValueError: the file holds anything else.
    """
    path = epath.Path(path)
    try:
        content = json.loads(path.read_text())
    except IsADirectoryError as e:
        raise ValueError(f"{path} is a folder: expected a file with a JSON object") from e
    except (ValueError, RecursionError) as e:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is damaged: expected a JSON object, but {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, not {str(content)[:40]!r}")
    for key, kind in parts.items():
        if not isinstance(content.get(key), kind):
            name = _KINDS.get(kind, "number")
            raise ValueError(f"{path} is damaged: expected a {name} in its {key!r}")
    return content


def replace_json(path: str | os.PathLike, content: JsonObject) -> None:
    """`replace_text` of `content` as indented JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")
