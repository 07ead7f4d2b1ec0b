"""What the tables show and which claims are tested; scores over seeds -> results -> text.

The interval is Student's t over seeds: each seed trains and scores anew. Differences are taken
within a seed, where both models answered the same prompts with the same keys. Where all seeds score
0, all score 1 or all tie, seeds have no spread, and the interval is that over prompts.
"""

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple, TypedDict

import numpy as np

from gopd_jax.evaluate.statistics import Estimate, difference, interval, t_interval
from gopd_jax.reproduce.arms import CONVERGED, EARLY, LAMBDAS, LONGER, PREVIEWED, Arm
from gopd_jax.reproduce.folder import ArmScores, DomainScores
from gopd_jax.runtime.files import JsonObject


class Row(NamedTuple):
    """A row of a table: an arm, and the averages of the paper's math and code benchmarks."""

    label: str
    arm: str
    paper_math: float | None = None
    paper_code: float | None = None


class OverSeeds(TypedDict):
    """A value over seeds: its mean, its 95% interval, the value of each seed.

    The interval is infinite for a single seed.
    """

    mean: float
    low: float
    high: float
    by_seed: list[float]


class Claim(NamedTuple):
    """The first arm scores above the second, on a domain."""

    text: str
    above: str
    below: str
    domain: str


# Figure 2: lambda -> arm, and the paper's numbers.
LAMBDA_ARMS = {x: f"lambda_{x:g}" for x in LAMBDAS} | {1.0: "opd_math", 1.25: "exopd_math"}
PAPER_LAMBDAS = {1.0: 46.5, 1.25: 48.0}

# Table -> title and rows.
TABLES: dict[str, tuple[str, list[Row]]] = {
    "table2": (
        "Table 2: single teachers and both",
        [
            Row("student's start", "base", 15.4, 52.4),
            Row("math teacher", "math_teacher", 46.0),
            Row("code teacher", "code_teacher", None, 61.2),
            Row("single, math: SFT", "sft_math"),
            Row("single, math: ExPO 0.25", "expo_math_0.25"),
            Row("single, math: ExPO 0.5", "expo_math_0.5", 45.8),
            Row("single, math: OPD", "opd_math", 46.5),
            Row("single, math: **ExOPD**", "exopd_math", 48.0),
            Row("single, code: SFT", "sft_code"),
            Row("single, code: ExPO 0.25", "expo_code_0.25"),
            Row("single, code: ExPO 0.5", "expo_code_0.5", None, 61.0),
            Row("single, code: OPD", "opd_code", None, 60.8),
            Row("single, code: **ExOPD**", "exopd_code", None, 62.1),
            Row("both: SFT", "sft_multi", 44.3, 60.8),
            Row("both: ExPO 0.25", "expo_multi_0.25"),
            Row("both: ExPO 0.5", "expo_multi_0.5", 45.0, 62.6),
            Row("both: OPD", "opd_multi", 46.4, 60.6),
            Row("both: **ExOPD**", "exopd_multi", 47.7, 62.0),
        ],
    ),
    "figure2": (
        "Figure 2: lambda, single teacher, math",
        [Row(f"lambda {x:g}", arm, PAPER_LAMBDAS.get(x)) for x, arm in LAMBDA_ARMS.items()],
    ),
    "table3": (
        "Table 3 and Figure 6: from strong to weak, and reward correction",
        [
            Row("student's start", "base"),
            Row("the teacher's start", "large_base"),
            Row("teacher", "large_teacher"),
            Row("SFT", "sft_large", 22.7, 47.0),
            Row("OPD", "opd_large", 27.5, 50.5),
            Row("**ExOPD**, reference: student's start", "exopd_large", 28.1, 51.3),
            Row("**ExOPD**, reference: teacher's start (corrected)", "corrected_large", 28.7, 52.3),
        ],
    ),
    "table1": (
        "Table 1: more RL instead, with as many samples as the student had",
        [
            Row("math teacher", "math_teacher"),
            Row("math teacher, GRPO on", "more_rl_math"),
            Row("ExOPD from the math teacher", "exopd_math"),
            Row("code teacher", "code_teacher"),
            Row("code teacher, GRPO on", "more_rl_code"),
            Row("ExOPD from the code teacher", "exopd_code"),
        ],
    ),
    "strength": (
        "Teachers of other strength (math)",
        [
            Row(f"teacher after {EARLY} GRPO steps", "early_teacher"),
            Row("OPD from it", "opd_early"),
            Row("ExOPD from it", "exopd_early"),
            Row("teacher after 20 GRPO steps", "math_teacher"),
            Row("OPD from it", "opd_math"),
            Row("ExOPD from it", "exopd_math"),
            Row("the same, GRPO on", "more_rl_math"),
            Row("OPD from it", "opd_late"),
            Row("ExOPD from it", "exopd_late"),
        ],
    ),
    "preview": (
        "Students that were trained for long, and the optimum of their objective",
        [
            Row("student's start", "base"),
            Row("math teacher", "math_teacher"),
            *(
                Row(f"lambda {x:g}: {what}", f"{arm}_{x:g}")
                for x in PREVIEWED
                for what, arm in (("optimum, sampled", "optimum"), ("student", "converged"))
            ),
        ],
    ),
}

NOTES = {
    "table3": f"{LONGER} times the steps of the other tables. The paper's columns are its Figure "
    "6, Qwen3-4B after GRPO to Qwen3-1.7B. Its Table 3, Qwen3-30B-A3B to Qwen3-1.7B and to 4B, "
    "math: SFT 13.5 and 35.1, OPD 23.1 and 42.6, ExOPD 25.4 and 45.3.",
    "preview": f"The students have {CONVERGED} times the steps of the other tables, and the exact "
    "loss (`objective.estimator=full`). The optimum is drawn from teacher^lambda "
    "reference^(1 - lambda); where its claim below is unclear, student and optimum agree.",
}

# The paper's claims first, then other comparisons of interest.
CLAIMS = [
    Claim("ExOPD > OPD, single teacher", "exopd_math", "opd_math", "math"),
    Claim("ExOPD > OPD, single teacher", "exopd_code", "opd_code", "code"),
    Claim("ExOPD > OPD, both teachers", "exopd_multi", "opd_multi", "math"),
    Claim("ExOPD > OPD, both teachers", "exopd_multi", "opd_multi", "code"),
    Claim("ExOPD > OPD, strong to weak", "exopd_large", "opd_large", "math"),
    Claim("student > teacher: ExOPD, single", "exopd_math", "math_teacher", "math"),
    Claim("student > teacher: ExOPD, single", "exopd_code", "code_teacher", "code"),
    Claim("student > teacher: OPD, single", "opd_math", "math_teacher", "math"),
    Claim("student > teacher: OPD, single", "opd_code", "code_teacher", "code"),
    Claim("one student above both teachers: ExOPD", "exopd_multi", "math_teacher", "math"),
    Claim("one student above both teachers: ExOPD", "exopd_multi", "code_teacher", "code"),
    Claim("one student above both teachers: OPD", "opd_multi", "math_teacher", "math"),
    Claim("one student above both teachers: OPD", "opd_multi", "code_teacher", "code"),
    Claim("reward correction > ExOPD, strong to weak", "corrected_large", "exopd_large", "math"),
    Claim("reward correction > OPD, strong to weak", "corrected_large", "opd_large", "math"),
    Claim("ExOPD > ExPO 0.5, single", "exopd_math", "expo_math_0.5", "math"),
    Claim("ExOPD > ExPO 0.5, single", "exopd_code", "expo_code_0.5", "code"),
    Claim("ExOPD > ExPO 0.5, both", "exopd_multi", "expo_multi_0.5", "math"),
    Claim("ExOPD > ExPO 0.5, both", "exopd_multi", "expo_multi_0.5", "code"),
    Claim("OPD > SFT, single", "opd_math", "sft_math", "math"),
    Claim("OPD > SFT, single", "opd_code", "sft_code", "code"),
    Claim("OPD > SFT, both", "opd_multi", "sft_multi", "math"),
    Claim("OPD > SFT, both", "opd_multi", "sft_multi", "code"),
    Claim("OPD > SFT, strong to weak", "opd_large", "sft_large", "math"),
    Claim("ExOPD > more RL", "exopd_math", "more_rl_math", "math"),
    Claim("ExOPD > more RL", "exopd_code", "more_rl_code", "code"),
    Claim("ExOPD > OPD, undertrained teacher", "exopd_early", "opd_early", "math"),
    Claim("ExOPD > OPD, teacher trained on", "exopd_late", "opd_late", "math"),
    Claim("student > teacher: ExOPD, undertrained teacher", "exopd_early", "early_teacher", "math"),
    Claim("student > teacher: ExOPD, teacher trained on", "exopd_late", "more_rl_math", "math"),
    Claim("lambda 1.5 > lambda 1.25", "lambda_1.5", "exopd_math", "math"),
    Claim("lambda 2 > lambda 1.25", "lambda_2", "exopd_math", "math"),
    *(
        Claim(f"student > optimum, lambda {x:g}", f"converged_{x:g}", f"optimum_{x:g}", "math")
        for x in PREVIEWED
    ),
]


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

HEADER = ["", "math", "code", "length (math)", "paper, math", "paper, code"]


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
            rows = [HEADER, *_rows(results, table)]
            lines += ["", title]
            lines += [f"  {row[0].replace('**', ''):52}{row[1]:>14}{row[2]:>14}" for row in rows]
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
        f"on held-out prompts, {size['math'][0]:,} x {size['math'][1]} samples of math, "
        f"{size['code'][0]:,} x {size['code'][1]} of code.",
        f"% right, mean ± 95% interval over {seeds} seeds (Student's t). The paper's columns are "
        "its benchmark",
        "averages, models of billions of parameters, one seed: compare signs and order, not sizes.",
    ]


def _table(results: JsonObject, table: str) -> list[str]:
    """A table in Markdown, without columns that hold one value: the start's other domain."""
    rows = _rows(results, table)
    used = [i for i in range(len(HEADER)) if sum(bool(row[i]) for row in rows) > 1]
    shown = [[row[i] for i in used] for row in [HEADER, *rows]]
    head, *body = ("| " + " | ".join(row) + " |" for row in shown)
    return [head, "|" + "---|" * len(used), *body]


def _rows(results: JsonObject, table: str) -> list[list[str]]:
    """The rows of a table as text, columns as in `HEADER`."""
    rows = []
    for row in TABLES[table][1]:
        if row.arm in results["arms"]:
            scored = results["arms"][row.arm]
            math, code = scored.get("math"), scored.get("code")
            shown = [_shown(domain and domain["score"]) for domain in (math, code)]
            length = _shown(math and math["length"], 1, 2)
            paper = ["" if v is None else f"{v:.1f}" for v in (row.paper_math, row.paper_code)]
            rows.append([row.label, *shown, length, *paper])
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
