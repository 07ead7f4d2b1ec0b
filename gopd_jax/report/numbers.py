"""The numbers that the page draws, cut to a size that a page can carry.

In: a `Run`. Out: plain JSON values: curves by step, curves by position, scores, phases of a step, samples.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gopd_jax.evaluate.statistics import interval
from gopd_jax.objective.diagnostics import POSITION_BINS
from gopd_jax.report.findings import number
from gopd_jax.report.read import Run

# A page is at most 5 MB: about 2.5 MB of curves at 9 bytes a number, 1.5 MB of samples at 50 bytes a token.
CURVE_NUMBERS, SAMPLE_TOKENS = 280_000, 30_000
MOST_POINTS, LEAST_POINTS = 400, 20  # of one curve: more are not seen on a screen
SAMPLES_OF_A_RUN, TOKENS_OF_A_SAMPLE, CHARACTERS = 24, 600, 2000
LOGPROBS = ("student", "teacher", "reference", "behaviour")


@dataclasses.dataclass(frozen=True)
class Chart:
    """One curve by step: `key` in metrics.jsonl, or `low` to `high` as an area. half: the half width of its interval.

    by_slice: whether there is one for each domain. robust: a few far points (compiling steps) do not set the scale.
    """

    group: str
    key: str
    title: str
    unit: str
    about: str
    half: str = ""
    low: str = ""
    high: str = ""
    percent: bool = False
    by_slice: bool = True
    robust: bool = False

    @property
    def keys(self) -> list[str]:
        return [k for k in (self.key, self.half, self.low, self.high) if k]


CHARTS = (
    Chart(
        "Answers",
        "reward",
        "Reward of the step's samples",
        "%",
        "95% interval by prompt. G-OPD does not learn from it.",
        half="reward_half_width",
        percent=True,
    ),
    Chart(
        "Answers",
        "response_length",
        "Response length",
        "tokens",
        "Mean. Doubling without a better score is a blow-up.",
    ),
    Chart(
        "Answers",
        "truncated",
        "Cut at the limit",
        "%",
        "Share of answers that never stopped.",
        percent=True,
    ),
    Chart(
        "Answers",
        "repetition_rate",
        "Ending in a loop",
        "%",
        "Share of answers whose last tokens repeat one n-gram.",
        percent=True,
    ),
    Chart(
        "Distances",
        "reverse_kl_teacher",
        "KL to the teacher",
        "nats a token",
        "Falls while the student learns; with lambda above 1 it ends above 0.",
    ),
    Chart(
        "Distances",
        "kl_reference",
        "KL to the reference",
        "nats a token",
        "How far the student has moved from the reference.",
    ),
    Chart(
        "Distances",
        "entropy",
        "Entropy",
        "nats a token",
        "Towards 0 the samples of a prompt become alike.",
    ),
    Chart(
        "Advantage",
        "advantage_mean",
        "Mean advantage",
        "nats",
        "Goes to 0 at lambda = 1, to a positive constant above.",
    ),
    Chart(
        "Advantage",
        "advantage_abs",
        "Mean size of the advantage",
        "nats",
        "How strong the signal is.",
    ),
    Chart(
        "Advantage",
        "advantage_positive",
        "Share positive",
        "%",
        "Tokens that the update makes likelier.",
        percent=True,
    ),
    Chart(
        "Advantage",
        "",
        "Extremes of the advantage",
        "nats",
        "Least to greatest of the step: a few tokens can rule a gradient.",
        low="advantage_min",
        high="advantage_max",
    ),
    Chart(
        "Sampler against learner",
        "sampler_gap",
        "Sampler gap",
        "nats a token",
        "Mean |log student - log behaviour|: 0 is right.",
    ),
    Chart(
        "Sampler against learner",
        "importance_mean",
        "Importance weight, mean",
        "",
        "1 where sampler and learner agree.",
    ),
    Chart(
        "Sampler against learner",
        "",
        "Importance weight, extremes",
        "",
        "Least to greatest of the step.",
        low="importance_min",
        high="importance_max",
    ),
    Chart(
        "Sampler against learner",
        "importance_capped",
        "Importance capped",
        "%",
        "Share of tokens at the cap.",
        percent=True,
    ),
    Chart(
        "Optimizer",
        "grad_norm",
        "Gradient norm",
        "",
        "Before clipping.",
        by_slice=False,
        robust=True,
    ),
    Chart("Optimizer", "learning_rate", "Learning rate", "", "", by_slice=False),
    Chart(
        "Optimizer",
        "clip_fraction",
        "Clipped by PPO",
        "%",
        "0 where one update follows a batch of rollouts.",
        percent=True,
    ),
    Chart(
        "Speed",
        "tokens_per_second",
        "Response tokens a second",
        "tokens/s",
        "Whole step; the first ones compile.",
        by_slice=False,
    ),
    Chart("Speed", "seconds", "Seconds a step", "s", "", by_slice=False, robust=True),
    Chart(
        "Speed",
        "seconds_rollout",
        "of it: rollout",
        "s",
        "Drawing the samples.",
        by_slice=False,
        robust=True,
    ),
    Chart(
        "Speed",
        "seconds_score",
        "of it: score",
        "s",
        "Teacher and reference log-probs.",
        by_slice=False,
        robust=True,
    ),
    Chart(
        "Speed",
        "seconds_update",
        "of it: update",
        "s",
        "Gradients and optimizer.",
        by_slice=False,
        robust=True,
    ),
)
POSITION_CHARTS = (
    ("advantage_mean_by_position", "Mean advantage", "nats"),
    ("advantage_abs_by_position", "Mean size of the advantage", "nats"),
    ("reverse_kl_teacher_by_position", "KL to the teacher", "nats a token"),
    ("tokens_by_position", "Tokens a step", "tokens"),
)
BIN_LABELS = (
    ["0-1"]
    + [f"{2**b:,}-{2 ** (b + 1) - 1:,}" for b in range(1, POSITION_BINS - 1)]
    + [f"{2 ** (POSITION_BINS - 1):,}+"]
)


def short(value: float) -> float | None:
    """Five digits: more are not seen, and make the page larger. None for what is not finite: JSON has no NaN."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def slices(run: Run) -> list[str]:
    """The empty name, all domains, and where there are several the name of each."""
    return ["", *run.domains] if len(run.domains) > 1 else [""]


def points_for(runs: list[Run]) -> int:
    """How many points a curve may have."""
    curves = sum(
        len(c.keys) * (len(slices(run)) if c.by_slice else 1) for run in runs for c in CHARTS
    )
    return int(np.clip(CURVE_NUMBERS // max(1, curves), LEAST_POINTS, MOST_POINTS))


def curves(run: Run, points: int) -> dict[str, Any]:
    """Steps as [first, last] of each point, and the values of each curve; a longer run is averaged to at most `points`.

    Of several steps a point takes the mean, of extremes the extreme, of half widths that of a mean of independent values.
    """
    parts = np.array_split(np.arange(len(run.metrics)), min(points, len(run.metrics)) or 1)
    steps = [[run.metrics[p[0]]["step"], run.metrics[p[-1]]["step"]] for p in parts if len(p)]
    out: dict[str, Any] = {"steps": steps, "values": {}}
    for chart in CHARTS:
        for slice_ in slices(run) if chart.by_slice else [""]:
            for key in chart.keys:
                name = f"{key}/{slice_}" if slice_ else key
                values = np.array([number(m.get(name)) for m in run.metrics])
                values[~np.isfinite(values)] = np.nan
                if np.isfinite(values).any():
                    kind = (
                        "half"
                        if key == chart.half
                        else "low"
                        if key == chart.low
                        else "high"
                        if key == chart.high
                        else ""
                    )
                    out["values"][name] = [short(_one(values[p], kind)) for p in parts if len(p)]
    return out


def _one(values: np.ndarray, kind: str) -> float:
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan
    if kind == "half":
        return float(np.sqrt(np.sum(values**2)) / len(values))
    return float({"low": np.min, "high": np.max}.get(kind, np.mean)(values))


def by_position(run: Run) -> dict[str, Any]:
    """For each slice and chart, curves over bins for the first, middle and last third of the steps (weighted by tokens)."""
    third = -(-len(run.metrics) // 3)
    periods = (
        [run.metrics[i : i + third] for i in range(0, len(run.metrics), third)] if third else []
    )
    out: dict[str, Any] = {
        "periods": [[p[0]["step"], p[-1]["step"]] for p in periods],
        "values": {},
    }
    for slice_ in slices(run):
        suffix = f"/{slice_}" if slice_ else ""
        tokens = [_stacked(p, f"tokens_by_position{suffix}") for p in periods]
        filled = max((int(np.flatnonzero(c.sum(0))[-1]) + 1 for c in tokens if c.any()), default=0)
        for key, _, _ in POSITION_CHARTS:
            lines = []
            for period, count in zip(periods, tokens, strict=True):
                values = (
                    count
                    if key == "tokens_by_position"
                    else _stacked(period, f"{key}{suffix}") * count
                )
                divisor = (
                    len(period)
                    if key == "tokens_by_position"
                    else np.where(count.sum(0) > 0, count.sum(0), np.nan)
                )
                lines.append([short(v) for v in (values.sum(0) / divisor)[:filled]])
            if any(v for line in lines for v in line):
                out["values"][f"{key}{suffix}"] = lines
    return out


def _stacked(metrics: list[dict[str, Any]], name: str) -> np.ndarray:
    """Lists of a metric as [steps, bins], zeros after their end and where there is none."""
    out = np.zeros((len(metrics), POSITION_BINS))
    for row, m in zip(out, metrics, strict=True):
        values = m.get(name)
        values = [number(v) for v in values[:POSITION_BINS]] if isinstance(values, list) else []
        row[: len(values)] = np.nan_to_num(values, posinf=0, neginf=0)
    return out


def phases(run: Run) -> dict[str, float]:
    """Median seconds of each phase of a step, in the order of the step."""
    names = [k for m in run.metrics[-1:] for k in m if k.startswith("seconds_")]
    medians = {
        n[len("seconds_") :]: np.nanmedian([number(m.get(n)) for m in run.metrics]) for n in names
    }
    return {n: v for n, s in medians.items() if (v := short(float(s))) is not None}


def scores(run: Run) -> dict[str, Any]:
    """For each domain the student's scores by step and the teacher's, each [step, mean, half width, prompts]."""
    out: dict[str, Any] = {}
    for e in run.evaluations:
        mean, half = interval(e["by_prompt"])
        point = [e["step"], short(mean), short(half), len(e["by_prompt"])]
        out.setdefault(e["domain"], {"student": [], "teacher": []}).setdefault(
            e["model"], []
        ).append(point)
    return out


def results(run: Run, first: Run) -> list[dict[str, Any]]:
    """For each domain the student before, its teacher, the latest student, and how they differ on prompts that both answered.

    versus: the student against that of the run `first`, paired, where both answered the same prompts.
    """
    out = []
    for domain in dict.fromkeys(e["domain"] for e in run.evaluations):
        student = [e for e in run.evaluations if e["domain"] == domain and e["model"] == "student"]
        teacher = next(
            (e for e in run.evaluations if e["domain"] == domain and e["model"] == "teacher"), None
        )
        if not student:
            continue
        last, scale = student[-1], run.reward_scale(domain)
        row = {
            "domain": domain,
            "step": last["step"],
            "prompts": len(last["by_prompt"]),
            "samples": last.get("samples"),
            "reward_scale": scale,
            "before": _score(student[0]),
            "after": _score(last),
            "teacher": teacher and _score(teacher),
        }
        if teacher:
            difference, half = _paired(last, teacher)
            verdict = "yes" if difference > half else "no" if difference < -half else "unclear"
            row |= {"difference": [short(difference), short(half)], "verdict": verdict}
        others = [e for e in first.evaluations if (e["model"], e["domain"]) == ("student", domain)]
        data = [r.fingerprints.get("data", {}).get(f"{domain}/test") for r in (run, first)]
        if run is not first and others and data[0] == data[1] is not None:
            row["versus"] = [short(v) for v in _paired(last, others[-1])]
        out.append(row)
    return out


def _paired(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """Mean and half width of a - b over the prompts of both: an evaluation takes the first so many of one list."""
    n = min(len(a["by_prompt"]), len(b["by_prompt"]))
    return interval(np.subtract(a["by_prompt"][:n], b["by_prompt"][:n]))


def _score(e: dict[str, Any]) -> dict[str, Any]:
    mean, half = interval(e["by_prompt"])
    drawn = len(e["by_prompt"]) * number(e.get("samples"))
    length = short(number(e.get("tokens")) / drawn) if drawn else None
    return {
        "mean": short(mean),
        "half": short(half),
        "length": length,
        "truncated": short(number(e.get("truncated"))),
    }


def samples(run: Run, tokens: int) -> list[dict[str, Any]]:
    """Some samples spread over the steps that have any, of at most `tokens` tokens together."""
    wanted = min(SAMPLES_OF_A_RUN, len(run.samples))
    chosen = sorted({round(i) for i in np.linspace(0, len(run.samples) - 1, wanted)})
    out: list[dict[str, Any]] = []
    for place, index in enumerate(chosen):
        sample = _sample(
            run.samples[index], min(TOKENS_OF_A_SAMPLE, tokens // (len(chosen) - place))
        )
        tokens -= len(sample["tokens"])
        out.append(sample)
    return out


def _sample(record: dict[str, Any], most: int) -> dict[str, Any]:
    texts = [str(t) for t in record["tokens"]] if isinstance(record["tokens"], list) else []
    left_out = max(0, len(texts) - most)
    kept = (
        list(range(len(texts)))
        if not left_out
        else [*range(most // 2), *range(len(texts) - most // 2, len(texts))]
    )
    numbers = {"advantage": record.get("advantages")} | {
        name: record.get(f"{name}_logprobs") for name in LOGPROBS
    }
    columns = {k: v for k, v in numbers.items() if isinstance(v, list) and len(v) == len(texts)}
    shown = {k: record.get(k) for k in ("step", "domain", "sample_id", "reward", "finish_reason")}
    long = {
        k: _cut(str(record.get(k, ""))) for k in ("prompt_id", "prompt", "ground_truth", "verdict")
    }
    return (
        shown
        | long
        | {
            "reward": short(number(record.get("reward"))),
            "tokens": [texts[i] for i in kept],
            "left_out": [most // 2, len(texts) - len(kept)]
            if left_out
            else None,  # after which token, how many
            **{k: [_thousandths(v[i]) for i in kept] for k, v in columns.items()},
        }
    )


def _thousandths(value: Any) -> float | None:
    return round(number(value), 3) if math.isfinite(number(value)) else None


def _cut(text: str) -> str:
    return (
        text
        if len(text) <= CHARACTERS
        else f"{text[:CHARACTERS]} ... ({len(text) - CHARACTERS:,} more characters)"
    )
