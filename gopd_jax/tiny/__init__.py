"""The embedded world: small tasks of honest difficulty, a character tokenizer, a base and two teachers, all made here.

`tiny.model("base")` is a Hugging Face folder like any other; "tiny:math/train" is a data set like any other. `make.py` says
how the models came about.
"""

import pathlib

MODELS = pathlib.Path(__file__).resolve().parent / "models"


def model(name: str) -> str:
    """The folder of an embedded model; `make.py` says what they are."""
    names = sorted(p.name for p in MODELS.glob("*")) if MODELS.exists() else []
    if name not in names:
        raise ValueError(
            f"embedded model {name!r}: wanted one of {names}; `python -m gopd_jax.tiny.make` makes them"
        )
    return str(MODELS / name)
