"""The results of a run: evaluations as they come in, summary.json at the end, and the table that a person reads."""

import dataclasses
import json
import os
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np

from gopd_jax.config import Config
from gopd_jax.evaluate.held_out import Evaluation, paired_difference
from gopd_jax.runtime.metrics import JsonLines
from gopd_jax.train.prepare import Contract


class Evaluations:
    """The evaluations of a run, kept in evaluations.jsonl: one line for each model, domain and step."""

    def __init__(self, workdir: str, last_step: int):
        path = epath.Path(workdir) / "evaluations.jsonl"
        self._file = JsonLines(path, last_step)
        self._results: dict[tuple[str, str, int], Evaluation] = {}
        for record in self._file.records():
            key = (record.pop("model"), record.pop("domain"), record.pop("step"))
            self._results[key] = Evaluation(
                **{f.name: record[f.name] for f in dataclasses.fields(Evaluation)}
                | {"by_prompt": tuple(record["by_prompt"])}
            )

    def has(self, model: str, domain: str, step: int) -> bool:
        return (model, domain, step) in self._results

    def get(self, model: str, domain: str, step: int) -> Evaluation:
        return self._results[model, domain, step]

    def add(self, model: str, domain: str, step: int, result: Evaluation) -> None:
        self._results[model, domain, step] = result
        if jax.process_index() == 0:
            record = {
                "step": step,
                "model": model,
                "domain": domain,
                "mean": result.mean,
                "half_width": result.half_width,
            }
            self._file.write(record | dataclasses.asdict(result))
            self._file.flush()


def read(workdir: str) -> dict[str, Any] | None:
    """The summary of a finished run, or None."""
    path = epath.Path(workdir) / "summary.json"
    return json.loads(path.read_text()) if path.exists() else None


def write(
    workdir: str, config: Config, contract: Contract, evaluations: Evaluations, seconds: float
) -> dict[str, Any]:
    """Writes and returns summary.json: for each domain the student before and after, its teacher, and their difference."""
    domains = {}
    for name in config.domains:
        before, after = (
            evaluations.get("student", name, 0),
            evaluations.get("student", name, config.steps),
        )
        rows = {"student before": before, "student after": after}
        if name in contract.teachers:
            rows = {
                "student before": before,
                "teacher": evaluations.get("teacher", name, 0),
                "student after": after,
            }
        domains[name] = {
            "prompts": len(after.by_prompt),
            "samples": after.samples,
            "rows": {who: _row(e) for who, e in rows.items()},
        }
        if name in contract.teachers:
            if config.method == "gopd":
                domains[name]["reward_scale"] = config.reward_scale(name)
            difference, half_width = paired_difference(after, rows["teacher"])
            domains[name]["student_minus_teacher"] = {"mean": difference, "half_width": half_width}
            domains[name]["passed_teacher"] = _verdict(difference, half_width)
    metrics = [
        json.loads(line)
        for line in (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    ]
    result = {
        "name": config.name,
        "method": config.method,
        "steps": config.steps,
        "seed": config.seed,
        "domains": domains,
        "rollout_tokens": int(sum(m["rollout_tokens"] for m in metrics)),
        "training_seconds": round(seconds, 1),
        "fingerprints": contract.fingerprints,
    }
    if jax.process_index() == 0:
        path = epath.Path(workdir) / "summary.json"
        path.with_suffix(".tmp").write_text(json.dumps(result, indent=2) + "\n")
        path.with_suffix(".tmp").replace(path)
    return result


def _row(e: Evaluation) -> dict[str, float]:
    length = e.tokens / (len(e.by_prompt) * e.samples)
    return {"mean": e.mean, "half_width": e.half_width, "tokens": e.tokens, "mean_tokens": length, "truncated": e.truncated,
            "seconds": round(e.seconds, 1)}  # fmt: skip


def _verdict(difference: float, half_width: float) -> str:
    if difference - half_width > 0:
        return "yes"
    return "no" if difference + half_width < 0 else "unclear"


def table(result: dict[str, Any]) -> str:
    """The summary for a person: one block for each domain."""
    lines = [f"{result['name']}: {result['steps']} steps, {result['rollout_tokens']:,} response tokens, "
             f"{result['training_seconds']:.0f} s of training"]  # fmt: skip
    for name, domain in result["domains"].items():
        k = domain["samples"]
        lines += ["", f"{name} (avg@{k} of {domain['prompts']} held-out prompts, 95% interval)"]
        lines.append(
            f"  {'':16}{'score':>8}  {'interval':<18}{'tokens':>8}{'truncated':>11}{'seconds':>9}"
        )
        for who, row in domain["rows"].items():
            low, high = (
                100 * (row["mean"] - row["half_width"]),
                100 * (row["mean"] + row["half_width"]),
            )
            between = f"[{low:.2f}, {high:.2f}]"
            lines.append(
                f"  {who:16}{100 * row['mean']:8.2f}  {between:<18}{row['mean_tokens']:8.1f}"
                f"{100 * row['truncated']:10.1f}%{row['seconds']:9.1f}"
            )
        if "student_minus_teacher" in domain:
            d = domain["student_minus_teacher"]
            scale = f", lambda {domain['reward_scale']:g}" if "reward_scale" in domain else ""
            answer = {"yes": "yes", "no": "no", "unclear": "unclear: the interval holds 0"}[
                domain["passed_teacher"]
            ]
            lines.append(
                f"  student after - teacher: {100 * d['mean']:+.2f} +- {100 * d['half_width']:.2f} (paired by prompt), "
                f"{result['method']}{scale}. Student above its teacher: {answer}"
            )
    return "\n".join(lines)


def opening(config: Config, contract: Contract, mesh: Mesh, dtype: Any, workdir: str) -> str:
    """What is about to run, in a few lines."""
    model = contract.models[config.student]
    lines = [
        f"{config.name}: {config.method}, {config.steps} steps of {config.rollout.prompts_per_step} prompts x "
        f"{config.rollout.samples_per_prompt} samples, seed {config.seed}",
        f"  student    {config.student} ({model.family}, {model.num_params:,} parameters, computed in {np.dtype(dtype).name})",
    ]
    for name, path in contract.teachers.items():
        scale = f", lambda {config.reward_scale(name):g}" if config.method == "gopd" else ""
        lines.append(f"  teacher    {path} for {name}{scale}")
    if config.method == "gopd":
        lines.append(f"  reference  {contract.reference or 'not needed: every lambda is 1'}")
    for split in ("train", "test"):
        parts = []
        for name in config.domains:
            report = contract.dropped[f"{name}/{split}"]
            over = report.total - report.kept
            left_out = (
                f" ({over:,} over {config.data.max_prompt_tokens} tokens left out)" if over else ""
            )
            parts.append(f"{name} {len(getattr(contract, split)[name]):,} prompts{left_out}")
        lines.append(f"  {split:10} {', '.join(parts)}")
    devices = jax.devices()
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    lines.append(
        f"  devices    {len(devices)} {devices[0].device_kind}, mesh {sizes}; attention: chunked XLA"
    )
    lines.append(f"  results    {workdir}")
    return "\n".join(lines)


def closing(workdir: str) -> str:
    """Where everything is."""
    return (
        f"results in {workdir}: summary.json, curves.png, metrics.jsonl, samples.jsonl, evaluations.jsonl\n"
        f"  live curves: tensorboard --logdir {os.path.join(workdir, 'tensorboard')}\n"
        f"  the student: python -m gopd_jax.export --workdir={workdir} --out=FOLDER"
    )
