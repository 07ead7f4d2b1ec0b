"""The folder of an experiment: where the run, the model and the scores of an arm are.

OUT/seedN/ARM/ is the run folder of a training run; model/ and scores.json lie in it.
"""

import json
from pathlib import Path
from typing import TypedDict

from gopd_jax import tiny
from gopd_jax.reproduce.arms import ARMS
from gopd_jax.runtime.files import read_json, replace_text


class DomainScores(TypedDict):
    """Scores of one model in one domain: the mean reward of each prompt, and means over samples."""

    by_prompt: list[float]
    length: float
    truncated: float


class ArmScores(TypedDict):
    """The content of scores.json; `seconds` is the time it took to make and score the model."""

    arm: str
    seed: int
    domains: dict[str, DomainScores]
    seconds: float


def arm_folder(name: str, seed: int, out: str) -> Path:
    return Path(out) / f"seed{seed}" / name


def model_folder(name: str, seed: int, out: str) -> str:
    """The model of an arm, as a Hugging Face folder."""
    if ARMS[name].kind == "given":
        return tiny.model(name)
    return str(arm_folder(name, seed, out) / "model")


def read_scores(name: str, seed: int, out: str) -> ArmScores | None:
    """The scores of a finished arm, or None."""
    path = arm_folder(name, seed, out) / "scores.json"
    if not path.exists():
        return None
    return read_json(path, arm=str, seed=int, domains=dict, seconds=(int, float))


def write_scores(scores: ArmScores, out: str) -> None:
    folder = arm_folder(scores["arm"], scores["seed"], out)
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "scores.json", json.dumps(scores))
