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
    "scale.js",
    "find.js",
    "elements.js",
    "selection.js",
    "chart.js",
    "curves.js",
    "results.js",
    "warnings.js",
    "tokens.js",
    "samples.js",
    "live.js",
    "page.js",
)

START = "<!doctype html>"

# The browser enforces what the page promises: no request of any kind, no script but its own.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

NO_SCRIPT = "This page draws its charts with a script of its own: allow scripts to see them."


def html(runs: Sequence[Run], reload_s: float | None = None) -> str:
    """The report of these runs as one HTML page.

    Args:
        runs: the runs, in the order in which they are shown.
        reload_s: the page reads its file again after so many seconds; None for a page that stays.
    """
    folder = importlib.resources.files(__package__) / "web"
    style = (folder / STYLE).read_text("utf-8")
    script = "".join((folder / name).read_text("utf-8") for name in SCRIPTS)
    shown = content(list(runs)) | {"reload": reload_s}
    data = json.dumps(shown, allow_nan=False, separators=(",", ":"))
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
    shared = samples.shared_keys(runs)
    empty = numbers.empty_charts(runs)
    shown = [c for c in charts.CHARTS if c.title not in empty]
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "notes": _notes(runs, points),
        "scales": {kind: dataclasses.asdict(s) for kind, s in charts.SCALES.items()},
        "charts": [dataclasses.asdict(c) for c in shown],
        "emptyCharts": empty,
        "heldOutCharts": [dataclasses.asdict(c) for c in charts.HELD_OUT_CHARTS],
        "positionCharts": [dataclasses.asdict(c) for c in charts.POSITION_CHARTS],
        "bins": charts.BIN_LABELS,
        "logprobs": samples.LOGPROBS,
        "differences": setup.differences(runs),
        "runs": [
            _run(run, runs[0], points)
            | {"samples": samples.samples(run, tokens, shared), "samplesWritten": len(run.samples)}
            for run in runs
        ],
    }


def _run(run: Run, first: Run, points: int) -> JsonObject:
    made = findings.checks(run)
    return {
        "label": run.label,
        "facts": setup.facts(run),
        "commands": setup.commands(run),
        "changed": setup.changed(run),
        "findings": [dataclasses.asdict(f) for f in findings.of_checks(made)],
        "checks": [{"rule": c.rule, "state": c.state, "saw": c.saw} for c in made],
        "finished": run.finished,
        "lastStep": run.last_step,
        "domains": run.domains,
        "slices": numbers.slices(run),
        "curves": numbers.curves(run, points),
        "positions": numbers.by_position(run),
        "phases": numbers.phases(run),
        "scores": numbers.scores(run),
        "heldOut": numbers.held_out(run),
        "results": numbers.results(run, first),
        "unscored": numbers.unscored(run),
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
