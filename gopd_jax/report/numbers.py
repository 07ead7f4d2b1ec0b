"""The values that the charts and the result table show, reduced to what one page can carry.

In: a `Run`. Out: plain JSON values: curves by step, curves by position, phases of a step, scores,
results.
"""

from collections.abc import Callable
import math

import numpy as np

from gopd_jax.evaluate.statistics import Estimate, difference, interval, t_interval
from gopd_jax.objective.diagnostics import POSITION_BINS
from gopd_jax.report.charts import CHARTS, HELD_OUT_CHARTS, POSITION_CHARTS, Chart
from gopd_jax.report.read import Run, are_numbers, number
from gopd_jax.runtime.files import JsonObject

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
            steps, for extremes the extreme; its interval is that of the mean of independent values.

    Returns:
        "steps": first and last step of each point. "values": the points of each metric by name,
        None where there is no finite value.
    """
    parts = np.array_split(np.arange(len(run.metrics)), min(points, len(run.metrics)) or 1)
    parts = [part for part in parts if len(part)]
    steps = [[run.metrics[part[0]]["step"], run.metrics[part[-1]]["step"]] for part in parts]
    lists = {}
    for chart in CHARTS:
        for domain in _slices_of(chart, run):
            suffix = f"/{domain}" if domain else ""
            known = {
                f"{key}{suffix}": reduced
                for key, reduced in _points(chart, run, suffix, parts).items()
                if np.isfinite(reduced).any()
            }
            lists |= {name: [short(v) for v in reduced] for name, reduced in known.items()}
    return {"steps": steps, "values": lists}


def _slices_of(chart: Chart, run: Run) -> list[str]:
    return slices(run) if chart.by_slice else [""]


def _points(chart: Chart, run: Run, suffix: str, parts: list[np.ndarray]) -> dict[str, list[float]]:
    """The points of a chart's metrics, NaN where there is no finite value."""
    values = {key: _finite(run, key + suffix) for key in chart.keys}
    if not chart.key:
        return {
            chart.low: [_of_known(np.min, values[chart.low][part]) for part in parts],
            chart.high: [_of_known(np.max, values[chart.high][part]) for part in parts],
        }
    middle = values[chart.key]
    points = {chart.key: [_of_known(np.mean, middle[part]) for part in parts]}
    for key, sign in ((chart.low, -1), (chart.high, 1)):
        if key:
            widths = np.abs(values[key] - middle)
            distances = [_of_known(_width_of_mean, widths[part]) for part in parts]
            points[key] = list(np.array(points[chart.key]) + sign * np.array(distances))
    return points


def _finite(run: Run, name: str) -> np.ndarray:
    """A metric by step, NaN for anything but a finite number."""
    values = np.array([number(m.get(name)) for m in run.metrics])
    values[~np.isfinite(values)] = np.nan
    return values


def _width_of_mean(widths: np.ndarray) -> float:
    """How far the interval of the mean of independent values reaches to one side."""
    return float(np.sqrt(np.sum(widths**2)) / len(widths))


def _of_known(reduce: Callable[[np.ndarray], float], values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(reduce(known)) if len(known) else math.nan


def empty_charts(runs: list[Run]) -> list[str]:
    """Titles of the charts that no run has a value for, except 0."""
    return [chart.title for chart in CHARTS if not any(_has_values(chart, run) for run in runs)]


def _has_values(chart: Chart, run: Run) -> bool:
    """Whether a metric of the chart differs from 0 at any step, in any domain."""
    suffixes = [f"/{domain}" if domain else "" for domain in _slices_of(chart, run)]
    names = [key + suffix for key in chart.keys for suffix in suffixes]
    return any(np.nan_to_num(_finite(run, name)).any() for name in names)


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
    """Median seconds of each phase of a step, in the order of the step, without rare ones."""
    prefix = "seconds_"
    names = [key for m in run.metrics[-1:] for key in m if key.startswith(prefix)]
    medians = {}
    for name in names:
        median = short(float(np.nanmedian([number(m.get(name)) for m in run.metrics])))
        if median:
            medians[name.removeprefix(prefix).replace("_", " ")] = median
    return medians


def scores(run: Run) -> JsonObject:
    """Scores of student and teacher in each domain: lists of [step, mean, low, high, prompts]."""
    by_domain: JsonObject = {}
    for e in run.scored:
        score = interval(e["by_prompt"])
        models = by_domain.setdefault(e["domain"], {"student": [], "teacher": []})
        models.setdefault(e["model"], []).append([e["step"], *_ends(score), score.n])
    return by_domain


def held_out(run: Run) -> JsonObject:
    """What else was measured on held-out prompts.

    Returns:
        {domain: {key: [[step, value, low, high], ...]}}; the ends are None where there is no
        interval.
    """
    by_domain: JsonObject = {}
    for e in run.evaluations:
        if e["model"] != "student":
            continue
        for chart in HELD_OUT_CHARTS:
            value = _length(e) if chart.key == "mean_tokens" else number(e.get(chart.key))
            ends = [short(number(e.get(f"{chart.key}_{end}"))) for end in ("low", "high")]
            if math.isfinite(value):
                lists = by_domain.setdefault(e["domain"], {})
                lists.setdefault(chart.key, []).append([e["step"], short(value), *ends])
    return by_domain


def results(run: Run, first: Run) -> list[JsonObject]:
    """The result in each domain: student before and after, its teacher, and their difference.

    "versus" is the difference from the student of the run `first`, paired by prompt, if both
    answered the same prompts.
    """
    rows = []
    for domain in dict.fromkeys(e["domain"] for e in run.scored):
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
            gain = _paired(last, teacher)
            verdict = {1: "yes", 0: "unclear", -1: "no"}[gain.sign]
            row |= {"difference": _ends(gain), "verdict": verdict}
        others = _evaluations(first, "student", domain)
        data = [r.fingerprints.get("data", {}).get(f"{domain}/test") for r in (run, first)]
        if run is not first and others and data[0] == data[1] is not None:
            row["versus"] = _ends(_paired(last, others[-1]))
        rows.append(row)
    return rows


def unscored(run: Run) -> list[JsonObject]:
    """Domains in which the student was evaluated, but not its score.

    "change" is that of the KL to the teacher with its interval, paired by prompt; None without one.
    """
    rows = []
    of_student = [e for e in run.evaluations if e["model"] == "student"]
    for domain in dict.fromkeys(e["domain"] for e in of_student):
        if _evaluations(run, "student", domain):
            continue
        measured = [e for e in of_student if e["domain"] == domain]
        sizes = {key: measured[-1].get(key) for key in ("step", "prompts", "samples")}
        change = _change_of_kl(measured[0], measured[-1])
        rows.append({"domain": domain, **sizes, "change": change})
    return rows


def _change_of_kl(before: JsonObject, after: JsonObject) -> list[float | None] | None:
    """Mean and interval of the change over the prompts of both, as in the summary of the run."""
    kl = [e.get("kl_by_prompt") for e in (before, after)]
    if before["step"] == after["step"] or not all(map(are_numbers, kl)):
        return None
    mean, half = t_interval([b - a for a, b in zip(*kl, strict=False)])
    return [short(mean), short(mean - half), short(mean + half)]


def _evaluations(run: Run, model: str, domain: str) -> list[JsonObject]:
    return [e for e in run.scored if (e["model"], e["domain"]) == (model, domain)]


def _paired(a: JsonObject, b: JsonObject) -> Estimate:
    """a - b over the prompts of both.

    Every evaluation of a domain takes its prompts from the beginning of one list.
    """
    n = min(len(a["by_prompt"]), len(b["by_prompt"]))
    return difference([(a["by_prompt"][:n], b["by_prompt"][:n])])


def _ends(estimate: Estimate) -> list[float | None]:
    return [short(v) for v in (estimate.mean, estimate.low, estimate.high)]


def _score(evaluation: JsonObject) -> JsonObject:
    return {
        "interval": _ends(interval(evaluation["by_prompt"])),
        "length": short(_length(evaluation)),
        "truncated": short(number(evaluation.get("truncated"))),
    }


def _length(evaluation: JsonObject) -> float:
    """Mean response length; NaN where it was not measured."""
    given = number(evaluation.get("mean_tokens"))
    if math.isfinite(given):
        return given
    by_prompt = evaluation.get("by_prompt")
    prompts = len(by_prompt) if isinstance(by_prompt, list) else 0
    samples = prompts * number(evaluation.get("samples"))
    return number(evaluation.get("tokens")) / samples if samples else math.nan
