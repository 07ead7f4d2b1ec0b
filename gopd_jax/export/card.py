"""The model card of an exported student: how it was made and what it scored.

In: run.json and summary.json of the run. Out: the text of README.md. What the two files do not say
is left out; the card names local models and files by their last name alone.
"""

import json
from pathlib import Path
import re

from etils import epath
import huggingface_hub
import yaml

from gopd_jax.data.sources import HUB
from gopd_jax.models.huggingface import local_folder
from gopd_jax.runtime.files import JsonObject, read_json
from gopd_jax.runtime.run_folder import read_run

METHODS = {
    "gopd": """Generalized on-policy distillation (G-OPD). The student answered the prompts
itself, and each of its tokens was credited with
`lambda (log teacher - log reference) - (log student - log reference)`. At lambda = 1 this is plain
on-policy distillation (OPD) and needs no reference; above 1 it extrapolates beyond the teacher
(ExOPD).""",
    "grpo": """GRPO. The student answered each prompt several times, and each answer was credited
with its verified reward relative to the other answers to that prompt.""",
    "sft": """Supervised fine-tuning (SFT), on samples of the teacher where a domain has one, and
otherwise on the responses of the data set.""",
}
TAGS = {"gopd": ["on-policy-distillation", "distillation"], "grpo": ["grpo"], "sft": ["sft"]}
CITATION = """The method is that of [arXiv 2602.12125](https://arxiv.org/abs/2602.12125):

```
@misc{yang2026learning,
  title = {Learning beyond Teacher: Generalized On-Policy Distillation with Reward Extrapolation},
  author = {Wenkai Yang and Weijie Liu and Ruobing Xie and Kai Yang and Saiyong Yang
            and Yankai Lin},
  year = {2026},
  eprint = {2602.12125},
  archivePrefix = {arXiv}
}
```"""
RULE = "temperature {temperature:g}, top-k {top_k}, top-p {top_p:g}"


def model_card(workdir: str, step: int, dtype: str, alone: bool = False) -> str:
    """The text of the card.

    Args:
        workdir: folder of the run.
        step: of the exported checkpoint.
        dtype: of the exported weights.
        alone: what is exported is an adapter without its model.

    Raises:
        ValueError: run.json or summary.json is missing or damaged.
    """
    run = read_run(workdir)
    path = epath.Path(workdir) / "summary.json"
    summary = read_json(path) if path.exists() else {}
    config = run["config"]
    title = config.get("name") or "Student"
    sections = [
        front_matter(config, "peft" if alone else "transformers"),
        f"# {title}, step {step}",
        f"`{_model(config['student'])}` after {step} steps of training with gopd_jax"
        f"{_started_from(run)}. The weights were trained in float32 and are written in {dtype}.",
        _loading_adapter(config) if alone else _loading(),
        "## How it was made",
        METHODS.get(config.get("method", ""), ""),
        _models(run),
        _data(run),
        _table(("setting", "value"), _settings(run, summary)),
        "## Results",
        _results(summary, config, step),
        "## Limits",
        _limits(summary),
        f"## Citation\n\n{CITATION}" if config.get("method") == "gopd" else "",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def front_matter(config: JsonObject, library: str = "transformers") -> str:
    """The YAML block at the head of a card, which the hub reads.

    The base model and data sets are named where they are on the hub, and the license where the
    card of the base model names one.
    """
    sources = [d.get(side) or "" for d in _domains(config).values() for side in ("train", "test")]
    on_hub = [s.removeprefix(HUB).split("/") for s in sources if s.startswith(HUB)]
    datasets = [f"{owner}/{name.partition('@')[0]}" for owner, name, *_ in on_hub]
    student = config["student"]
    data = huggingface_hub.ModelCardData(
        base_model=student if is_on_hub(student) else None,
        datasets=list(dict.fromkeys(datasets)) or None,
        library_name=library,
        pipeline_tag="text-generation",
        tags=["gopd_jax", *TAGS.get(config.get("method", ""), [])],
        **_license(student),
    )
    return f"---\n{data.to_yaml()}\n---"


def interval(row: JsonObject) -> tuple[float, float]:
    """The 95% interval of a row, as its two ends; earlier summaries hold half of its width."""
    mean, half_width = row["mean"], row.get("half_width", 0.0)
    return row.get("low", mean - half_width), row.get("high", mean + half_width)


# ---- Sections.


def _loading() -> str:
    return """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or the id of its repository
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)
```"""


def _loading_adapter(config: JsonObject) -> str:
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{_model(config["student"])}", dtype="auto")
model = PeftModel.from_pretrained(model, ".")  # this folder, or the id of its repository
```"""


def _started_from(run: JsonObject) -> str:
    """The checkpoint of another run that the run started from, as the end of a sentence."""
    if not (point := run.get("init_from")):
        return ""
    return (
        f", which began with the weights and the optimizer of step {point['step']} of another run, "
        f"`{Path(point['run']).name}` (sha256 of its manifest: {point['manifest']})"
    )


def _models(run: JsonObject) -> str:
    config, weights = run["config"], run["fingerprints"].get("weights", {})
    role = "student, before the other run" if run.get("init_from") else "student, at the start"
    rows = [(role, _model(config["student"]), "", weights.get("student", ""))]
    for name, domain in _domains(config).items():
        if domain.get("teacher") and config.get("method") != "grpo":
            role, scale = f"teacher of {name}", _scale(config, domain)
            shown = "" if scale is None else f"{scale:g}"
            more = ", shown more than the student" if domain.get("teacher_context") else ""
            more += ", with a chat template of its own" if domain.get("teacher_template") else ""
            model = _model(domain["teacher"]) + more
            rows.append((role, model, shown, weights.get(role, "")))
    if "reference" in weights:
        reference = config.get("reference") or config["student"]
        rows.append(("reference", _model(reference), "", weights["reference"]))
    return _table(("role", "model", "lambda", "sha256 of the weights"), rows)


def _data(run: JsonObject) -> str:
    counts = run["starts"][-1].get("prompts", {}) if run["starts"] else {}
    hashes = run["fingerprints"].get("data", {})
    rows = []
    for name, domain in _domains(run["config"]).items():
        for side in ("train", "test"):
            key = f"{name}/{side}"
            source = _source(domain.get(side) or domain.get("train") or "")
            if side == "test" and (domain.get("held_out") or not domain.get("test")):
                source += ", held out of the training prompts"
            count = f"{counts[key]:,}" if key in counts else "not recorded"
            rows.append((key, source, count, domain.get("reward", ""), hashes.get(key, "")))
    columns = ("prompts", "source", "number", "verified as", "sha256 of the source")
    return _table(columns, rows) if rows else ""


def _settings(run: JsonObject, summary: JsonObject) -> list[tuple[str, str]]:
    """What decided the numbers, by name; what is not known is left out."""
    config, start = run["config"], run["starts"][-1] if run["starts"] else {}
    rollout, learner, data = (config.get(part, {}) for part in ("rollout", "learner", "data"))
    rows = [
        ("steps of the run", config.get("steps")),
        (
            "each step",
            _named(rollout, "{prompts_per_step} prompts x {samples_per_prompt} samples"),
        ),
        ("response tokens, all steps", _number(summary.get("rollout_tokens"))),
        ("longest response", _named(rollout, "{max_response_tokens} tokens")),
        ("longest prompt", _named(data, "{max_prompt_tokens} tokens")),
        ("keyword arguments of the chat template", _pairs(data.get("template_kwargs", {}))),
        *_prompt_settings(config),
        ("sampling", _named(rollout, RULE)),
        ("stop ids besides the model's", ", ".join(map(str, rollout.get("extra_stop_ids", ())))),
        ("sampling arithmetic", _named(rollout, "cache {kv_cache}, weights {weights}")),
        ("compute dtype", config.get("compute_dtype")),
        (
            "optimizer",
            _named(
                learner,
                "AdamW, learning rate {learning_rate:g} ({schedule}, {warmup_steps} warm-up "
                "updates), b1 {b1:g}, b2 {b2:g}, eps {eps:g}, weight decay {weight_decay:g}, "
                "gradients clipped at norm {clip_norm:g}",
            ),
        ),
        ("trained", _adapter(config.get("lora", {}))),
        ("updates in each step", learner.get("updates_per_batch")),
        ("loss", _named(learner, "{aggregation}; truncated responses: {truncation}")),
        ("upper limit of importance weights", _named(learner, "{importance_cap:g}")),
        ("clipping of the ratio", _clipping(learner)),
        ("seed", config.get("seed")),
        ("training time", _named(summary, "{training_seconds:,.0f} s")),
        ("devices", _devices(start.get("devices", []))),
        ("starts", len(run["starts"])),
        ("gopd_jax", _version(start)),
        ("versions", ", ".join(f"{k} {v}" for k, v in start.get("packages", {}).items())),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _prompt_settings(config: JsonObject) -> list[tuple[str, str]]:
    """What the prompts of each domain are made of, where it is not what the rows say alone."""
    rows = []
    for name, domain in _domains(config).items():
        if suffix := domain.get("prompt_suffix"):
            rows.append((f"after each prompt of {name}", json.dumps(suffix, ensure_ascii=False)))
        if (context := domain.get("teacher_context")) and config.get("method") != "grpo":
            shown = json.dumps(context, ensure_ascii=False)
            rows.append((f"shown to the teacher of {name} alone", shown))
        if least := domain.get("min_difficulty"):
            rows.append((f"least difficulty of {name}", f"{least:g}"))
        if len(_domains(config)) > 1:
            rows.append((f"share of {name} in each step, relative", f"{domain.get('share', 1):g}"))
    return rows


def _adapter(lora: JsonObject) -> str:
    """What is trained where it is not all parameters."""
    if not lora.get("rank"):
        return ""
    targets = ", ".join(lora["targets"])
    return f"an adapter (LoRA) of rank {lora['rank']}, alpha {lora['alpha']:g}, on {targets}"


def _clipping(learner: JsonObject) -> str:
    """How PPO clips the ratio of probabilities; empty with one update per step: it is 1 then."""
    if learner.get("updates_per_batch", 1) == 1:
        return ""
    return _named(learner, "PPO, low {clip_low:g}, high {clip_high:g}, dual {dual_clip:g}")


def _pairs(values: JsonObject) -> str:
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in values.items())


def _results(summary: JsonObject, config: JsonObject, step: int) -> str:
    if not summary:
        return (
            "The run had not ended when this model was exported, so that there is no final "
            "evaluation."
        )
    parts = []
    if summary["steps"] != step:
        parts.append(
            f"**These are the results of step {summary['steps']}, the last of the run; this model "
            f"is that of step {step}.**"
        )
    rows, distances = [], []
    for name, domain in summary["domains"].items():
        of = f"{domain['prompts']:,} prompts x {domain['samples']}"
        for who, row in domain["rows"].items():
            cut = f"{100 * row['truncated']:.1f}"
            if "not_measured" in domain:
                distances.append((name, of, who, *_distance(row), f"{row['mean_tokens']:.1f}", cut))
                continue
            rows.append((name, of, who, _percent(row), f"{row['mean_tokens']:.1f}", cut))
        if "student_minus_teacher" in domain:
            difference = _percent(domain["student_minus_teacher"], "+")
            rows.append((name, of, "student after - teacher", difference, "", ""))
    if rows:
        columns = ("domain", "evaluated on", "model", "score, %", "tokens", "% truncated")
        parts.append(_table(columns, rows))
    if distances:
        measured = ("KL to the teacher, nats per token", "% same first choice")
        columns = ("domain", "evaluated on", "model", *measured, "tokens", "% truncated")
        parts.append(_table(columns, distances))
        parts.append(
            "The answers of these domains were not verified: how good they are, and whether the "
            "student has passed its teacher, was not measured."
        )
    rule = _named(config.get("eval", {}), RULE)
    parts.append(
        "In brackets: 95% intervals, clustered by prompt; differences are paired by prompt."
        + (f" Drawn with {rule}." if rule else "")
    )
    return "\n\n".join(parts)


def _limits(summary: JsonObject) -> str:
    lines = [
        "- Nothing was measured besides the scores above: other tasks, languages, and safety are "
        "unknown.",
        "- The limits, biases and license of the base model apply to this one.",
    ]
    if summary:
        lines[:0] = [
            "- Evaluated on held-out prompts of the training domains only; a gain there need not "
            "carry over to other data.",
            "- The intervals cover the choice of prompts for this one run, not the training seed.",
        ]
    return "\n".join(lines)


# ---- Values.


def _domains(config: JsonObject) -> JsonObject:
    return config.get("domains", {})


def _scale(config: JsonObject, domain: JsonObject) -> float | None:
    """lambda of a domain's teacher; None for other methods."""
    if config.get("method") != "gopd":
        return None
    own = domain.get("reward_scale")
    return config.get("learner", {}).get("reward_scale") if own is None else own


def is_on_hub(path: str) -> bool:
    """Whether a model is named by a hub id and not by a folder."""
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", path) is not None
    return is_id and not Path(path).exists() and not Path(path).parent.exists()


def _model(path: str) -> str:
    return path if is_on_hub(path) else f"{Path(path).name} (a local folder)"


def _source(source: str) -> str:
    """A data source without the folders of the machine that trained."""
    return source if source.startswith((HUB, "tiny:")) else Path(source).name


def _license(student: str) -> dict[str, str]:
    """The license entries of the card of the base model; none if it has no card."""
    try:
        readme = local_folder(student, ("README.md",)) / "README.md"
        data = huggingface_hub.metadata_load(readme) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {k: str(data[k]) for k in ("license", "license_name", "license_link") if data.get(k)}


def _devices(kinds: list[str]) -> str:
    return ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))


def _version(start: JsonObject) -> str:
    if not start:
        return ""
    commit = f", git commit {start['git_commit']}" if start.get("git_commit") else ""
    changed = " with uncommitted changes" if start.get("git_changed") else ""
    return f"{start.get('gopd_jax', '')}{commit}{changed}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _named(values: JsonObject, form: str) -> str:
    """`form` filled in with `values`; empty if one of them is not known."""
    try:
        return form.format(**values)
    except KeyError:
        return ""


def _distance(row: JsonObject) -> tuple[str, str]:
    """KL and overlap with the teacher; empty where there was none."""
    kl, overlap = row.get("kl"), row.get("top1_overlap")
    low, high = row.get("kl_low"), row.get("kl_high")
    between = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return (
        "" if kl is None else f"{kl:.4f}{between}",
        "" if overlap is None else f"{100 * overlap:.1f}",
    )


def _percent(row: JsonObject, sign: str = "") -> str:
    low, high = interval(row)
    return f"{100 * row['mean']:{sign}.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
