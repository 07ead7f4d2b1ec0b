"""The page: the data of the runs as JSON, with the style and scripts that draw it, in one file.

In: runs. Out: HTML without any link. What a model, a file or a folder's name says is data: it
travels as JSON without a "<", and the scripts put it on the page as text only.
"""

from collections.abc import Sequence
import dataclasses
import importlib.resources
import json
import time

from gopd_jax.report import charts, findings, numbers, samples, setup
from gopd_jax.report.read import Run
from gopd_jax.runtime.files import JsonObject

STYLE = "style.css"
SCRIPTS = (  # in this order: each uses what stands before it
    "format.js",
    "elements.js",
    "selection.js",
    "chart.js",
    "curves.js",
    "results.js",
    "samples.js",
    "page.js",
)

START = "<!doctype html>"

# The browser enforces what the page promises: no request of any kind, no script but its own.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

NO_SCRIPT = "This page draws its charts with a script of its own: allow scripts to see them."


def html(runs: Sequence[Run]) -> str:
    """The report of these runs as one HTML page."""
    folder = importlib.resources.files(__package__) / "web"
    style = (folder / STYLE).read_text("utf-8")
    script = "".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    data = json.dumps(content(list(runs)), allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # neither </script> nor <!-- can end or open anything
    return f"""{START}
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>gopd_jax report</title>
<style>
{style}</style>
<main id="page"><noscript>{NO_SCRIPT}</noscript></main>
<script id="data" type="application/json">{data}</script>
<script>
"use strict";
{script}</script>
</html>
"""


def content(runs: list[Run]) -> JsonObject:
    """Everything that the page shows, as JSON values."""
    points = numbers.points_for(runs)
    tokens = samples.TOTAL_TOKENS // len(runs)
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "notes": _notes(runs, points),
        "checks": findings.CHECKS,
        "charts": [dataclasses.asdict(c) for c in charts.CHARTS],
        "positionCharts": [dataclasses.asdict(c) for c in charts.POSITION_CHARTS],
        "bins": charts.BIN_LABELS,
        "logprobs": samples.LOGPROBS,
        "differences": setup.differences(runs),
        "runs": [_run(run, runs[0], points, tokens) for run in runs],
    }


def _run(run: Run, first: Run, points: int, tokens: int) -> JsonObject:
    return {
        "label": run.label,
        "facts": setup.facts(run),
        "commands": [" ".join(map(str, s.get("command", []))) for s in run.starts],
        "changed": setup.changed(run),
        "findings": [dataclasses.asdict(f) for f in findings.findings(run)],
        "finished": run.finished,
        "lastStep": run.last_step,
        "domains": run.domains,
        "slices": numbers.slices(run),
        "curves": numbers.curves(run, points),
        "positions": numbers.by_position(run),
        "phases": numbers.phases(run),
        "scores": numbers.scores(run),
        "results": numbers.results(run, first),
        "samples": samples.samples(run, tokens),
        "samplesWritten": len(run.samples),
    }


def _notes(runs: list[Run], points: int) -> list[str]:
    """Says how runs that are longer than `points` steps were averaged."""
    lengths = sorted({len(run.metrics) for run in runs if len(run.metrics) > points})
    if not lengths:
        return []
    steps = ", ".join(f"{n:,}" for n in lengths)
    return [
        f"{steps} steps are drawn as {points} points; each is the mean of its steps (the extreme "
        "where extremes are drawn)."
    ]
