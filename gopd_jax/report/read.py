"""A run folder as plain records, in whatever state it was left: half-written, cut short, damaged.

In: a folder that `gopd_jax.train` wrote (local or gs://). Out: a `Run`; its `problems` say what
could not be read. Does not judge what was read.
"""

from collections.abc import Sequence
import dataclasses
import json
import math
import os

from etils import epath

from gopd_jax.runtime import run_folder
from gopd_jax.runtime.files import JsonObject

MOST_PROBLEMS = 5  # problems listed for each file; the others are only counted

# Files of JSON lines -> the fields that a line must have besides "step".
LOGS = {
    "metrics.jsonl": (),
    "evaluations.jsonl": ("model", "domain"),
    "samples.jsonl": ("tokens",),
}


@dataclasses.dataclass
class Run:
    """What a run folder holds.

    path: the folder.
    label: a name that no other run of the report has.
    config, starts, fingerprints: from run.json.
    contracts: the contract checks before step 0, of checks.json.
    metrics, evaluations: sorted by step. A domain without a verifier is evaluated without scores.
    summary: summary.json of a finished run, or empty.
    problems: what could not be read, with file and line.
    """

    path: str
    label: str = ""
    config: JsonObject = dataclasses.field(default_factory=dict)
    starts: list[JsonObject] = dataclasses.field(default_factory=list)
    fingerprints: JsonObject = dataclasses.field(default_factory=dict)
    contracts: list[JsonObject] = dataclasses.field(default_factory=list)
    metrics: list[JsonObject] = dataclasses.field(default_factory=list)
    evaluations: list[JsonObject] = dataclasses.field(default_factory=list)
    samples: list[JsonObject] = dataclasses.field(default_factory=list)
    summary: JsonObject = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_step(self) -> int:
        return max((m["step"] for m in self.metrics + self.evaluations), default=0)

    @property
    def scored(self) -> list[JsonObject]:
        """The evaluations that hold the score of each prompt."""
        return [e for e in self.evaluations if are_numbers(e.get("by_prompt"))]

    @property
    def domains(self) -> list[str]:
        """The domains of the config or, if run.json is lost, those that were evaluated."""
        evaluated = dict.fromkeys(e["domain"] for e in self.evaluations)
        return list(self.config.get("domains") or evaluated)

    def reward_scale(self, domain: str) -> float | None:
        """lambda of a domain's teacher; None if the method has no lambda."""
        if self.config.get("method", "gopd") != "gopd":
            return None
        own = self.config.get("domains", {}).get(domain, {}).get("reward_scale")
        return self.config.get("learner", {}).get("reward_scale") if own is None else own


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs of these folders, each with its own label; a folder given twice is read once.

    Raises:
        ValueError: a folder does not exist, holds no run, or holds one of another format.
    """
    normal = [p.rstrip("/") if "://" in p else os.path.normpath(p) for p in paths]
    runs = [read_run(path) for path in dict.fromkeys(normal)]
    parts = [run.path.split("/") for run in runs]
    for run, own in zip(runs, parts, strict=True):
        # The shortest end of the path that no other run shares.
        ends = (own[-n:] for n in range(1, len(own) + 1))
        unique = (end for end in ends if sum(p[-len(end) :] == end for p in parts) == 1)
        run.label = "/".join(next(unique, own))
    return runs


def read_run(path: str) -> Run:
    """One run, without a label.

    Raises:
        ValueError: the folder does not exist, holds no run, or holds one of another format.
    """
    folder = epath.Path(path)
    expected = "expected a folder written by gopd_jax.train"
    if not folder.is_dir():
        raise ValueError(f"{path!r} holds no run: {expected}, but there is no such folder")
    if not any((folder / name).exists() for name in ("run.json", "metrics.jsonl")):
        raise ValueError(
            f"{path!r} holds no run: {expected}, but there is neither run.json nor metrics.jsonl "
            "in it"
        )
    run = Run(str(path))
    contents = _run_json(folder, run.problems)
    run.config = _config(_part(contents, "config"), run.problems)
    run.fingerprints = {
        key: value
        for key, value in _part(contents, "fingerprints").items()
        if isinstance(value, dict)
    }
    run.starts = [_start(s) for s in contents.get("starts", []) if isinstance(s, dict)]
    run.contracts = _contracts(folder / "checks.json", run.problems)
    metrics, evaluations, run.samples = (
        _lines(folder / name, fields, run.problems) for name, fields in LOGS.items()
    )
    run.metrics = _by_step(metrics)
    named = (e for e in evaluations if isinstance(e["model"], str) and isinstance(e["domain"], str))
    run.evaluations = sorted(named, key=lambda e: e["step"])
    if (folder / "summary.json").exists():
        run.summary = _object(folder / "summary.json", run.problems, "the run counts as unfinished")
        for name in ("training_seconds", "rollout_tokens"):
            if not math.isfinite(number(run.summary.get(name, 0))):
                run.problems.append(f"summary.json: {name} is not a number")
                del run.summary[name]
    return run


def read_training(path: str, config: JsonObject) -> Run:
    """The run in a folder as far as metrics.jsonl tells it; no other file is read."""
    run = Run(path, config=config)
    metrics = _lines(epath.Path(path) / "metrics.jsonl", LOGS["metrics.jsonl"], run.problems)
    run.metrics = _by_step(metrics)
    return run


def number(value: object) -> float:
    """A value of a record as a float; NaN for anything but a number, such as a missing metric."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number else math.nan


def _config(config: JsonObject, problems: list[str]) -> JsonObject:
    """The config without parts that are no groups of settings."""
    groups = {"domains", "rollout", "learner"}
    config = dict(config)
    for name in sorted(groups & config.keys()):
        if not isinstance(config[name], dict):
            problems.append(f"run.json: config.{name} is not a group of settings")
            del config[name]
    domains = config.get("domains", {})
    for name in [n for n, domain in domains.items() if not isinstance(domain, dict)]:
        problems.append(f"run.json: config.domains.{name} is not a group of settings")
        config["domains"] = {n: d for n, d in config["domains"].items() if n != name}
    return config


def _start(start: JsonObject) -> JsonObject:
    """A start of the run without entries of another type than `gopd_jax.train` writes."""
    kinds = {"devices": list, "command": list, "packages": dict, "processes": int}
    return {k: v for k, v in start.items() if isinstance(v, kinds.get(k, object))}


def _contracts(path: epath.Path, problems: list[str]) -> list[JsonObject]:
    """The contract checks of a run; none where it made none."""
    if not path.exists():
        return []
    found = _object(path, problems, "the contract checks are unknown").get("checks")
    return [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []


def _run_json(folder: epath.Path, problems: list[str]) -> JsonObject:
    """run.json; empty if it cannot be read. A run of another format is a ValueError."""
    contents = _object(folder / "run.json", problems, "the setup of the run is unknown")
    return run_folder.read_run(str(folder)) if contents else {}


def _by_step(metrics: list[JsonObject]) -> list[JsonObject]:
    """One record for each step, the last that was written, in their order."""
    last_of_step = {m["step"]: _with_ends(m) for m in metrics}
    return sorted(last_of_step.values(), key=lambda m: m["step"])


def _with_ends(metrics: JsonObject) -> JsonObject:
    """A step's metrics with the ends of intervals; earlier versions wrote the half width."""
    old = "reward_half_width"
    for name in [name for name in metrics if name.startswith(old)]:
        half, suffix = number(metrics[name]), name.removeprefix(old)
        mean = number(metrics.get(f"reward{suffix}"))
        metrics[f"reward_low{suffix}"] = max(0.0, mean - half)
        metrics[f"reward_high{suffix}"] = min(1.0, mean + half)
    return metrics


def are_numbers(values: object) -> bool:
    """Whether a value of a record is a list of numbers, and not empty."""
    is_filled = isinstance(values, list) and bool(values)
    return is_filled and all(isinstance(v, (int, float)) for v in values)


def _part(record: JsonObject, key: str) -> JsonObject:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _object(path: epath.Path, problems: list[str], consequence: str) -> JsonObject:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: {consequence}")
        return {}
    except ValueError as error:  # not JSON, or not UTF-8
        problems.append(f"{path.name} cannot be read ({error}): {consequence}")
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: epath.Path, fields: Sequence[str], problems: list[str]) -> list[JsonObject]:
    """The records of a JSON-lines file that have an integer "step" and `fields`."""
    if not path.exists():
        return []
    if path.is_dir():
        problems.append(f"{path.name} is a folder")
        return []
    lines = path.read_bytes().decode("utf-8", "replace").split("\n")
    records, bad = [], []
    for line_number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        is_cut = line_number == len(lines)  # no line end follows
        record, problem = _record(line, fields, is_cut)
        if problem:
            bad.append(f"{path.name} line {line_number}: {problem}")
        else:
            records.append(record)
    problems += bad[:MOST_PROBLEMS]
    if len(bad) > MOST_PROBLEMS:
        problems.append(f"{path.name}: {len(bad) - MOST_PROBLEMS} more lines like these")
    return records


def _record(line: str, fields: Sequence[str], is_cut: bool) -> tuple[JsonObject, str]:
    """The record of one line, and what is wrong with it ("" if nothing is)."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return {}, "cut short, as by a kill" if is_cut else f"not JSON ({error})"
    if not isinstance(record, dict):
        return {}, "no step in it"
    missing = [f for f in ("step", *fields) if f not in record]
    if missing:
        return {}, f"no {missing[0]} in it"
    if not isinstance(record["step"], int):
        return {}, "no whole number as step in it"
    return record, ""
