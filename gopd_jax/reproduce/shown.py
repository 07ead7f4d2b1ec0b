"""What the tables show and which claims are tested. Plain data."""

from typing import NamedTuple

from gopd_jax.reproduce.arms import (
    CONTROLLED,
    CONTROLS,
    CONVERGED,
    EARLY,
    ESTIMATORS,
    EX,
    LAMBDAS,
    LONGER,
    PREVIEWED,
    SHARES,
    TOP_K,
    estimator_arm,
)


class Row(NamedTuple):
    """A row of a table: an arm, and the averages of the paper's math and code benchmarks."""

    label: str
    arm: str
    paper_math: float | None = None
    paper_code: float | None = None


class Claim(NamedTuple):
    """The first arm scores above the second, on a domain."""

    text: str
    above: str
    below: str
    domain: str


# Figure 2: lambda -> arm, and the paper's numbers.
LAMBDA_ARMS = {x: f"lambda_{x:g}" for x in LAMBDAS} | {1.0: "opd_math", 1.25: "exopd_math"}
PAPER_LAMBDAS = {1.0: 46.5, 1.25: 48.0}

STEPS_ARMS = {x: f"steps_lambda_{x:g}" for x in LAMBDAS}

# The ExOPD that the controls of a domain are compared with.
EX_ARMS = {"math": "exopd_math", "code": "exopd_code", "steps": STEPS_ARMS[EX]}


def _controls(domain: str) -> list[Row]:
    """ExOPD on a domain without the teacher's knowledge."""
    labels = {
        "constant": "every advantage -0.1",
        "permuted_tokens": "advantages dealt out anew to tokens",
        "permuted_answers": "advantages of another answer",
        "random_teacher": "random teacher",
    }
    return [Row(labels[name], f"{name}_{domain}") for name in CONTROLS]


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
    "steps": (
        "Figure 2 on answers that differ in length",
        [
            Row("student's start", "steps_base"),
            Row("teacher", "steps_teacher"),
            *(Row(f"lambda {x:g}", arm) for x, arm in STEPS_ARMS.items()),
            *_controls("steps"),
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
    "self": (
        "Self-distillation: the teacher is the student's start and is shown the answer",
        [
            Row("student's start", "hinted_base"),
            Row("OPD, the teacher stays", "self_opd"),
            Row("ExOPD, the teacher stays", "self_exopd"),
            Row("OPD, the teacher is an average of students", "self_average"),
            Row("OPD, the teacher is refreshed", "self_refresh"),
        ],
    ),
    "estimators": (
        "Estimators: ExOPD, math, over a quarter, half and all of the steps",
        [
            Row("math teacher", "math_teacher"),
            *(
                Row(f"{name}, {share:g} of the steps", estimator_arm(name, share))
                for name in ESTIMATORS
                for share in SHARES
            ),
        ],
    ),
    "controls": (
        "Controls: ExOPD without the teacher's knowledge",
        [
            Row("student's start", "base"),
            Row("**ExOPD** from the math teacher", "exopd_math"),
            *_controls("math"),
            Row("**ExOPD** from the code teacher", "exopd_code"),
            *_controls("code"),
        ],
    ),
}

NOTES = {
    "table3": f"{LONGER} times the steps of the other tables. The paper's columns are its Figure "
    "6, Qwen3-4B after GRPO to Qwen3-1.7B. Its Table 3, Qwen3-30B-A3B to Qwen3-1.7B and to 4B, "
    "math: SFT 13.5 and 35.1, OPD 23.1 and 42.6, ExOPD 25.4 and 45.3.",
    "estimators": f"`top_k` looks at the {TOP_K} most likely tokens of the student, of 128; the "
    "others count as one.",
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
    Claim("ExOPD > OPD", "steps_lambda_1.25", "steps_lambda_1", "steps"),
    Claim("student > teacher: ExOPD", "steps_lambda_1.25", "steps_teacher", "steps"),
    Claim("student > teacher: OPD", "steps_lambda_1", "steps_teacher", "steps"),
    Claim("lambda 1.5 > lambda 1.25", "steps_lambda_1.5", "steps_lambda_1.25", "steps"),
    Claim("lambda 2 > lambda 1.25", "steps_lambda_2", "steps_lambda_1.25", "steps"),
    Claim("self-distillation > student's start", "self_opd", "hinted_base", "math"),
    Claim("self-distillation: ExOPD > OPD", "self_exopd", "self_opd", "math"),
    Claim("self-distillation: average > fixed teacher", "self_average", "self_opd", "math"),
    Claim("self-distillation: refreshed > fixed teacher", "self_refresh", "self_opd", "math"),
    *(
        Claim(f"student > optimum, lambda {x:g}", f"converged_{x:g}", f"optimum_{x:g}", "math")
        for x in PREVIEWED
    ),
    *(
        Claim(f"{name}, {share:g} of the steps > sampled, all steps", arm, "exopd_math", "math")
        for name in ESTIMATORS
        for share in SHARES
        if (arm := estimator_arm(name, share)) != "exopd_math"
    ),
    *(
        Claim(f"ExOPD > {name.replace('_', ' ')}", EX_ARMS[domain], f"{name}_{domain}", domain)
        for domain in CONTROLLED
        for name in CONTROLS
    ),
    *(
        Claim(f"{name.replace('_', ' ')} > student's start", f"{name}_{domain}", start, domain)
        for domain, (start, _) in CONTROLLED.items()
        for name in CONTROLS
    ),
]
