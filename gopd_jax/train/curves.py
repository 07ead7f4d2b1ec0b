"""The picture of a run: reward, KL, advantage, length and score by step.

In: metrics.jsonl and evaluations.jsonl in a run's folder. Out: curves.png beside them.
"""

import json
from typing import Any

from etils import epath
import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from gopd_jax.evaluate.statistics import interval  # noqa: E402

COLOURS = ("#1f6f8b", "#c8553d", "#588157", "#6d597a", "#b08900")
Records = list[dict[str, Any]]  # lines of a JSON-lines file


def draw(workdir: str, title: str) -> str:
    """Draws the run's curves; returns the path of the picture."""
    metrics, evaluations = _lines(workdir, "metrics.jsonl"), _lines(workdir, "evaluations.jsonl")
    domains = list(dict.fromkeys(e["domain"] for e in evaluations))
    figure, axes = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    scores, kl, advantage, length = axes.flat
    for colour, domain in zip(np.resize(COLOURS, len(domains)), domains, strict=True):
        _scores(scores, [e for e in evaluations if e["domain"] == domain], domain, colour)
        suffix = f"/{domain}" if len(domains) > 1 else ""
        curves = [
            (kl, f"reverse_kl_teacher{suffix}", f"{domain}, to the teacher", "-"),
            (kl, f"kl_reference{suffix}", f"{domain}, to the reference", ":"),
            (advantage, f"advantage_abs{suffix}", f"{domain}, mean |A|", "-"),
            (advantage, f"advantage_mean{suffix}", f"{domain}, mean A", ":"),
            (length, f"response_length/{domain}", domain, "-"),
        ]
        for axis, name, label, style in curves:
            points = [(m["step"], m[name]) for m in metrics if name in m]
            if points:
                steps, values = zip(*points, strict=True)
                axis.plot(steps, values, style, color=colour, linewidth=1.2, label=label)
    titles = (
        "score on held-out prompts, %",
        "KL estimate, nats per token",
        "token advantage, nats",
        "response length, tokens",
    )
    for axis, name in zip(axes.flat, titles, strict=True):
        axis.set_title(name, fontsize=10, loc="left")
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


def _scores(axis: Axes, evaluations: Records, domain: str, colour: str) -> None:
    """The student's scores with their intervals, and a band for each teacher."""
    student = sorted((e for e in evaluations if e["model"] == "student"), key=lambda e: e["step"])
    points = [(e["step"], *interval(e["by_prompt"])) for e in student]
    steps, means, widths = (np.array(x) for x in zip(*points, strict=True))
    style = {"marker": "o", "markersize": 4, "capsize": 3}
    axis.errorbar(
        steps, 100 * means, 100 * widths, color=colour, label=f"{domain} student", **style
    )
    for teacher in (e for e in evaluations if e["model"] == "teacher"):
        mean, width = (100 * x for x in interval(teacher["by_prompt"]))
        axis.axhspan(mean - width, mean + width, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(mean, color=colour, linestyle="--", linewidth=1, label=f"{domain} teacher")


def _lines(workdir: str, name: str) -> Records:
    return [json.loads(line) for line in (epath.Path(workdir) / name).read_text().splitlines()]
