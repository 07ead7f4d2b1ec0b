"""What was run: facts about a run, its settings that are not defaults, how settings differ.

In: runs. Out: rows of text.
"""

import json

from gopd_jax.config import Config
from gopd_jax.data.settings import DomainSettings
from gopd_jax.report.read import Run
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.schema import defaults


def facts(run: Run) -> list[tuple[str, str]]:
    """Pairs of a name and a value; facts that are not known are left out."""
    c, starts, last = run.config, run.starts, run.starts[-1] if run.starts else {}
    reference = c.get("reference") or "the student's start"
    times = ", ".join(str(s.get("time", "?")) for s in starts[-3:])
    resumed = f" ({len(starts)} starts: resumed)" if len(starts) > 1 else ""
    pairs = [
        ("folder", run.path),
        ("name", c.get("name")),
        ("method", _method(c)),
        ("seed", c.get("seed")),
        ("student", c.get("student")),
        *_teachers(run),
        ("reference", reference),
        ("devices", _devices(last)),
        ("started", times + resumed),
        ("contract checks", _contracts(run)),
        *_totals(run.summary),
        ("gopd_jax", _version(last)),
        ("versions", _packages(last)),
        *_hashes(run),
    ]
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def commands(run: Run) -> list[str]:
    """The command of each start, as it is typed."""
    typed = []
    for start in run.starts:
        program, *arguments = [str(part) for part in start.get("command", [])] or [""]
        if program.endswith("gopd_jax/train/__main__.py"):
            program = "python -m gopd_jax.train"
        typed.append(" ".join([program, *arguments]))
    return typed


def changed(run: Run) -> list[tuple[str, str, str]]:
    """Settings that are not at their defaults: name, value, default ("" if it has none)."""
    known = defaults(Config) | {
        "domains": dict.fromkeys(run.config.get("domains", {}), defaults(DomainSettings))
    }
    default_of = {name: _text(value) for name, value in _flat(known).items()}
    rows = []
    for name, value in _flat(run.config).items():
        text, default = _text(value), default_of.get(name)
        if text != default:
            rows.append((name, text, default or ""))
    return rows


def differences(runs: list[Run]) -> list[list[str]]:
    """Settings in which runs differ: rows [name, its value in each run]."""
    configs = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for c in configs for name in c)
    rows = [[name, *(_text(c[name]) if name in c else "-" for c in configs)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _method(config: JsonObject) -> str:
    rollout = config.get("rollout", {})
    prompts, samples = (rollout.get(f, "?") for f in ("prompts_per_step", "samples_per_prompt"))
    method, steps = config.get("method", "?"), config.get("steps", "?")
    return f"{method}, {steps} steps, {prompts} prompts x {samples} samples per step"


def _teachers(run: Run) -> list[tuple[str, str]]:
    rows = []
    for name, domain in run.config.get("domains", {}).items():
        if domain.get("teacher"):
            scale = run.reward_scale(name)
            suffix = f"   lambda {scale:g}" if scale is not None else ""
            rows.append((f"teacher of {name}", domain["teacher"] + suffix))
    return rows


def _devices(start: JsonObject) -> str:
    kinds, processes = start.get("devices", []), start.get("processes", 1)
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return counted + (f", {processes} processes" if processes > 1 else "")


def _contracts(run: Run) -> str:
    """How many contract checks passed, and which did not."""
    by_state: dict[str, list[str]] = {}
    for check in run.contracts:
        name = f"{check.get('name')} ({check.get('of')})"
        by_state.setdefault(str(check.get("state")), []).append(name)
    parts = [f"{len(by_state.pop('passed'))} passed"] if "passed" in by_state else []
    return "; ".join([*parts, *(f"{s}: {', '.join(names)}" for s, names in by_state.items())])


def _totals(summary: JsonObject) -> list[tuple[str, str]]:
    rows = []
    if "training_seconds" in summary:
        rows.append(("training", f"{summary['training_seconds']:,.0f} s"))
    if "rollout_tokens" in summary:
        rows.append(("response tokens", f"{summary['rollout_tokens']:,}"))
    return rows


def _version(start: JsonObject) -> str:
    if not start:
        return ""
    commit = str(start.get("git_commit") or "unknown")[:12]
    edited = " + uncommitted changes" if start.get("git_changed") else ""
    return f"{start.get('gopd_jax', '?')}, git {commit}{edited}"


def _packages(start: JsonObject) -> str:
    versions = {"python": start.get("python"), **start.get("packages", {})}
    return ", ".join(f"{name} {version}" for name, version in versions.items() if version)


def _hashes(run: Run) -> list[tuple[str, str]]:
    weights = run.fingerprints.get("weights", {})
    return [(f"sha256 of {name}", str(value)[:16]) for name, value in weights.items()]


def _flat(values: JsonObject, prefix: str = "") -> JsonObject:
    """A nested config as {"part.field": value}."""
    flat: JsonObject = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _text(value: object) -> str:
    """A value as JSON; tuples as lists, "" and None as nothing."""
    if value in ("", None):
        return ""
    return json.dumps(list(value) if isinstance(value, tuple) else value)
