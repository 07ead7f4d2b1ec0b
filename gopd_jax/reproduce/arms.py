"""What is run: every arm of the paper's tables and figures, as a config of the embedded world. Plain data; nothing runs here.

An arm is a model to be scored: one that is there already (`given`), one made from others without training (`expo`), or the
student of a training run. `needs` names arms whose models must exist first.
"""

import dataclasses
from typing import Any

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # the paper's, and 2
EX = 1.25  # the paper's lambda
LONGER = 3  # times the steps, from strong to weak: the paper doubles them, and here the student still climbs after 200
EARLY = 5  # GRPO steps of the undertrained teacher; the embedded ones had 20
MATH, CODE, BOTH = ("math",), ("code",), ("math", "code")
TEACHERS = {"math": "math_teacher", "code": "code_teacher"}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One model.

    kind: "given", "expo", "gopd", "sft" or "grpo". domains: what it is trained on and scored by. student: arm that it starts
    from. teachers: arm of each domain's teacher. reference: arm, or "" for the student's start. times: how often the usual
    number of steps. settings: config fields by dotted name, or ExPO's alpha. groups: the tables it belongs to.
    """

    name: str
    kind: str
    domains: tuple[str, ...]
    groups: tuple[str, ...]
    student: str = "base"
    teachers: tuple[str, ...] = ()
    reference: str = ""
    times: int = 1
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        return (
            ()
            if self.kind == "given"
            else tuple({self.student, *self.teachers, self.reference} - {""})
        )


def _gopd(
    name: str,
    scale: float,
    domains: tuple[str, ...],
    *groups: str,
    teachers: tuple[str, ...] = (),
    **fields: Any,
) -> Arm:
    teachers = teachers or tuple(TEACHERS[d] for d in domains)
    return Arm(
        name,
        "gopd",
        domains,
        groups,
        teachers=teachers,
        settings=(("learner.reward_scale", scale),),
        **fields,
    )


def _all() -> list[Arm]:
    arms = [
        Arm("base", "given", BOTH, ("table2", "figure2", "table3", "table1", "strength")),
        Arm("math_teacher", "given", MATH, ("table2", "figure2", "table1", "strength")),
        Arm("code_teacher", "given", CODE, ("table2", "table1")),
        Arm("large_base", "given", MATH, ("table3",)),
        Arm("large_teacher", "given", MATH, ("table3",)),
    ]
    # Table 2: single teachers, then both.
    for domains, label in ((MATH, "math"), (CODE, "code"), (BOTH, "multi")):
        teachers = tuple(TEACHERS[d] for d in domains)
        also = {"math": ("figure2", "table1", "strength"), "code": ("table1",), "multi": ()}[label]
        arms.append(Arm(f"sft_{label}", "sft", domains, ("table2",), teachers=teachers))
        for alpha in (0.25, 0.5):
            arms.append(
                Arm(
                    f"expo_{label}_{alpha:g}",
                    "expo",
                    domains,
                    ("table2",),
                    teachers=teachers,
                    settings=(("alpha", alpha),),
                )
            )
        arms.append(_gopd(f"opd_{label}", 1.0, domains, "table2", *also))
        arms.append(_gopd(f"exopd_{label}", EX, domains, "table2", *also))
    # Figure 2: lambda, single teacher, math.
    arms += [
        _gopd(f"lambda_{scale:g}", scale, MATH, "figure2")
        for scale in LAMBDAS
        if scale not in (1.0, EX)
    ]
    # Table 3 and Figure 6: from strong to weak, and with the teacher's own start as the reference.
    large = ("large_teacher",)
    arms.append(Arm("sft_large", "sft", MATH, ("table3",), teachers=large, times=LONGER))
    arms.append(_gopd("opd_large", 1.0, MATH, "table3", teachers=large, times=LONGER))
    arms.append(_gopd("exopd_large", EX, MATH, "table3", teachers=large, times=LONGER))
    arms.append(
        _gopd(
            "corrected_large",
            EX,
            MATH,
            "table3",
            teachers=large,
            reference="large_base",
            times=LONGER,
        )
    )
    # Table 1: the teachers' own RL goes on for as many samples as the student was given.
    arms.append(Arm("more_rl_math", "grpo", MATH, ("table1", "strength"), student="math_teacher"))
    arms.append(Arm("more_rl_code", "grpo", CODE, ("table1",), student="code_teacher"))
    # Teachers of other strength: stopped early, and trained on.
    arms.append(Arm("early_teacher", "grpo", MATH, ("strength",), settings=(("steps", EARLY),)))
    for label, teacher in (("early", "early_teacher"), ("late", "more_rl_math")):
        arms.append(_gopd(f"opd_{label}", 1.0, MATH, "strength", teachers=(teacher,)))
        arms.append(_gopd(f"exopd_{label}", EX, MATH, "strength", teachers=(teacher,)))
    return arms


ARMS = {arm.name: arm for arm in _all()}
GROUPS = ("table2", "figure2", "table3", "table1", "strength")


def chosen(groups: tuple[str, ...]) -> list[Arm]:
    """The arms of some groups and what they need, each after what it needs.

    Raises:
        ValueError: an unknown group.
    """
    if unknown := [g for g in groups if g not in GROUPS]:
        raise ValueError(f"--only={','.join(unknown)}: wanted some of {', '.join(GROUPS)}")
    wanted = {a.name for a in ARMS.values() if set(a.groups) & set(groups)}
    while more := {n for name in wanted for n in ARMS[name].needs} - wanted:
        wanted |= more
    return [a for a in ARMS.values() if a.name in wanted]
