"""The picture of a run: reward, KL, advantage, length and score by step.

In: metrics.jsonl and evaluations.jsonl in a run's folder. Out: curves.png beside them.
"""

import json

from etils import epath
from matplotlib.axes import Axes
import numpy as np

from gopd_jax.config import Config
from gopd_jax.evaluate.statistics import interval
from gopd_jax.runtime import figures
from gopd_jax.runtime.files import JsonObject

Records = list[JsonObject]  # lines of a JSON-lines file


def draw(workdir: str, config: Config) -> str:
    """Draws the run's curves; returns the path of the picture."""
    title = f"{config.name}: {config.method}, {config.steps} steps, seed {config.seed}"
    metrics, evaluations = _lines(workdir, "metrics.jsonl"), _lines(workdir, "evaluations.jsonl")
    domains = list(dict.fromkeys(e["domain"] for e in evaluations))
    figure, axes = figures.panels(2, 2, (10, 6.4), title)
    scores, kl, advantage, length = axes
    for colour, domain in zip(np.resize(figures.COLOURS, len(domains)), domains, strict=True):
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
    for axis, name in zip(axes, titles, strict=True):
        figures.finish(axis, name, "step")
    path = epath.Path(workdir) / "curves.png"
    figures.save(figure, path)
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
