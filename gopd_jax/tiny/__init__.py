"""The embedded world's models: two bases, three teachers and their character tokenizer.

`tiny.model("base")` is a Hugging Face folder like any other. `make` says how the models were made;
their tasks are data sets like any other, `gopd_jax.data.embedded`.
"""

import pathlib

MODELS = pathlib.Path(__file__).resolve().parent / "models"


def model(name: str) -> str:
    """The folder of an embedded model.

    Raises:
        ValueError: there is no such model; names the choices.
    """
    names = sorted(p.name for p in MODELS.glob("*")) if MODELS.exists() else []
    if name not in names:
        raise ValueError(
            f"embedded model {name!r}: expected one of {names}; `python -m gopd_jax.tiny.make` "
            "makes them"
        )
    return str(MODELS / name)
