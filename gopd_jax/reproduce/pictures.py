"""Results over seeds -> pictures: the lambda sweep with length, and the arms of each table as points with intervals."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from gopd_jax.reproduce.arms import LAMBDAS  # noqa: E402
from gopd_jax.reproduce.tables import TABLES  # noqa: E402
from gopd_jax.train.curves import COLOURS  # noqa: E402


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Draws what there are results for; returns the names of the files."""
    names = []
    for table, (title, rows) in TABLES.items():
        rows = [(label.replace("**", ""), arm) for label, arm, *_ in rows if arm in results["arms"]]
        if table not in results["groups"]:
            continue
        figure = _sweep(results, title) if table == "figure2" else _points(results, title, rows)
        names.append(f"{table}.png")
        figure.savefig(folder / names[-1], dpi=110)
        plt.close(figure)
    return names


def _points(results: dict[str, Any], title: str, rows: list[tuple[str, str]]) -> plt.Figure:
    """One line for each arm, one panel for each domain."""
    domains = [d for d in ("math", "code") if any(d in results["arms"][arm] for _, arm in rows)]
    height = 1.2 + 0.3 * len(rows)
    figure, axes = plt.subplots(
        1,
        len(domains),
        figsize=(5 + 3.5 * len(domains), height),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    places = np.arange(len(rows))[::-1]
    for axis, domain in zip(axes[0], domains, strict=True):
        for place, (_, arm) in zip(places, rows, strict=True):
            if row := results["arms"][arm].get(domain):
                score = row["score"]
                colour = COLOURS[1] if arm.startswith(("exopd", "corrected")) else COLOURS[0]
                axis.errorbar(
                    100 * score["mean"],
                    place,
                    xerr=100 * score["half_width"],
                    fmt="o",
                    color=colour,
                    capsize=3,
                    markersize=4,
                )
                axis.plot(
                    100 * np.array(score["by_seed"]),
                    np.full(len(score["by_seed"]), place),
                    "|",
                    color=colour,
                    alpha=0.4,
                )
        axis.set_title(f"{domain}, % right", fontsize=10, loc="left")
        axis.set_yticks(places, [label for label, _ in rows], fontsize=8)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: mean, 95% interval, seeds", fontsize=10)
    return figure


def _sweep(results: dict[str, Any], title: str) -> plt.Figure:
    """Score and length against lambda."""
    names = {1.0: "opd_math", 1.25: "exopd_math"}
    rows = {
        x: results["arms"][names.get(x, f"lambda_{x:g}")]["math"]
        for x in LAMBDAS
        if names.get(x, f"lambda_{x:g}") in results["arms"]
    }
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for axis, field, scale, label in (
        (axes[0], "score", 100, "score, % right"),
        (axes[1], "length", 1, "response length, tokens"),
    ):
        mean, half = (
            scale * np.array([r[field][k] for r in rows.values()]) for k in ("mean", "half_width")
        )
        axis.errorbar(
            list(rows),
            mean,
            half,
            color=COLOURS[0],
            marker="o",
            markersize=4,
            capsize=3,
            label="student",
        )
        for arm, style in (("math_teacher", "--"), ("base", ":")):
            if arm in results["arms"]:
                value = results["arms"][arm]["math"][field]
                low, high = (scale * (value["mean"] + s * value["half_width"]) for s in (-1, 1))
                axis.axhspan(low, high, color=COLOURS[1], alpha=0.15, linewidth=0)
                axis.axhline(
                    scale * value["mean"],
                    color=COLOURS[1],
                    linestyle=style,
                    linewidth=1,
                    label=arm.replace("_", " "),
                )
        axis.set_title(label, fontsize=10, loc="left")
        axis.set_xlabel("lambda", fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure
