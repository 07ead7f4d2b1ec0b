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


def replace_json(path: str | os.PathLike, content: JsonObject) -> None:
    """`replace_text` of `content` as indented JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")
