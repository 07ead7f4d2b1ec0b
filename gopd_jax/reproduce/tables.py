"""Scores over seeds -> means with 95% intervals, claims marked held, not held or unclear, and the tables that a person reads.

The interval is Student's t over seeds: each seed trains and scores anew. Differences are taken within a seed, where both models
answered the same prompts with the same keys.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gopd_jax.evaluate.statistics import interval
from gopd_jax.reproduce.arms import EARLY, LAMBDAS, LONGER, Arm

Scores = dict[tuple[str, int], dict[str, Any]]

# Table -> title and rows: (label, arm, the paper's math and code averages or None).
Row = tuple[str, str, float | None, float | None]
TABLES: dict[str, tuple[str, list[Row]]] = {
    "table2": (
        "Table 2: single teachers and both",
        [
            ("student's start", "base", 15.4, 52.4),
            ("math teacher", "math_teacher", 46.0, None),
            ("code teacher", "code_teacher", None, 61.2),
            ("single, math: SFT", "sft_math", None, None),
            ("single, math: ExPO 0.25", "expo_math_0.25", None, None),
            ("single, math: ExPO 0.5", "expo_math_0.5", 45.8, None),
            ("single, math: OPD", "opd_math", 46.5, None),
            ("single, math: **ExOPD**", "exopd_math", 48.0, None),
            ("single, code: SFT", "sft_code", None, None),
            ("single, code: ExPO 0.25", "expo_code_0.25", None, None),
            ("single, code: ExPO 0.5", "expo_code_0.5", None, 61.0),
            ("single, code: OPD", "opd_code", None, 60.8),
            ("single, code: **ExOPD**", "exopd_code", None, 62.1),
            ("both: SFT", "sft_multi", 44.3, 60.8),
            ("both: ExPO 0.25", "expo_multi_0.25", None, None),
            ("both: ExPO 0.5", "expo_multi_0.5", 45.0, 62.6),
            ("both: OPD", "opd_multi", 46.4, 60.6),
            ("both: **ExOPD**", "exopd_multi", 47.7, 62.0),
        ],
    ),
    "figure2": (
        "Figure 2: lambda, single teacher, math",
        [
            (
                f"lambda {x:g}",
                {1.0: "opd_math", 1.25: "exopd_math"}.get(x, f"lambda_{x:g}"),
                {1.0: 46.5, 1.25: 48.0}.get(x),
                None,
            )
            for x in LAMBDAS
        ],
    ),
    "table3": (
        "Table 3 and Figure 6: from strong to weak, and reward correction",
        [
            ("student's start", "base", None, None),
            ("the teacher's start", "large_base", None, None),
            ("teacher", "large_teacher", None, None),
            ("SFT", "sft_large", 22.7, 47.0),
            ("OPD", "opd_large", 27.5, 50.5),
            ("**ExOPD**, reference: student's start", "exopd_large", 28.1, 51.3),
            ("**ExOPD**, reference: teacher's start (corrected)", "corrected_large", 28.7, 52.3),
        ],
    ),
    "table1": (
        "Table 1: more RL instead, with as many samples as the student had",
        [
            ("math teacher", "math_teacher", None, None),
            ("math teacher, GRPO on", "more_rl_math", None, None),
            ("ExOPD from the math teacher", "exopd_math", None, None),
            ("code teacher", "code_teacher", None, None),
            ("code teacher, GRPO on", "more_rl_code", None, None),
            ("ExOPD from the code teacher", "exopd_code", None, None),
        ],
    ),
    "strength": (
        "Teachers of other strength (math)",
        [
            (f"teacher after {EARLY} GRPO steps", "early_teacher", None, None),
            ("OPD from it", "opd_early", None, None),
            ("ExOPD from it", "exopd_early", None, None),
            ("teacher after 20 GRPO steps", "math_teacher", None, None),
            ("OPD from it", "opd_math", None, None),
            ("ExOPD from it", "exopd_math", None, None),
            ("the same, GRPO on", "more_rl_math", None, None),
            ("OPD from it", "opd_late", None, None),
            ("ExOPD from it", "exopd_late", None, None),
        ],
    ),
}

NOTES = {
    "table3": f"{LONGER} times the steps of the other tables. The paper's columns are its Figure 6, Qwen3-4B after GRPO to "
    "Qwen3-1.7B. Its Table 3, Qwen3-30B-A3B to Qwen3-1.7B and to 4B, math: SFT 13.5 and 35.1, OPD 23.1 and 42.6, ExOPD 25.4 "
    "and 45.3.",
}

# The first arm scores above the second, on a domain. The paper's claims, then what else one wants to know.
CLAIMS: list[tuple[str, str, str, str]] = [
    ("ExOPD > OPD, single teacher", "exopd_math", "opd_math", "math"),
    ("ExOPD > OPD, single teacher", "exopd_code", "opd_code", "code"),
    ("ExOPD > OPD, both teachers", "exopd_multi", "opd_multi", "math"),
    ("ExOPD > OPD, both teachers", "exopd_multi", "opd_multi", "code"),
    ("ExOPD > OPD, strong to weak", "exopd_large", "opd_large", "math"),
    ("student > teacher: ExOPD, single", "exopd_math", "math_teacher", "math"),
    ("student > teacher: ExOPD, single", "exopd_code", "code_teacher", "code"),
    ("student > teacher: OPD, single", "opd_math", "math_teacher", "math"),
    ("student > teacher: OPD, single", "opd_code", "code_teacher", "code"),
    ("one student above both teachers: ExOPD", "exopd_multi", "math_teacher", "math"),
    ("one student above both teachers: ExOPD", "exopd_multi", "code_teacher", "code"),
    ("one student above both teachers: OPD", "opd_multi", "math_teacher", "math"),
    ("one student above both teachers: OPD", "opd_multi", "code_teacher", "code"),
    ("reward correction > ExOPD, strong to weak", "corrected_large", "exopd_large", "math"),
    ("reward correction > OPD, strong to weak", "corrected_large", "opd_large", "math"),
    ("ExOPD > ExPO 0.5, single", "exopd_math", "expo_math_0.5", "math"),
    ("ExOPD > ExPO 0.5, single", "exopd_code", "expo_code_0.5", "code"),
    ("ExOPD > ExPO 0.5, both", "exopd_multi", "expo_multi_0.5", "math"),
    ("ExOPD > ExPO 0.5, both", "exopd_multi", "expo_multi_0.5", "code"),
    ("OPD > SFT, single", "opd_math", "sft_math", "math"),
    ("OPD > SFT, single", "opd_code", "sft_code", "code"),
    ("OPD > SFT, both", "opd_multi", "sft_multi", "math"),
    ("OPD > SFT, both", "opd_multi", "sft_multi", "code"),
    ("OPD > SFT, strong to weak", "opd_large", "sft_large", "math"),
    ("ExOPD > more RL", "exopd_math", "more_rl_math", "math"),
    ("ExOPD > more RL", "exopd_code", "more_rl_code", "code"),
    ("ExOPD > OPD, undertrained teacher", "exopd_early", "opd_early", "math"),
    ("ExOPD > OPD, teacher trained on", "exopd_late", "opd_late", "math"),
    ("student > teacher: ExOPD, undertrained teacher", "exopd_early", "early_teacher", "math"),
    ("student > teacher: ExOPD, teacher trained on", "exopd_late", "more_rl_math", "math"),
    ("lambda 1.5 > lambda 1.25", "lambda_1.5", "exopd_math", "math"),
    ("lambda 2 > lambda 1.25", "lambda_2", "exopd_math", "math"),
]


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean and half width of its 95% interval (t over seeds)."""
    mean, half = interval(values)
    return {"mean": mean, "half_width": half, "by_seed": [round(float(v), 6) for v in values]}


def summarise(
    scores: Scores, chosen: Sequence[Arm], groups: Sequence[str], seeds: int
) -> dict[str, Any]:
    """Everything that the tables and pictures show, as plain numbers; scores are shares, not percent."""
    by_arm: dict[str, Any] = {}
    for arm in chosen:
        by_arm[arm.name] = {}
        for domain in arm.domains:
            each = [scores[arm.name, s]["domains"][domain] for s in range(seeds)]
            row = {"score": over_seeds([np.mean(e["by_prompt"]) for e in each])}
            row |= {name: over_seeds([e[name] for e in each]) for name in ("length", "truncated")}
            by_arm[arm.name][domain] = row
    claims = []
    for claim, above, below, domain in CLAIMS:
        if domain in by_arm.get(above, ()) and domain in by_arm.get(below, ()):
            pair = [by_arm[name][domain]["score"]["by_seed"] for name in (above, below)]
            difference = over_seeds(np.subtract(*pair))
            claims.append(
                {"claim": claim, "domain": domain, "above": above, "below": below} | difference
            )
            claims[-1]["verdict"] = verdict(difference)
    return {"seeds": seeds, "groups": list(groups), "arms": by_arm, "claims": claims}


def verdict(difference: dict[str, Any]) -> str:
    """held: the interval is above 0; not held: below; else unclear."""
    mean, half = difference["mean"], difference["half_width"]
    return "held" if mean - half > 0 else "not held" if mean + half < 0 else "unclear"


def _shown(value: dict[str, Any] | None, scale: float = 100, digits: int = 1) -> str:
    return (
        ""
        if value is None
        else f"{scale * value['mean']:.{digits}f} ± {scale * value['half_width']:.{digits}f}"
    )


def _rows(results: dict[str, Any], table: str) -> list[list[str]]:
    rows = []
    for label, arm, math, code in TABLES[table][1]:
        if arm in results["arms"]:
            scored = results["arms"][arm]
            math_row, code_row = scored.get("math"), scored.get("code")
            length = math_row["length"] if math_row else None
            paper = [f"{v:.1f}" if v is not None else "" for v in (math, code)]
            shown = [_shown(r and r["score"]) for r in (math_row, code_row)]
            rows.append([label, *shown, _shown(length, 1, 2), *paper])
    return rows


HEADER = ["", "math", "code", "length (math)", "paper, math", "paper, code"]


def markdown(results: dict[str, Any], drawn: Sequence[str]) -> str:
    """results.md: command, machine, tables, claims, pictures."""
    made = results["about"]
    size = made["size"]
    lines = [
        "# The paper's experiments in the embedded world",
        "",
        f"`python -m gopd_jax.reproduce --seeds={results['seeds']}` at commit {(made['git_commit'] or 'unknown')[:7]}, "
        f"JAX {made['packages']['jax']}, {made['cores']} CPU cores ({made['machine']}), "
        f"{made['seconds_of_all_arms'] / 60:.0f} core-minutes of arms.",
        f"Each arm: {size['steps']} steps of {size['samples_per_step']} samples a domain; scored on held-out prompts, "
        f"{size['math'][0]:,} x {size['math'][1]} samples of math, {size['code'][0]:,} x {size['code'][1]} of code.",
        f"% right, mean ± 95% interval over {results['seeds']} seeds (Student's t). The paper's columns are its benchmark",
        "averages, models of billions of parameters, one seed: compare signs and order, not sizes.",
    ]
    for table, (title, _) in TABLES.items():
        if table in results["groups"]:
            rows = _rows(results, table)
            lines += ["", f"## {title}", ""]
            used = [
                i for i in range(len(HEADER)) if sum(bool(r[i]) for r in rows) > 1
            ]  # one alone: the start's other domain
            lines.append("| " + " | ".join(HEADER[i] for i in used) + " |")
            lines.append("|" + "---|" * len(used))
            lines += ["| " + " | ".join(r[i] for i in used) + " |" for r in rows]
            lines += ["", NOTES[table]] if table in NOTES else []
            lines += ["", f"![{title}]({table}.png)"] if f"{table}.png" in drawn else []
    lines += [
        "",
        "## Claims",
        "",
        "Differences within a seed, in points; held: the whole interval is above 0.",
        "",
    ]
    lines += ["| claim | domain | difference | |", "|---|---|---|---|"]
    lines += [
        f"| {c['claim']} | {c['domain']} | {_signed(c)} | {c['verdict']} |"
        for c in results["claims"]
    ]
    return "\n".join(lines) + "\n"


def _signed(c: dict[str, Any]) -> str:
    return f"{100 * c['mean']:+.2f} ± {100 * c['half_width']:.2f}"


def text(results: dict[str, Any]) -> str:
    """The same for a terminal."""
    lines = []
    for table, (title, _) in TABLES.items():
        if table in results["groups"]:
            rows = _rows(results, table)
            lines += ["", title]
            lines += [f"  {r[0].replace('**', ''):52}{r[1]:>14}{r[2]:>14}" for r in [HEADER, *rows]]
    lines += ["", "claims (difference within a seed, points)"]
    lines += [
        f"  {c['claim']:49}{c['domain']:6}{_signed(c):>16}  {c['verdict']}"
        for c in results["claims"]
    ]
    return "\n".join(lines)
