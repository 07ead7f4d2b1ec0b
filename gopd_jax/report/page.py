"""The page itself: the data of the runs as JSON, and the style and script that draw it, in one file without any link.

In: runs. Out: HTML. What a model, a file or a folder's name says is data: it travels as JSON without a "<"; the script puts it
on the page as text only.
"""

from collections.abc import Sequence
import dataclasses
import importlib.resources
import json
import time
from typing import Any

from gopd_jax import config
from gopd_jax.report import findings, numbers
from gopd_jax.report.read import Run

# The browser enforces what the page promises: no request of any kind, no script but its own.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html(runs: Sequence[Run]) -> str:
    """The report of these runs as one HTML page."""
    part = {
        name: (importlib.resources.files(__package__) / name).read_text("utf-8")
        for name in ("page.css", "page.js")
    }
    data = json.dumps(content(list(runs)), allow_nan=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # neither </script> nor <!-- can end or open anything
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>gopd_jax report</title>
<style>
{part["page.css"]}</style>
<main id="page"><noscript>This page draws its charts with a script of its own: allow scripts to see them.</noscript></main>
<script id="data" type="application/json">{data}</script>
<script>
{part["page.js"]}</script>
</html>
"""


def content(runs: list[Run]) -> dict[str, Any]:
    """Everything that the page shows, as JSON values."""
    points = numbers.points_for(runs)
    tokens = numbers.SAMPLE_TOKENS // len(runs)
    long = sorted({len(run.metrics) for run in runs if len(run.metrics) > points})
    mean = "each is the mean of its steps (of extremes, the extreme)"
    notes = (
        [f"{', '.join(f'{n:,}' for n in long)} steps are drawn as {points} points; {mean}."]
        if long
        else []
    )
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "notes": notes,
        "checks": findings.CHECKS,
        "charts": [dataclasses.asdict(c) for c in numbers.CHARTS],
        "positionCharts": [
            dict(zip(("key", "title", "unit"), c, strict=True)) for c in numbers.POSITION_CHARTS
        ],
        "bins": numbers.BIN_LABELS,
        "logprobs": numbers.LOGPROBS,
        "differences": differences(runs),
        "runs": [
            {
                "label": run.label,
                "facts": facts(run),
                "commands": [" ".join(map(str, s.get("command", []))) for s in run.starts],
                "changed": changed(run),
                "findings": [dataclasses.asdict(f) for f in findings.findings(run)],
                "finished": run.finished,
                "lastStep": run.last_step,
                "domains": run.domains,
                "slices": numbers.slices(run),
                "curves": numbers.curves(run, points),
                "positions": numbers.by_position(run),
                "phases": numbers.phases(run),
                "scores": numbers.scores(run),
                "results": numbers.results(run, runs[0]),
                "samples": numbers.samples(run, tokens),
                "samplesWritten": len(run.samples),
            }
            for run in runs
        ],
    }


def facts(run: Run) -> list[tuple[str, str]]:
    """What was run, as pairs of a name and a value."""
    c, last = run.config, run.starts[-1] if run.starts else {}
    teachers = []
    for name, domain in c.get("domains", {}).items():
        scale = run.reward_scale(name)
        if domain.get("teacher"):
            teachers.append(
                (
                    f"teacher of {name}",
                    domain["teacher"] + (f"   lambda {scale:g}" if scale is not None else ""),
                )
            )
    rollout = c.get("rollout", {})
    commit = str(last.get("git_commit") or "unknown")[:12] + (
        " + uncommitted changes" if last.get("git_changed") else ""
    )
    batch = f"{rollout.get('prompts_per_step', '?')} prompts x {rollout.get('samples_per_prompt', '?')} samples a step"
    pairs = [
        ("folder", run.path),
        ("name", c.get("name")),
        ("method", f"{c.get('method', '?')}, {c.get('steps', '?')} steps, {batch}"),
        ("seed", c.get("seed")),
        ("student", c.get("student")),
        *teachers,
        ("reference", c.get("reference") or "the student's start"),
        (
            "devices",
            _counted(last.get("devices", []))
            + _several(last.get("processes", 1), ", {} processes"),
        ),
        (
            "started",
            ", ".join(str(s.get("time", "?")) for s in run.starts[-3:])
            + _several(len(run.starts), " ({} starts: resumed)"),
        ),
        (
            "training",
            f"{run.summary['training_seconds']:,.0f} s"
            if "training_seconds" in run.summary
            else None,
        ),
        (
            "response tokens",
            f"{run.summary['rollout_tokens']:,}" if "rollout_tokens" in run.summary else None,
        ),
        ("gopd_jax", f"{last.get('gopd_jax', '?')}, git {commit}" if last else None),
        (
            "versions",
            ", ".join(
                f"{k} {v}"
                for k, v in {"python": last.get("python"), **last.get("packages", {})}.items()
                if v
            ),
        ),
        *((f"sha256 of {k}", str(v)[:16]) for k, v in run.fingerprints.get("weights", {}).items()),
    ]
    return [(k, str(v)) for k, v in pairs if v not in (None, "")]


def _counted(names: list[str]) -> str:
    return ", ".join(f"{names.count(n)} x {n}" for n in dict.fromkeys(names))


def _several(count: int, text: str) -> str:
    return text.format(count) if count > 1 else ""


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as {"part.field": value}."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return out


def changed(run: Run) -> list[tuple[str, str, str]]:
    """Fields of the config that are not at their defaults: name, value, default ("" where there is none)."""
    known = config.default().to_dict() | {"domains": {}}
    known["domains"] = dict.fromkeys(
        run.config.get("domains", {}), config.domain(train="", test="").to_dict()
    )
    defaults, ours = flat(known), flat(run.config)
    texts = [(k, _text(v), _text(defaults.get(k, ""))) for k, v in ours.items()]
    return [row for row in texts if row[0] not in defaults or row[1] != row[2]]


def differences(runs: list[Run]) -> list[list[str]]:
    """Rows [field, its value in each run] of the config fields in which runs differ."""
    configs = [flat(run.config) for run in runs]
    names = dict.fromkeys(name for c in configs for name in c)
    rows = [[name, *(_text(c[name]) if name in c else "-" for c in configs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _text(value: Any) -> str:
    """Lists and tuples look the same, empty as nothing."""
    return (
        json.dumps(list(value) if isinstance(value, tuple) else value)
        if value not in ("", None)
        else ""
    )
