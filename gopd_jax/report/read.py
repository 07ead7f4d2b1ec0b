"""A run's folder as plain records, however it was left: half-written, cut short, with lines that are no JSON.

In: a folder that `gopd_jax.train` wrote (local or gs://). Out: a `Run`; what could not be read is in its `problems`.
"""

from collections.abc import Sequence
import dataclasses
import json
import os
from typing import Any

from etils import epath

MOST_PROBLEMS = 5  # of one file: more are counted


@dataclasses.dataclass
class Run:
    """What a folder holds. `config`, `starts`, `fingerprints` are of run.json; metrics and evaluations are sorted by step.

    label: a name that no other run of the report has. finished: whether there is a summary.json. problems: what could not be
    read, with file and line.
    """

    path: str
    label: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    starts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    fingerprints: dict[str, Any] = dataclasses.field(default_factory=dict)
    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    summary: dict[str, Any] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> bool:
        return bool(self.summary)

    @property
    def last_step(self) -> int:
        return max((m["step"] for m in self.metrics + self.evaluations), default=0)

    @property
    def domains(self) -> list[str]:
        """Of the config, or where it is lost, of the evaluations."""
        return list(
            self.config.get("domains") or dict.fromkeys(e["domain"] for e in self.evaluations)
        )

    def reward_scale(self, domain: str) -> float | None:
        """lambda of a domain's teacher; None without one."""
        if self.config.get("method", "gopd") != "gopd":
            return None
        own = self.config.get("domains", {}).get(domain, {}).get("reward_scale")
        return self.config.get("learner", {}).get("reward_scale") if own is None else own


def read_runs(paths: Sequence[str]) -> list[Run]:
    """The runs of these folders, each with a label of its own; a folder given twice is read once.

    Raises:
        ValueError: a folder that does not exist or holds no run.
    """
    runs = [
        read_run(path)
        for path in dict.fromkeys(
            os.path.normpath(p) if "://" not in p else p.rstrip("/") for p in paths
        )
    ]
    parts = [run.path.split("/") for run in runs]
    for run, mine in zip(runs, parts, strict=True):
        ends = range(1, len(mine) + 1)  # as much of the end of the path as tells it apart
        run.label = next(
            ("/".join(mine[-n:]) for n in ends if sum(p[-n:] == mine[-n:] for p in parts) == 1),
            run.path,
        )
    return runs


def read_run(path: str) -> Run:
    """One run, without a label.

    Raises:
        ValueError: the folder does not exist or holds no run.
    """
    folder = epath.Path(path)
    if not folder.is_dir():
        raise ValueError(
            f"no run at {path}: no such folder; wanted the --workdir of gopd_jax.train"
        )
    if not any((folder / name).exists() for name in ("run.json", "metrics.jsonl")):
        raise ValueError(
            f"no run at {path}: neither run.json nor metrics.jsonl in it; wanted the --workdir of gopd_jax.train"
        )
    run = Run(str(path))
    about = _object(folder / "run.json", run.problems, "what was run, and with what, is unknown")
    run.config, run.fingerprints = _dict(about, "config"), _dict(about, "fingerprints")
    run.starts = [s for s in about.get("starts", []) if isinstance(s, dict)]
    wanted = {
        "metrics.jsonl": (),
        "evaluations.jsonl": ("model", "domain", "by_prompt"),
        "samples.jsonl": ("tokens",),
    }
    metrics, evaluations, run.samples = (
        _lines(folder / name, keys, run.problems) for name, keys in wanted.items()
    )
    run.metrics = sorted({m["step"]: m for m in metrics}.values(), key=lambda m: m["step"])
    run.evaluations = sorted(
        (e for e in evaluations if _numbers(e["by_prompt"])), key=lambda e: e["step"]
    )
    if (folder / "summary.json").exists():
        run.summary = _object(folder / "summary.json", run.problems, "the run counts as unfinished")
    return run


def _numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(isinstance(v, (int, float)) for v in values)
    )


def _dict(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _object(path: epath.Path, problems: list[str], otherwise: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        problems.append(f"{path.name} is missing: {otherwise}")
        return {}
    except ValueError as e:  # JSON or UTF-8
        problems.append(f"{path.name} cannot be read ({e}): {otherwise}")
        return {}
    return value if isinstance(value, dict) else {}


def _lines(path: epath.Path, keys: Sequence[str], problems: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file that have a whole "step" and these keys; the others are problems."""
    if not path.exists():
        return []
    text = path.read_bytes().decode("utf-8", "replace")
    lines = text.split("\n")
    records, bad = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as e:
            cut = number == len(lines)  # no line end after it
            bad.append(
                f"{path.name} line {number}: {'cut short, as by a kill' if cut else f'not JSON ({e})'}"
            )
            continue
        missing = [k for k in ("step", *keys) if not isinstance(record, dict) or k not in record]
        if missing or not isinstance(record["step"], int):
            bad.append(
                f"{path.name} line {number}: no {missing[0] if missing else 'whole number as step'} in it"
            )
            continue
        records.append(record)
    problems += bad[:MOST_PROBLEMS]
    if len(bad) > MOST_PROBLEMS:
        problems.append(f"{path.name}: {len(bad) - MOST_PROBLEMS} more lines like these")
    return records
