"""The picture of a run: reward, KL, length and score by step, from the files in its folder.

In: metrics.jsonl and evaluations.jsonl of a run. Out: curves.png beside them.
"""

import json
from typing import Any

from etils import epath
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from gopd_jax.evaluate.held_out import interval  # noqa: E402

COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#6d597a", "#b08900")


def draw(workdir: str, title: str) -> str:
    """Draws the run's curves; returns the path of the picture."""
    metrics, evaluations = _lines(workdir, "metrics.jsonl"), _lines(workdir, "evaluations.jsonl")
    domains = list(dict.fromkeys(e["domain"] for e in evaluations))
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    for colour, domain in zip(np.resize(COLOURS, len(domains)), domains, strict=True):
        _scores(axes[0, 0], [e for e in evaluations if e["domain"] == domain], domain, colour)
        suffix = f"/{domain}" if len(domains) > 1 else ""
        kinds = [
            ("reverse_kl_teacher", "to the teacher", "-"),
            ("kl_reference", "to the reference", ":"),
        ]
        for name, label, style in kinds:
            _curve(axes[0, 1], metrics, f"{name}{suffix}", f"{domain}, {label}", colour, style)
        _curve(axes[1, 0], metrics, f"advantage_abs{suffix}", f"{domain}, mean |A|", colour, "-")
        _curve(axes[1, 0], metrics, f"advantage_mean{suffix}", f"{domain}, mean A", colour, ":")
        _curve(axes[1, 1], metrics, f"response_length/{domain}", f"{domain}", colour, "-")
    labels = (
        "score on held-out prompts, %",
        "KL estimate, nats per token",
        "token advantage, nats",
        "response length, tokens",
    )
    for axis, label in zip(axes.flat, labels, strict=True):
        axis.set_title(label, fontsize=10, loc="left")
        axis.set_xlabel("step", fontsize=9)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    path = epath.Path(workdir) / "curves.png"
    with path.open("wb") as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
    return str(path)


def _scores(axis: Any, evaluations: list[dict[str, Any]], domain: str, colour: str) -> None:
    student = sorted((e for e in evaluations if e["model"] == "student"), key=lambda e: e["step"])
    points = [(e["step"], *interval(e["by_prompt"])) for e in student]
    steps, means, widths = (np.array(x) for x in zip(*points, strict=True))
    axis.errorbar(
        steps,
        100 * means,
        100 * widths,
        color=colour,
        marker="o",
        markersize=4,
        capsize=3,
        label=f"{domain} student",
    )
    for teacher in (e for e in evaluations if e["model"] == "teacher"):
        mean, width = interval(teacher["by_prompt"])
        axis.axhspan(
            100 * (mean - width), 100 * (mean + width), color=colour, alpha=0.15, linewidth=0
        )
        axis.axhline(
            100 * mean, color=colour, linestyle="--", linewidth=1, label=f"{domain} teacher"
        )


def _curve(
    axis: Any, metrics: list[dict[str, Any]], name: str, label: str, colour: str, style: str
) -> None:
    points = [(m["step"], m[name]) for m in metrics if name in m]
    if points:
        axis.plot(*zip(*points, strict=True), style, color=colour, linewidth=1.2, label=label)


def _lines(workdir: str, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (epath.Path(workdir) / name).read_text().splitlines()]
