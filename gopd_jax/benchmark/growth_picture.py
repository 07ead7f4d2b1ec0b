"""The picture of growth: one panel for each variable, on logarithmic axes.

In: the points and fits of `growth`. Out: a PNG file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
import numpy as np

from gopd_jax.benchmark.growth import costs
from gopd_jax.runtime import figures

BLUE, RED, GREEN = figures.COLOURS[:3]
LABELS = {
    "vocabulary": "ids of the vocabulary",
    "length": "tokens of a response, as many in all",
    "rollouts": "answers",
    "teachers": "teachers that share the answers",
}


def draw(points: Sequence[Mapping[str, Any]], fits: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draws what each cost is relative to the smallest value of its variable."""
    rows = -(-len(fits) // 2)
    size = (7.5, 0.5 + 2.6 * rows)
    title = "cost relative to the first point; length: cost of one answer"
    figure, axes = figures.panels(rows, min(2, len(fits)), size, title)
    for axis in axes[len(fits) :]:
        axis.set_visible(False)
    for axis, fitted in zip(axes, fits, strict=False):
        _panel(axis, [p for p in points if p["variable"] == fitted["variable"]], fitted)
    figures.save(figure, path)


def _panel(axis: Axes, points: Sequence[Mapping[str, Any]], fitted: Mapping[str, Any]) -> None:
    values = np.array([p["value"] for p in points])
    found = costs(points)
    lines = (
        ("score", "score", "o-", BLUE),
        ("score_without_attention", "score without attention", "o:", BLUE),
        ("update", "update", "s-", RED),
        ("update_without_attention", "update without attention", "s:", RED),
        ("memory", "peak memory", "^-", GREEN),
    )
    axis.plot(values, values / values[0], "--", color="grey", linewidth=1, label="linear")
    for name, label, style, colour in lines:
        relative = found[name] / found[name][0]
        label = f"{label}, {fitted[f'exponent_{name}']:.2f}"
        axis.plot(values, relative, style, color=colour, markersize=4, linewidth=1.2, label=label)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(values, [f"{v:,}" for v in values])
    axis.xaxis.minorticks_off()
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    figures.finish(axis, f"{fitted['variable']} (exponents)", LABELS[fitted["variable"]])
