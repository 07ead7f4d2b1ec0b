"""Files that are replaced as a whole: a kill leaves the old content or the new, never a half."""

import json
import os
from typing import Any

from etils import epath

JsonObject = dict[str, Any]  # as json.loads returns it: the values may be anything


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` beside `path` and renames it to `path`."""
    path = epath.Path(path)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def read_json(path: str | os.PathLike, **parts: type) -> JsonObject:
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
    except ValueError as e:  # not JSON, or not UTF-8
        raise ValueError(f"{path} is damaged: expected a JSON object, but {e}") from e
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: expected a JSON object, not {str(content)[:40]!r}")
    for key, kind in parts.items():
        if not isinstance(content.get(key), kind):
            raise ValueError(f"{path} is damaged: expected a {kind.__name__} in its {key!r}")
    return content


def replace_json(path: str | os.PathLike, content: JsonObject) -> None:
    """`replace_text` of `content` as indented JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")
