"""The picture of a run: reward, KL, advantage, length and score by step.

In: metrics.jsonl and evaluations.jsonl in a run's folder. Out: curves.png beside them.
"""

from collections.abc import Sequence
import json

from etils import epath
from matplotlib.axes import Axes
import numpy as np

from gopd_jax.config import Config
from gopd_jax.evaluate.statistics import Estimate, interval
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
        _held_out_kl(kl, [e for e in evaluations if e["domain"] == domain], domain, colour)
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
    """The student's scores with their intervals, and a band for each teacher.

    Where answers are not verified, what a score has nearest is the overlap with the teacher.
    """
    evaluations, other = (
        [e for e in evaluations if ("by_prompt" in e) == s] for s in (True, False)
    )
    overlap = [(e["step"], 100 * e["top1_overlap"]) for e in other if e["top1_overlap"] is not None]
    if overlap:
        label = f"{domain}: overlap with teacher (no score)"
        axis.plot(
            *zip(*sorted(overlap), strict=True), "s:", color=colour, markersize=4, label=label
        )
    student = sorted((e for e in evaluations if e["model"] == "student"), key=lambda e: e["step"])
    if not student:
        return
    means, below, above = _percent([interval(e["by_prompt"]) for e in student])
    style = {"marker": "o", "markersize": 4, "capsize": 3, "color": colour}
    steps = [e["step"] for e in student]
    axis.errorbar(steps, means, (below, above), label=f"{domain} student", **style)
    for teacher in (e for e in evaluations if e["model"] == "teacher"):
        score = interval(teacher["by_prompt"])
        axis.axhspan(100 * score.low, 100 * score.high, color=colour, alpha=0.15, linewidth=0)
        style = {"color": colour, "linestyle": "--", "linewidth": 1}
        axis.axhline(100 * score.mean, label=f"{domain} teacher", **style)


def _held_out_kl(axis: Axes, evaluations: Records, domain: str, colour: str) -> None:
    """The KL to the teacher on held-out prompts, with its interval, where it was measured."""
    points = sorted(
        (e["step"], e["kl"], e["kl"] - low, high - e["kl"])
        for e in evaluations
        if (low := e.get("kl_low")) is not None and (high := e.get("kl_high")) is not None
    )
    if points:
        steps, means, *widths = zip(*points, strict=True)
        style = {"fmt": "o", "markersize": 4, "capsize": 3, "color": colour}
        axis.errorbar(steps, means, widths, label=f"{domain}, to the teacher, held out", **style)


def _percent(scores: Sequence[Estimate]) -> np.ndarray:
    """Rows: the means in percent, and how far their intervals reach below and above."""
    values = np.array([(s.mean, s.mean - s.low, s.high - s.mean) for s in scores])
    return 100 * values.T


def _lines(workdir: str, name: str) -> Records:
    return [json.loads(line) for line in (epath.Path(workdir) / name).read_text().splitlines()]
