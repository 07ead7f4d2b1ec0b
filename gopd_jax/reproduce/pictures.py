"""Results over seeds -> pictures: lambda against score and length, and the arms of each table.

In: what `tables.summarise` returns. Out: a PNG file for each table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from gopd_jax.reproduce.shown import LAMBDA_ARMS, STEPS_ARMS, TABLES
from gopd_jax.reproduce.tables import OverSeeds
from gopd_jax.runtime import figures
from gopd_jax.runtime.files import JsonObject

BLUE, RED = figures.COLOURS[:2]

# What is drawn against lambda: field, scale, label.
PANELS = (
    ("score", 100, "score, % right"),
    ("length", 1, "response length, tokens"),
    ("truncated", 100, "answers cut at the limit, %"),
)


def draw(results: JsonObject, folder: Path) -> list[str]:
    """Draws every table that there are results for; returns the names of the files."""
    names = []
    for table, (title, rows) in TABLES.items():
        if table not in results["groups"]:
            continue
        if table == "figure2":
            figure = _lambdas(results["arms"], title, "math", LAMBDA_ARMS, PANELS[:2])
        elif table == "steps":
            figure = _lambdas(results["arms"], title, "steps", STEPS_ARMS, PANELS)
        else:
            arms = [(row.label.replace("**", ""), row.arm) for row in rows]
            arms = [(label, arm) for label, arm in arms if arm in results["arms"]]
            figure = _points(results["arms"], title, arms)
        names.append(f"{table}.png")
        figures.save(figure, folder / names[-1])
    return names


def _points(results: JsonObject, title: str, arms: list[tuple[str, str]]) -> Figure:
    """One panel for each domain, one row for each arm: mean with interval, and the seeds.

    A domain that one arm alone is scored in compares nothing, and is left out.
    """
    domains = [d for d in ("math", "code") if sum(d in results[arm] for _, arm in arms) > 1]
    size = (5 + 3.5 * len(domains), 1.2 + 0.3 * len(arms))
    title = f"{title}: mean, 95% interval, seeds"
    figure, axes = figures.panels(1, len(domains), size, title, font_size=10, sharey=True)
    rows = np.arange(len(arms))[::-1]  # the first arm on top
    for axis, domain in zip(axes, domains, strict=True):
        for row, (_, arm) in zip(rows, arms, strict=True):
            if domain in results[arm]:
                colour = RED if arm.startswith(("exopd", "corrected")) else BLUE
                _point(axis, row, results[arm][domain]["score"], colour)
        axis.set_yticks(rows, [label for label, _ in arms], fontsize=8)
        figures.finish(axis, f"{domain}, % right")
    return figure


def _point(axis: Axes, row: int, score: OverSeeds, colour: str) -> None:
    """The score of one arm: a dot with its interval, and a faint mark for each seed."""
    mean, below, above = _shown(score, 100)
    style = {"color": colour, "capsize": 3, "markersize": 4}
    axis.errorbar(mean, row, xerr=([below], [above]), fmt="o", **style)
    seeds = 100 * np.array(score["by_seed"])
    axis.plot(seeds, np.full(len(seeds), row), "|", color=colour, alpha=0.4)


def _lambdas(
    results: JsonObject,
    title: str,
    domain: str,
    arms: Mapping[float, str],
    shown: Sequence[tuple[str, int, str]],
) -> Figure:
    """Each field against lambda, with that of the teacher and of the student's start."""
    rows = {x: results[arm][domain] for x, arm in arms.items() if arm in results}
    given = ("steps_teacher", "steps_base") if domain == "steps" else ("math_teacher", "base")
    figure, axes = figures.panels(1, len(shown), (4.75 * len(shown), 3.6), title)
    for axis, (field, scale, label) in zip(axes, shown, strict=True):
        mean, below, above = np.transpose([_shown(row[field], scale) for row in rows.values()])
        style = {"color": BLUE, "marker": "o", "markersize": 4, "capsize": 3}
        axis.errorbar(list(rows), mean, (below, above), label="student", **style)
        for arm, line in zip(given, ("--", ":"), strict=True):
            if arm in results:
                value = results[arm][domain][field]
                _band(axis, value, scale, arm.replace("_", " "), line)
        figures.finish(axis, label, "lambda")
    return figure


def _band(axis: Axes, value: OverSeeds, scale: float, label: str, line: str) -> None:
    """A horizontal line with its interval."""
    mean, below, above = _shown(value, scale)
    axis.axhspan(mean - below, mean + above, color=RED, alpha=0.15, linewidth=0)
    axis.axhline(mean, color=RED, linestyle=line, linewidth=1, label=label)


def _shown(value: OverSeeds, scale: float) -> tuple[float, float, float]:
    """The mean, and how far its interval reaches below and above; 0 for a single seed."""
    low, mean, high = (scale * value[key] for key in ("low", "mean", "high"))
    return (mean, mean - low, high - mean) if np.isfinite(high) else (mean, 0.0, 0.0)
