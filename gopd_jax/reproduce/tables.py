"""Scores over seeds -> results -> text; `shown` says which rows and claims.

The interval is Student's t over seeds: each seed trains and scores anew. Differences are taken
within a seed, where both models answered the same prompts with the same keys. Where all seeds score
0, all score 1 or all tie, seeds have no spread, and the interval is that over prompts.
"""

from collections.abc import Mapping, Sequence
import math
from typing import TypedDict

import numpy as np

from gopd_jax.evaluate.statistics import Estimate, difference, interval, t_interval
from gopd_jax.reproduce.arms import Arm
from gopd_jax.reproduce.folder import ArmScores, DomainScores
from gopd_jax.reproduce.shown import CLAIMS, NOTES, TABLES
from gopd_jax.runtime.files import JsonObject


class OverSeeds(TypedDict):
    """A value over seeds: its mean, its 95% interval, the value of each seed.

    The interval is infinite for a single seed.
    """

    mean: float
    low: float
    high: float
    by_seed: list[float]


def over_seeds(values: Sequence[float], over_prompts: Estimate | None = None) -> OverSeeds:
    """Mean over seeds, its 95% interval, and the values.

    Args:
        values: of each seed.
        over_prompts: gives the interval where all seeds score 0, all score 1, or all tie.
    """
    mean, half = t_interval(values)
    low, high = mean - half, mean + half
    if over_prompts is not None and half < 1e-9 and round(mean, 9) in (-1, 0, 1):
        low, high = over_prompts.low, over_prompts.high
    return {"mean": mean, "low": low, "high": high, "by_seed": [round(float(v), 6) for v in values]}


def summarise(
    scores: Mapping[tuple[str, int], ArmScores],
    arms: Sequence[Arm],
    groups: Sequence[str],
    seeds: int,
) -> JsonObject:
    """Everything that the tables and pictures show, as plain numbers.

    Args:
        scores: by arm name and seed.
        arms: the arms that were run.
        groups: the tables that are shown.
        seeds: number of seeds.

    Returns:
        "seeds", "groups"; "arms": for each arm and domain the score (a share, not percent), length
        and truncation over seeds; "claims": the difference that each claim is about, its verdict.
    """
    by_arm: JsonObject = {}
    for arm in arms:
        by_arm[arm.name] = {}
        for domain in arm.domains:
            each = [scores[arm.name, s]["domains"][domain] for s in range(seeds)]
            by_seed = [np.mean(e["by_prompt"]) for e in each]
            row = {"score": over_seeds(by_seed, interval(_over_prompts(each)))}
            row |= {name: over_seeds([e[name] for e in each]) for name in ("length", "truncated")}
            by_arm[arm.name][domain] = row
    claims = []
    for text, above, below, domain in CLAIMS:
        if domain in by_arm.get(above, ()) and domain in by_arm.get(below, ()):
            pair = [by_arm[name][domain]["score"]["by_seed"] for name in (above, below)]
            sides = [
                _over_prompts([scores[name, s]["domains"][domain] for s in range(seeds)])
                for name in (above, below)
            ]
            paired = difference([(sides[0], sides[1])])
            gain = over_seeds(np.subtract(*pair), paired)
            claim = {"claim": text, "domain": domain, "above": above, "below": below}
            claims.append(claim | gain | {"verdict": verdict(gain)})
    return {"seeds": seeds, "groups": list(groups), "arms": by_arm, "claims": claims}


def _over_prompts(scores: Sequence[DomainScores]) -> np.ndarray:
    """Scores of prompts, each averaged over the seeds: all seeds score the same prompts."""
    return np.mean([s["by_prompt"] for s in scores], axis=0)


def verdict(gain: OverSeeds) -> str:
    """ "held" if the interval is above 0, "not held" if it is below, otherwise "unclear"."""
    return "held" if gain["low"] > 0 else "not held" if gain["high"] < 0 else "unclear"


# ---- Text.

HEADER = [
    *("", "math", "code", "length (math)"),
    *("steps", "length", "% cut at limit"),
    *("paper, math", "paper, code"),
]


def markdown(results: JsonObject, drawn: Sequence[str]) -> str:
    """results.md: command, machine, tables, claims, and the pictures that were drawn."""
    lines = ["# The paper's experiments in the embedded world", "", *_introduction(results)]
    for table, (title, _) in TABLES.items():
        if table in results["groups"]:
            lines += ["", f"## {title}", "", *_table(results, table)]
            lines += ["", NOTES[table]] if table in NOTES else []
            lines += ["", f"![{title}]({table}.png)"] if f"{table}.png" in drawn else []
    lines += [
        "",
        "## Claims",
        "",
        "Differences within a seed, in points; held: the whole interval is above 0.",
        "",
        "| claim | domain | difference | |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {c['claim']} | {c['domain']} | {_signed(c)} | {c['verdict']} |"
        for c in results["claims"]
    ]
    return "\n".join(lines) + "\n"


def text(results: JsonObject) -> str:
    """Tables and claims for a terminal."""
    lines = []
    for table, (title, _) in TABLES.items():
        if table in results["groups"]:
            rows = _rows(results, table)
            lines += ["", title]
            columns = (4, 5, 6) if table == "steps" else (1, 2)
            for row in [HEADER, *rows]:
                shown = [i for i in columns if i in _used(rows)]
                cells = "".join(f"{row[i]:>{max(14, len(HEADER[i]) + 2)}}" for i in shown)
                lines.append(f"  {row[0].replace('**', ''):52}{cells}")
    lines += ["", "claims (difference within a seed, points)"]
    lines += [
        f"  {c['claim']:49}{c['domain']:6}{_signed(c):>16}  {c['verdict']}"
        for c in results["claims"]
    ]
    return "\n".join(lines)


def _introduction(results: JsonObject) -> list[str]:
    made = results["about"]
    size, seeds, commit = made["size"], results["seeds"], (made["git_commit"] or "unknown")[:7]
    return [
        f"`python -m gopd_jax.reproduce --seeds={seeds}` at commit {commit}, "
        f"JAX {made['packages']['jax']}, {made['cores']} CPU cores ({made['machine']}), "
        f"{made['seconds_of_all_arms'] / 60:.0f} core-minutes of arms.",
        f"Each arm: {size['steps']} steps of {size['samples_per_step']} samples a domain; scored "
        f"on held-out prompts, {size['math'][0]:,} x {size['math'][1]} samples of math "
        "and of steps, "
        f"{size['code'][0]:,} x {size['code'][1]} of code.",
        f"% right, mean ± 95% interval over {seeds} seeds (Student's t). The paper's columns are "
        "its benchmark",
        "averages, models of billions of parameters, one seed: compare signs and order, not sizes.",
    ]


def _table(results: JsonObject, table: str) -> list[str]:
    """A table in Markdown."""
    rows = _rows(results, table)
    used = _used(rows)
    shown = [[row[i] for i in used] for row in [HEADER, *rows]]
    head, *body = ("| " + " | ".join(row) + " |" for row in shown)
    return [head, "|" + "---|" * len(used), *body]


def _used(rows: list[list[str]]) -> list[int]:
    """The columns that compare something: not one value alone, such as the start's other domain."""
    return [i for i in range(len(HEADER)) if sum(bool(row[i]) for row in rows) > 1]


def _rows(results: JsonObject, table: str) -> list[list[str]]:
    """The rows of a table as text, columns as in `HEADER`."""
    rows = []
    for row in TABLES[table][1]:
        if row.arm in results["arms"]:
            scored = results["arms"][row.arm]
            math, code, steps = (scored.get(name) for name in ("math", "code", "steps"))
            shown = [_shown(domain and domain["score"]) for domain in (math, code)]
            shown.append(_shown(math and math["length"], 1, 2))
            shown.append(_shown(steps and steps["score"]))
            shown.append(_shown(steps and steps["length"], 1, 2))
            shown.append(_shown(steps and steps["truncated"]))
            paper = ["" if v is None else f"{v:.1f}" for v in (row.paper_math, row.paper_code)]
            rows.append([row.label, *shown, *paper])
    return rows


def _shown(value: OverSeeds | None, scale: float = 100, digits: int = 1) -> str:
    if value is None:
        return ""
    return f"{scale * value['mean']:.{digits}f}{_uncertainty(value, scale, f'.{digits}f')}"


def _signed(claim: OverSeeds) -> str:
    return f"{100 * claim['mean']:+.2f}{_uncertainty(claim, 100, '.2f', '+.2f')}"


def _uncertainty(value: OverSeeds, scale: float, width: str, end: str = "") -> str:
    """± half the width, both ends of an interval over prompts, or nothing for a single seed."""
    low, mean, high = (scale * value[key] for key in ("low", "mean", "high"))
    if not math.isfinite(high):
        return ""
    if math.isclose(high - mean, mean - low, rel_tol=1e-6):
        return f" ± {high - mean:{width}}"
    return f" [{low:{end or width}}, {high:{end or width}}]"
