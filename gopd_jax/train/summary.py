"""What a run says about itself: its opening lines, summary.json at the end, and the final table."""

import json
import os

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gopd_jax.config import Config
from gopd_jax.evaluate.held_out import Evaluation, paired_difference
from gopd_jax.evaluate.unverified import NOT_MEASURED, Unverified, paired_change
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.lora import adapter_elements
from gopd_jax.models.settings import LoraSettings
from gopd_jax.rewards.settings import NONE
from gopd_jax.runtime.files import JsonObject, replace_json
from gopd_jax.runtime.tables import aligned, folded
from gopd_jax.train.evaluations import Evaluations
from gopd_jax.train.origin import reference_line, start_line
from gopd_jax.train.prepare import RunInputs

Summary = JsonObject  # the content of summary.json


def write(
    workdir: str,
    config: Config,
    inputs: RunInputs,
    evaluations: Evaluations,
    seconds: float,
    findings: list[JsonObject],
) -> Summary:
    """Writes and returns summary.json.

    It holds, for each domain, the student before and after, its teacher, and their difference.

    Args:
        seconds: of training, over all starts of the run.
        findings: what deserves attention in its metrics.
    """
    lines = (epath.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    result = {
        "name": config.name,
        "method": config.method,
        "steps": config.steps,
        "seed": config.seed,
        "domains": {name: _domain(name, config, inputs, evaluations) for name in config.domains},
        "rollout_tokens": int(sum(json.loads(line)["rollout_tokens"] for line in lines)),
        "training_seconds": round(seconds, 1),
        "findings": findings,
        "fingerprints": inputs.fingerprints,
    }
    replace_json(epath.Path(workdir) / "summary.json", result)
    return result


def _domain(name: str, config: Config, inputs: RunInputs, evaluations: Evaluations) -> JsonObject:
    if config.domains[name].reward == NONE:
        return _unverified(name, config, inputs, evaluations)
    after = evaluations.get("student", name, config.steps)
    rows = {"student before": evaluations.get("student", name, 0)}
    if measured := evaluations.has("teacher", name, 0):
        rows["teacher"] = evaluations.get("teacher", name, 0)
    rows["student after"] = after
    domain: JsonObject = {
        "prompts": len(after.by_prompt),
        "samples": after.samples,
        "test_prompts_in_train": len(inputs.in_train[name]),
        "rows": {who: _row(evaluation) for who, evaluation in rows.items()},
    }
    if name in inputs.teachers:
        if config.method == "gopd":
            domain["reward_scale"] = config.reward_scales[name]
        domain["passed_teacher"] = "not measured"
    if measured:
        difference = paired_difference(after, rows["teacher"])
        domain["student_minus_teacher"] = difference.figures
        domain["passed_teacher"] = {1: "yes", 0: "unclear", -1: "no"}[difference.sign]
    return domain


def _unverified(
    name: str, config: Config, inputs: RunInputs, evaluations: Evaluations
) -> JsonObject:
    """A domain whose answers are not verified: how far the student is from its teacher."""
    before, after = (evaluations.unverified(name, step) for step in (0, config.steps))
    rows = {"student before": before, "student after": after}
    domain: JsonObject = {
        "prompts": after.prompts,
        "samples": after.samples,
        "test_prompts_in_train": len(inputs.in_train[name]),
        "rows": {who: _unverified_row(evaluation) for who, evaluation in rows.items()},
        **paired_change(before, after),
        "passed_teacher": "not measured",
        "not_measured": NOT_MEASURED,
    }
    if name in inputs.teachers and config.method == "gopd":
        domain["reward_scale"] = config.reward_scales[name]
    return domain


def _unverified_row(evaluation: Unverified) -> JsonObject:
    kept = ("top1_overlap", "entropy", "tokens", "truncated")
    values = {name: getattr(evaluation, name) for name in kept}
    return evaluation.figures | values | {"seconds": round(evaluation.seconds, 1)}


def _row(evaluation: Evaluation) -> dict[str, float]:
    responses = len(evaluation.by_prompt) * evaluation.samples
    return {
        **evaluation.estimate.figures,
        "tokens": evaluation.tokens,
        "mean_tokens": evaluation.tokens / responses,
        "truncated": evaluation.truncated,
        "seconds": round(evaluation.seconds, 1),
    }


def table(result: Summary, width: int | None = None) -> str:
    """The summary for a person: one block for each domain.

    Args:
        result: the summary.
        width: columns of the terminal, if the table goes to one. Where they are few, the least
            important columns are left out.
    """
    lines = [
        f"{result['name']}: {result['steps']} steps, {result['rollout_tokens']:,} response "
        f"tokens, {result['training_seconds']:.0f} s of training"
    ]
    for name, domain in result["domains"].items():
        if "not_measured" in domain:
            lines += ["", *_unverified_lines(name, domain, width)]
            continue
        k, prompts = domain["samples"], domain["prompts"]
        lines += ["", f"{name} (avg@{k} of {prompts} held-out prompts, 95% interval)"]
        rows = [["", "score", "interval", "tokens", "truncated", "seconds"]]
        for who, row in domain["rows"].items():
            mean, low, high = _percent(row)
            cells = [f"{mean:.2f}", f"[{low:.2f}, {high:.2f}]", f"{row['mean_tokens']:.1f}"]
            rows.append([who, *cells, f"{100 * row['truncated']:.1f}%", f"{row['seconds']:.1f}"])
        lines += _rows(rows, width, ["seconds", "truncated"])
        if "student_minus_teacher" in domain:
            lines += _comparison(result["method"], domain)
        elif "passed_teacher" in domain:
            lines.append("  Not measured: the teacher (config.eval.teachers)")
            lines.append("  Student above its teacher: not measured")
    if found := result.get("findings"):  # not of runs of earlier versions
        lines += ["", "What deserves attention:", *(f"  {finding_line(f)}" for f in found)]
    return folded("\n".join(lines), width)


def finding_line(finding: JsonObject) -> str:
    """A finding of the report's checks in one line: how grave, what, and what to do."""
    return "{level:4}  {title}: {text} {todo}".format(**finding)


def _rows(rows: list[list[str]], width: int | None, optional: list[str]) -> list[str]:
    """An indented table, and where the columns are that it has no room for."""
    lines, left_out = aligned(rows, width and width - 2, optional)
    if left_out:
        lines.append(f"({', '.join(left_out)}: summary.json)")
    return [f"  {line}" for line in lines]


def _unverified_lines(name: str, domain: JsonObject, width: int | None) -> list[str]:
    lines = [
        f"{name} ({domain['prompts']} held-out prompts x {domain['samples']}, answers not "
        "verified, 95% interval)",
    ]
    rows = [["", "KL to teacher", "interval", "overlap", "entropy", "tokens", "truncated"]]
    for who, row in domain["rows"].items():
        kl = "-" if row.get("kl") is None else f"{row['kl']:.4f}"
        overlap = "-" if row["top1_overlap"] is None else f"{100 * row['top1_overlap']:.1f}%"
        cells = [kl, _between(row, "kl", ".4f"), overlap, f"{row['entropy']:.3f}"]
        cells += [f"{row['mean_tokens']:.1f}", f"{100 * row['truncated']:.1f}%"]
        rows.append([who, *cells])
    lines += _rows(rows, width, ["entropy", "truncated", "tokens", "overlap"])
    if "kl_change" in domain:
        between = _between(domain, "kl_change", "+.4f")
        lines.append(f"  change of the KL: {domain['kl_change']:+.4f} {between} (paired by prompt)")
    return [*lines, f"  Not measured: {domain['not_measured']}."]


def _between(figures: JsonObject, name: str, form: str) -> str:
    """The interval of a figure; nothing for a single prompt, or where it was not measured."""
    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _comparison(method: str, domain: JsonObject) -> list[str]:
    """The student's difference to its teacher, and whether it has passed it."""
    difference = domain["student_minus_teacher"]
    mean, low, high = _percent(difference)
    scale = f", lambda {domain['reward_scale']:g}" if "reward_scale" in domain else ""
    passed = domain["passed_teacher"]
    answer = "unclear: the interval contains 0" if passed == "unclear" else passed
    return [
        f"  student after - teacher: {mean:+.2f} [{low:+.2f}, {high:+.2f}] (paired by prompt), "
        f"{method}{scale}",
        f"  Student above its teacher: {answer}",
    ]


def _percent(figures: JsonObject) -> tuple[float, float, float]:
    """Mean and interval in percent; summaries of earlier versions hold a half width."""
    mean, half_width = figures["mean"], figures.get("half_width", 0.0)
    low, high = figures.get("low", mean - half_width), figures.get("high", mean + half_width)
    return 100 * mean, 100 * low, 100 * high


def opening(config: Config, inputs: RunInputs, mesh: Mesh, dtype: jnp.dtype, workdir: str) -> str:
    """What is about to run, in a few lines."""
    model, rollout = inputs.models[config.student], config.rollout
    lines = [
        f"{config.name}: {config.method}, {config.steps} steps of {rollout.prompts_per_step} "
        f"prompts x {rollout.samples_per_prompt} samples, seed {config.seed}",
        f"  student    {config.student} ({model.family}, {model.num_params:,} parameters, "
        f"computed in {jnp.dtype(dtype).name})",
    ]
    if config.lora.rank:
        lines.append(f"  trained    {adapter_line(config.lora, model)}")
    if inputs.origin["init_from"]:
        lines.append(f"  from       {start_line(inputs.origin['init_from'])}")
    for name, path in inputs.teachers.items():
        scale = f", lambda {config.reward_scales[name]:g}" if config.method == "gopd" else ""
        lines.append(f"  teacher    {path} for {name}{scale}")
    if config.method == "gopd":
        lines.append(f"  reference  {reference_line(config, inputs.reference)}")
    for split, prompts in (("train", inputs.train), ("test", inputs.test)):
        counts = ", ".join(_prompt_count(n, split, len(p), inputs) for n, p in prompts.items())
        lines.append(f"  {split:10} {counts}")
    devices = jax.devices()
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    spread = f", mesh {sizes}" if len(devices) > 1 else ""
    lines.append(f"  devices    {len(devices)} {devices[0].device_kind}{spread}")
    lines.append(f"  results    {workdir}")
    return "\n".join(lines)


def adapter_line(lora: LoraSettings, model: ModelConfig) -> str:
    """What an adapter is, for the opening lines."""
    return (
        f"an adapter of rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.targets)} "
        f"({adapter_elements(model, lora):,} parameters)"
    )


def _prompt_count(name: str, split: str, prompts: int, inputs: RunInputs) -> str:
    report = inputs.dropped[f"{name}/{split}"]
    over = report.total - report.kept
    left_out = f" ({over:,} over the length limit left out)" if over else ""
    return f"{name} {prompts:,} prompts{left_out}"


def resumed(workdir: str, step: int, steps: int) -> str:
    if step:
        return f"resumed {workdir} at step {step} of {steps}"
    return f"{workdir} was stopped before its first checkpoint: starting again"


def stopped(step: int, steps: int) -> str:
    """What follows "stopped by SIGTERM" or "stopped by Ctrl-C"."""
    begun = "rollouts and evaluations begun since are thrown away"
    if not step:
        return f" before the end of step 1; {begun}, and the same command starts again"
    return (
        f" after step {step} of {steps}, which is saved; {begun}, and the same command resumes "
        "from there"
    )


def complete(workdir: str) -> str:
    return f"{workdir} is complete. For another run, give another --workdir or delete this one."


def closing(workdir: str) -> str:
    """Where everything is."""
    return (
        f"results in {workdir}: summary.json, curves.png, metrics.jsonl, samples.jsonl, "
        "evaluations.jsonl"
    )


def commands(workdir: str, tensorboard: bool) -> str:
    """What to do with a run, to be copied; `tensorboard` if its files were written."""
    folder = os.path.join(workdir, "tensorboard")
    curves = f"  live curves: tensorboard --logdir {folder}\n" if tensorboard else ""
    return f"{curves}  the student: python -m gopd_jax.export --workdir={workdir} --out=FOLDER"
