"""The values that the charts and the result table show, reduced to what one page can carry.

In: a `Run`. Out: plain JSON values: curves by step, curves by position, phases of a step, scores,
results.
"""

from collections.abc import Callable
import math

import numpy as np

from gopd_jax.evaluate.statistics import interval
from gopd_jax.objective.diagnostics import POSITION_BINS
from gopd_jax.report.charts import CHARTS, POSITION_CHARTS, Chart
from gopd_jax.report.read import Run, number
from gopd_jax.runtime.files import JsonObject

Reduction = Callable[[np.ndarray], float]

CURVE_NUMBERS = 280_000  # of all curves: about 2.5 MB at 9 bytes a number
MAX_POINTS, MIN_POINTS = 400, 20  # of one curve; a screen does not show more


def short(value: float) -> float | None:
    """The value with five digits, to keep the page small; None if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def slices(run: Run) -> list[str]:
    """ "" for all domains together and, if there are several, the name of each."""
    return ["", *run.domains] if len(run.domains) > 1 else [""]


# ---- Curves by step.


def points_for(runs: list[Run]) -> int:
    """Number of points that each curve of these runs may have."""
    curve_count = sum(
        len(chart.keys) * len(_slices_of(chart, run)) for run in runs for chart in CHARTS
    )
    return int(np.clip(CURVE_NUMBERS // max(1, curve_count), MIN_POINTS, MAX_POINTS))


def curves(run: Run, points: int) -> JsonObject:
    """The curves of all charts.

    Args:
        points: a longer run is averaged to at most this many points. A point is the mean of its
            steps; for extremes the extreme; for half widths that of the mean of independent values.

    Returns:
        "steps": first and last step of each point. "values": the points of each metric by name,
        None where there is no finite value.
    """
    parts = np.array_split(np.arange(len(run.metrics)), min(points, len(run.metrics)) or 1)
    parts = [part for part in parts if len(part)]
    steps = [[run.metrics[part[0]]["step"], run.metrics[part[-1]]["step"]] for part in parts]
    lists = {}
    for chart in CHARTS:
        for name, key in _metric_names(chart, run):
            values = np.array([number(m.get(name)) for m in run.metrics])
            values[~np.isfinite(values)] = np.nan
            if np.isfinite(values).any():
                reduce = _reduction(chart, key)
                lists[name] = [short(_reduced(values[part], reduce)) for part in parts]
    return {"steps": steps, "values": lists}


def _slices_of(chart: Chart, run: Run) -> list[str]:
    return slices(run) if chart.by_slice else [""]


def _metric_names(chart: Chart, run: Run) -> list[tuple[str, str]]:
    """Pairs of a metric's name in metrics.jsonl and the chart's key that it belongs to."""
    return [
        (f"{key}/{domain}" if domain else key, key)
        for domain in _slices_of(chart, run)
        for key in chart.keys
    ]


def _reduction(chart: Chart, key: str) -> Reduction:
    if key == chart.half:
        return lambda values: np.sqrt(np.sum(values**2)) / len(values)
    return {chart.low: np.min, chart.high: np.max}.get(key, np.mean)


def _reduced(values: np.ndarray, reduce: Reduction) -> float:
    known = values[~np.isnan(values)]
    return float(reduce(known)) if len(known) else math.nan


# ---- Curves by position in the response.


def by_position(run: Run) -> JsonObject:
    """Curves over bins of positions, for the first, middle and last third of the steps.

    Returns:
        "periods": first and last step of each third. "values": for each metric a curve for each
        third, the mean over tokens.
    """
    third = -(-len(run.metrics) // 3)
    starts = range(0, len(run.metrics), third) if third else []
    periods = [run.metrics[i : i + third] for i in starts]
    curves_by_name: JsonObject = {}
    for domain in slices(run):
        suffix = f"/{domain}" if domain else ""
        tokens = [_stacked(p, f"tokens_by_position{suffix}") for p in periods]
        filled = max((int(np.flatnonzero(t.sum(0))[-1]) + 1 for t in tokens if t.any()), default=0)
        for chart in POSITION_CHARTS:
            name = f"{chart.key}{suffix}"
            lines = []
            for period, count in zip(periods, tokens, strict=True):
                if chart.key == "tokens_by_position":
                    means = count.sum(0) / len(period)
                else:
                    means = _token_mean(_stacked(period, name), count)
                lines.append([short(v) for v in means[:filled]])
            if any(v for line in lines for v in line):
                curves_by_name[name] = lines
    steps = [[p[0]["step"], p[-1]["step"]] for p in periods]
    return {"periods": steps, "values": curves_by_name}


def _token_mean(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean over steps, [bins], each weighted by its number of tokens; NaN without any."""
    total = count.sum(0)
    return (values * count).sum(0) / np.where(total > 0, total, np.nan)


def _stacked(metrics: list[JsonObject], name: str) -> np.ndarray:
    """A metric by position as [steps, bins], 0 where a value is missing or not finite."""
    stacked = np.zeros((len(metrics), POSITION_BINS))
    for row, m in zip(stacked, metrics, strict=True):
        values = m.get(name)
        values = [number(v) for v in values[:POSITION_BINS]] if isinstance(values, list) else []
        row[: len(values)] = np.nan_to_num(values, posinf=0, neginf=0)
    return stacked


# ---- Phases, scores, results.


def phases(run: Run) -> dict[str, float]:
    """Median seconds of each phase of a step, in the order of the step."""
    prefix = "seconds_"
    names = [key for m in run.metrics[-1:] for key in m if key.startswith(prefix)]
    medians = {}
    for name in names:
        median = short(float(np.nanmedian([number(m.get(name)) for m in run.metrics])))
        if median is not None:
            medians[name.removeprefix(prefix).replace("_", " ")] = median
    return medians


def scores(run: Run) -> JsonObject:
    """Scores of student and teacher in each domain: lists of [step, mean, half width, prompts]."""
    by_domain: JsonObject = {}
    for e in run.evaluations:
        mean, half = interval(e["by_prompt"])
        models = by_domain.setdefault(e["domain"], {"student": [], "teacher": []})
        point = [e["step"], short(mean), short(half), len(e["by_prompt"])]
        models.setdefault(e["model"], []).append(point)
    return by_domain


def results(run: Run, first: Run) -> list[JsonObject]:
    """The result in each domain: student before and after, its teacher, and their difference.

    "versus" is the difference from the student of the run `first`, paired by prompt, if both
    answered the same prompts.
    """
    rows = []
    for domain in dict.fromkeys(e["domain"] for e in run.evaluations):
        student = _evaluations(run, "student", domain)
        teacher = next(iter(_evaluations(run, "teacher", domain)), None)
        if not student:
            continue
        last = student[-1]
        row = {
            "domain": domain,
            "step": last["step"],
            "prompts": len(last["by_prompt"]),
            "samples": last.get("samples"),
            "reward_scale": run.reward_scale(domain),
            "before": _score(student[0]),
            "after": _score(last),
            "teacher": teacher and _score(teacher),
        }
        if teacher:
            difference, half = _paired(last, teacher)
            verdict = "yes" if difference > half else "no" if difference < -half else "unclear"
            row |= {"difference": [short(difference), short(half)], "verdict": verdict}
        others = _evaluations(first, "student", domain)
        data = [r.fingerprints.get("data", {}).get(f"{domain}/test") for r in (run, first)]
        if run is not first and others and data[0] == data[1] is not None:
            row["versus"] = [short(v) for v in _paired(last, others[-1])]
        rows.append(row)
    return rows


def _evaluations(run: Run, model: str, domain: str) -> list[JsonObject]:
    return [e for e in run.evaluations if (e["model"], e["domain"]) == (model, domain)]


def _paired(a: JsonObject, b: JsonObject) -> tuple[float, float]:
    """Mean and half width of a - b over the prompts of both.

    Every evaluation of a domain takes its prompts from the beginning of one list.
    """
    n = min(len(a["by_prompt"]), len(b["by_prompt"]))
    return interval(np.subtract(a["by_prompt"][:n], b["by_prompt"][:n]))


def _score(evaluation: JsonObject) -> JsonObject:
    mean, half = interval(evaluation["by_prompt"])
    samples = len(evaluation["by_prompt"]) * number(evaluation.get("samples"))
    length = short(number(evaluation.get("tokens")) / samples) if samples else None
    truncated = short(number(evaluation.get("truncated")))
    return {"mean": short(mean), "half": short(half), "length": length, "truncated": truncated}
