"""gopd.json: what an exported student was trained from, beside its weights.

`export` writes it; whoever starts from the folder can tell that it is no base model.
"""

from pathlib import Path

from gopd_jax.models.huggingface import local_folder
from gopd_jax.runtime.files import JsonObject, read_json

NAME = "gopd.json"


def read_exported(path: str | Path) -> JsonObject | None:
    """The content of a model's gopd.json, or None for a model that has none.

    Returns:
        "run", "step" and "method"; "student" and "reference", each with its "path" and the sha256
        of its "weights". Without a reference, "reference" is what the student started from.

    Raises:
        ValueError: the file is damaged, or there is no such model.
    """
    file = local_folder(path) / NAME
    if not file.is_file():
        return None
    content = read_json(file, method=str, reference=dict)
    if not isinstance(content["reference"].get("path"), str):
        raise ValueError(f"{file} is damaged: expected a text as the 'path' of its 'reference'")
    return content
