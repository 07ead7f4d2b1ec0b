"""What is run: every arm of the paper's tables and figures, as a model of the embedded world.

An arm is a model to be scored: an embedded one ("given"), one made from others without training
("expo"), two that are drawn from as one ("optimum"), or the student of a training run. Plain data;
nothing runs here.
"""

from collections.abc import Sequence
import dataclasses
from typing import Literal

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # the paper's, and 2
EX = 1.25  # the paper's lambda of ExOPD

# Multiple of the usual steps, from strong to weak. The paper doubles them; here the student still
# improves after 200 steps.
LONGER = 3

# Estimators are compared over this many of the usual steps: how soon are they where "sampled" ends?
SHARES = (0.25, 0.5, 1)
ESTIMATORS = ("sampled", "sampled_baseline", "full", "top_k")
TOP_K = 2  # of the embedded vocabulary of 128; 32 are as good as all
CONTROLS = ("constant", "permuted_tokens", "permuted_answers", "random_teacher")
# Domain of the controls -> the student, and the group that they are in.
CONTROLLED = {
    "math": ("base", "controls"),
    "code": ("base", "controls"),
    "steps": ("steps_base", "steps"),
}
NEW = ("estimators", "controls")

# Of the students that are compared with the optimum of their objective.
PREVIEWED, CONVERGED = (0.5, 1.0, 1.25, 1.5), 2  # lambdas, and the multiple of the usual steps

EARLY = 5  # GRPO steps of the undertrained teacher; the embedded teachers had 20

MATH, CODE, BOTH, STEPS = ("math",), ("code",), ("math", "code"), ("steps",)
TEACHERS = {"math": "math_teacher", "code": "code_teacher", "steps": "steps_teacher"}

PAPER_GROUPS = ("table2", "figure2", "table3", "table1", "strength")
GROUPS = (*PAPER_GROUPS, "steps", "preview", "self", *NEW)


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is run.

    steps: training steps of an arm.
    samples_per_step: samples per domain and training step.
    math, code: held-out prompts, and samples of each, that score a model; those of math score
        "steps", too. Code has fewer because every sample is a program to run.
    """

    steps: int = 100
    samples_per_step: int = 256
    math: tuple[int, int] = (4096, 2)
    code: tuple[int, int] = (1024, 2)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model to be scored.

    name: unique among the arms.
    kind: how the model is made.
    domains: what it is trained on and scored by.
    groups: the tables that it belongs to.
    student: the arm that it starts from.
    teachers: the arm of each domain's teacher.
    reference: an arm, or "" for the student's start.
    step_factor: multiple of the usual number of steps.
    settings: config fields by dotted name; for "expo" its alpha, for "optimum" lambda.
    """

    name: str
    kind: Literal["given", "expo", "optimum", "gopd", "sft", "grpo"]
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    student: str = "base"
    teachers: tuple[str, ...] = ()
    reference: str = ""
    step_factor: float = 1
    settings: tuple[tuple[str, float | str], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms whose models must exist first."""
        if self.kind == "given":
            return ()
        return tuple({self.student, *self.teachers, self.reference} - {""})


def chosen(groups: Sequence[str]) -> list[Arm]:
    """The arms of some groups and what they need, each after what it needs.

    Raises:
        ValueError: an unknown group.
    """
    if unknown := [g for g in groups if g not in GROUPS]:
        raise ValueError(f"--only={','.join(unknown)}: expected some of {', '.join(GROUPS)}")
    names = {arm.name for arm in ARMS.values() if set(arm.groups) & set(groups)}
    while missing := {need for name in names for need in ARMS[name].needs} - names:
        names |= missing
    return [arm for arm in ARMS.values() if arm.name in names]


def _gopd(
    name: str,
    scale: float,
    domains: tuple[str, ...],
    *groups: str,
    student: str = "base",
    teachers: tuple[str, ...] = (),
    reference: str = "",
    step_factor: float = 1,
    settings: tuple[tuple[str, float | str], ...] = (),
) -> Arm:
    """A student of G-OPD with lambda `scale`, by default taught by the domains' own teachers."""
    return Arm(
        name,
        "gopd",
        domains,
        groups,
        student=student,
        teachers=teachers or tuple(TEACHERS[d] for d in domains),
        reference=reference,
        step_factor=step_factor,
        settings=(("learner.reward_scale", scale), *settings),
    )


def _given() -> list[Arm]:
    return [
        Arm("base", "given", BOTH, (*PAPER_GROUPS, "preview", *NEW)),
        Arm(
            "math_teacher",
            "given",
            MATH,
            tuple(g for g in GROUPS if g not in ("table3", "steps", "self")),
        ),
        Arm("code_teacher", "given", CODE, ("table2", "table1", "controls")),
        Arm("large_base", "given", MATH, ("table3",)),
        Arm("large_teacher", "given", MATH, ("table3",)),
        Arm("hinted_base", "given", MATH, ("self",)),
        Arm("steps_base", "given", STEPS, ("steps",)),
        Arm("steps_teacher", "given", STEPS, ("steps",)),
    ]


def _teachers_alone_and_together() -> list[Arm]:
    """Table 2."""
    arms = []
    for label, domains, *also in (
        ("math", MATH, "figure2", "table1", "strength", *NEW),
        ("code", CODE, "table1", "controls"),
        ("multi", BOTH),
    ):
        made = {"domains": domains, "groups": ("table2",)}
        made["teachers"] = tuple(TEACHERS[d] for d in domains)
        arms.append(Arm(f"sft_{label}", "sft", **made))
        for alpha in (0.25, 0.5):
            settings = (("alpha", alpha),)
            arms.append(Arm(f"expo_{label}_{alpha:g}", "expo", settings=settings, **made))
        arms.append(_gopd(f"opd_{label}", 1.0, domains, "table2", *also))
        arms.append(_gopd(f"exopd_{label}", EX, domains, "table2", *also))
    return arms


def _lambdas() -> list[Arm]:
    """Figure 2; lambda = 1 and 1.25 are arms of Table 2."""
    scales = [scale for scale in LAMBDAS if scale not in (1.0, EX)]
    return [_gopd(f"lambda_{scale:g}", scale, MATH, "figure2") for scale in scales]


def _strong_to_weak() -> list[Arm]:
    """Table 3, and Figure 6 with the teacher's own start as the reference."""
    made = {"teachers": ("large_teacher",), "step_factor": LONGER}
    return [
        Arm("sft_large", "sft", MATH, ("table3",), **made),
        _gopd("opd_large", 1.0, MATH, "table3", **made),
        _gopd("exopd_large", EX, MATH, "table3", **made),
        _gopd("corrected_large", EX, MATH, "table3", reference="large_base", **made),
    ]


def _more_reinforcement_learning() -> list[Arm]:
    """Table 1: the teachers' own RL continues for as many samples as the student had."""
    return [
        Arm("more_rl_math", "grpo", MATH, ("table1", "strength"), student="math_teacher"),
        Arm("more_rl_code", "grpo", CODE, ("table1",), student="code_teacher"),
    ]


def _teachers_of_other_strength() -> list[Arm]:
    """Teachers that were stopped early, and that were trained further."""
    arms = [Arm("early_teacher", "grpo", MATH, ("strength",), settings=(("steps", EARLY),))]
    for label, teacher in (("early", "early_teacher"), ("late", "more_rl_math")):
        arms.append(_gopd(f"opd_{label}", 1.0, MATH, "strength", teachers=(teacher,)))
        arms.append(_gopd(f"exopd_{label}", EX, MATH, "strength", teachers=(teacher,)))
    return arms


def _lambdas_in_steps() -> list[Arm]:
    """Figure 2 on the task whose answers differ in length."""
    name = "steps_lambda_{:g}".format
    return [_gopd(name(x), x, STEPS, "steps", student="steps_base") for x in LAMBDAS]


def estimator_arm(estimator: str, share: float) -> str:
    """The arm of an estimator with a share of the usual steps."""
    if (estimator, share) == ("sampled", 1):
        return "exopd_math"
    return f"{estimator}_{share:g}"


def _estimators() -> list[Arm]:
    """ExOPD, math, with each estimator; the schedule of the learning rate fits the steps."""
    few = (("objective.top_k", TOP_K),)
    return [
        _gopd(
            estimator_arm(name, share),
            EX,
            MATH,
            "estimators",
            step_factor=share,
            settings=(("objective.estimator", name), *few * (name == "top_k")),
        )
        for name in ESTIMATORS
        for share in SHARES
        if (name, share) != ("sampled", 1)
    ]


def _controls() -> list[Arm]:
    """ExOPD without the teacher's knowledge."""
    arms = []
    for domain, (student, group) in CONTROLLED.items():
        for kind in CONTROLS:
            settings = (("control.kind", kind), ("eval.teachers", False))
            made = {"student": student, "settings": settings}
            arms.append(_gopd(f"{kind}_{domain}", EX, (domain,), group, **made))
    return arms


def _optima_and_converged_students() -> list[Arm]:
    """The optimum of each lambda, and students with the exact loss that are trained for long."""
    exact = (("objective.estimator", "full"),)
    made = {"teachers": ("math_teacher",)}
    arms = []
    for x in PREVIEWED:
        scale = (("learner.reward_scale", x),)
        arms.append(Arm(f"optimum_{x:g}", "optimum", MATH, ("preview",), settings=scale, **made))
        name, made_long = f"converged_{x:g}", {"step_factor": CONVERGED, "settings": exact}
        arms.append(_gopd(name, x, MATH, "preview", **made, **made_long))
    return arms


def _self_distillation() -> list[Arm]:
    """The teacher is the student's start, shown the answer, and stays or follows the student."""
    shown = (
        ("domains.math.teacher_context", "={ground_truth}"),
        ("data.max_teacher_prompt_tokens", 17),
    )
    arms = []
    for name, scale, follow in (
        ("self_opd", 1.0, "none"),
        ("self_exopd", EX, "none"),
        ("self_average", 1.0, "average"),
        ("self_refresh", 1.0, "refresh"),
    ):
        made = {"student": "hinted_base", "teachers": ("hinted_base",)}
        settings = (*shown, ("self_teacher.follow", follow))
        arms.append(_gopd(name, scale, MATH, "self", settings=settings, **made))
    return arms


ARMS = {
    arm.name: arm
    for arm in (
        *_given(),
        *_teachers_alone_and_together(),
        *_lambdas(),
        *_strong_to_weak(),
        *_more_reinforcement_learning(),
        *_teachers_of_other_strength(),
        *_lambdas_in_steps(),
        *_estimators(),
        *_controls(),
        *_optima_and_converged_students(),
        *_self_distillation(),
    )
}
