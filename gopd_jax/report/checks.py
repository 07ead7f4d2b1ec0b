"""One check of a run, what it found, and the arithmetic on metrics that checks have in common.

A check says whether there was enough to look at, and what it saw. The "end" of a run is its last
tenth (at least 3 steps), its "start" is its first; a run of fewer than 6 steps has no start.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from gopd_jax.report.read import Run, number

LEAST_STEPS = 3  # of the start and of the end of a run

Level = Literal["bad", "look", "note"]
LEVELS = ("bad", "look", "note")
State = Literal["passed", "found", "not checked"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that deserves attention.

    level: "bad" (the result is in doubt), "look" (it may be intended) or "note".
    title, text: what was found.
    todo: what to do about it.
    """

    level: Level
    title: str
    text: str
    todo: str


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    rule: what is found, with its threshold.
    state: "passed" and "found" only where there was enough to look at.
    saw: the numbers, or why it was not checked.
    finding: what was found, where another check has not said it already.
    """

    rule: str
    state: State
    saw: str
    finding: Finding | None = None


def series(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, without steps at which it is missing or not finite."""
    pairs = [(m["step"], number(m.get(name))) for m in run.metrics]
    points = np.array([(s, v) for s, v in pairs if math.isfinite(v)]).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def part_of(values: np.ndarray) -> int:
    """Number of steps of the start and of the end."""
    return max(LEAST_STEPS, len(values) // 10)


def end_of(values: np.ndarray) -> float:
    return float(values[-part_of(values) :].mean())


def ends_of(values: np.ndarray) -> tuple[float, float] | None:
    """Means at the start and at the end; None for a run too short to have both."""
    part = part_of(values)
    return (float(values[:part].mean()), end_of(values)) if len(values) >= 2 * part else None


def too_short(rule: str, values: np.ndarray, least: int = 2 * LEAST_STEPS) -> Check:
    """A check for which there is too little."""
    if not len(values):
        return Check(rule, "not checked", "not recorded in this run")
    steps = "1 step" if len(values) == 1 else f"{len(values)} steps"
    return Check(rule, "not checked", f"too few steps: {steps}, expected at least {least}")


def checked(rule: str, saw: str, finding: Finding | None) -> Check:
    return Check(rule, "found" if finding else "passed", saw, finding)


def over_all(values: np.ndarray, form: str, unit: str = "") -> str:
    """The mean of a run that is too short to have a start."""
    steps = "the only step" if len(values) == 1 else f"{len(values)} steps"
    return f"{values.mean():{form}}{unit} over {steps}"
