"""What in a run deserves attention, in plain words and with advice, and what was looked at.

In: a `Run`. Out: checks, each with what it saw or why it could not look, and findings, the most
serious first. Draws nothing.
"""

from collections.abc import Iterable
import dataclasses
import math

import numpy as np
from scipy import ndimage

from gopd_jax.report.checks import LEVELS, Check, Finding, checked, series, too_short
from gopd_jax.report.domain_checks import of_domain
from gopd_jax.report.progress_checks import noise, progress
from gopd_jax.report.read import Run

# A multiple of the median norm of the surrounding steps; over a run the norm falls by itself.
GRADIENT_SPIKE, SURROUNDING_STEPS = 10.0, 21

PROMPTS_CUT = 0.01

# The number of slots shrinks for some steps; after the warm-up nothing should compile.
WARM_STEPS, RECOMPILED_STEPS = 10, 3


def checks(run: Run) -> list[Check]:
    """All checks of a run folder."""
    return [_files(run), _complete(run), *of_training(run)]


def of_training(run: Run) -> list[Check]:
    """The checks of a run's config and metrics, which need no other file.

    Where there are several domains, those of a domain name it.
    """
    domains = run.domains if len(run.domains) > 1 else [""]
    made = [_not_finite(run), _gradient_norm(run), noise(run), _compilations(run)]
    made += _prompts_cut(run)
    for domain in domains:
        suffix = f"/{domain}" if domain else ""
        of_one = [*of_domain(run, suffix), progress(run, suffix)]
        made += [_in_domain(check, domain) for check in of_one]
    return made


def of_checks(made: Iterable[Check]) -> list[Finding]:
    """What the checks found, the most serious first."""
    found = [check.finding for check in made if check.finding]
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def _in_domain(check: Check, domain: str) -> Check:
    if not domain:
        return check
    f = check.finding
    finding = f and dataclasses.replace(f, title=f"{f.title}, {domain}")
    return dataclasses.replace(check, rule=f"{domain}: {check.rule}", finding=finding)


# ---- Of the whole run.


def _complete(run: Run) -> Check:
    steps = run.config.get("steps")
    of = f" of {steps}" if steps else ""
    saw, finding = f"finished at step {run.last_step}", None
    if not run.finished:
        saw = f"at step {run.last_step}{of}"
        finding = Finding(
            "look",
            f"Unfinished at step {run.last_step}{of}",
            "There is no summary yet: the run is still going on or was stopped."
            + ("" if run.metrics else " No step has been written: there are no curves to show."),
            "The same training command continues from the last checkpoint.",
        )
    return checked("an unfinished run", saw, finding)


def _files(run: Run) -> Check:
    finding = None
    if run.problems:
        finding = Finding(
            "look",
            "Files that could not be read in full",
            "; ".join(run.problems),
            "The page is made from the rest. A line cut short by a kill is dropped when the run is "
            "resumed.",
        )
    lines = len(run.metrics) + len(run.evaluations) + len(run.samples)
    saw = f"{lines:,} lines read, {len(run.problems)} problems"
    return checked("files that cannot be read in full", saw, finding)


def _not_finite(run: Run) -> Check:
    rule = "metrics that are not finite"
    first: dict[str, int] = {}
    for m in run.metrics:
        for name, value in m.items():
            values = value if isinstance(value, list) else [value]
            if any(isinstance(v, float) and not math.isfinite(v) for v in values):
                first.setdefault(name, m["step"])
    if not run.metrics:
        return Check(rule, "not checked", "no step has been written")
    if not first:
        return Check(rule, "passed", f"all finite in {len(run.metrics):,} steps")
    start = min(first.values())
    names = ", ".join(sorted(n for n, s in first.items() if s == start)[:6])
    saw = f"NaN or infinity from step {start} on, first in {names}"
    finding = Finding(
        "bad",
        "Values that are not finite",
        f"{saw}.",
        "Go back to a checkpoint before that step; lower learner.learning_rate, and check the "
        "models' log-probs.",
    )
    return Check(rule, "found", saw, finding)


def _gradient_norm(run: Run) -> Check:
    rule = (
        f"a gradient norm above {GRADIENT_SPIKE:g} times the median of the {SURROUNDING_STEPS} "
        "steps around it"
    )
    steps, norms = series(run, "grad_norm")
    if len(norms) < SURROUNDING_STEPS:
        return too_short(rule, norms, SURROUNDING_STEPS)
    usual = ndimage.median_filter(norms, SURROUNDING_STEPS, mode="nearest")
    ratios = norms / np.maximum(usual, np.finfo(float).tiny)
    worst = int(np.argmax(ratios))
    saw = f"{norms[worst]:.3g} at step {steps[worst]:.0f}, median {usual[worst]:.3g}"
    finding = None
    if norms[worst] > GRADIENT_SPIKE * usual[worst] > 0:
        finding = Finding(
            "note",
            "A spike of the gradient norm",
            f"{norms[worst]:.3g} at step {steps[worst]:.0f}; the median of the steps around it is "
            f"{usual[worst]:.3g}.",
            "learner.clip_norm limits its effect; look at the samples and at the extremes of the "
            "advantage at that step.",
        )
    return checked(rule, saw, finding)


def _prompts_cut(run: Run) -> list[Check]:
    """One check where teachers are shown something of the answers; else none."""
    shares = series(run, "teacher_prompts_cut")[1]
    if not len(shares):
        return []
    rule = f"what a teacher is shown of an answer cut for more than {PROMPTS_CUT:.0%} of them"
    saw = f"for {shares.mean():.1%} of the answers, on average over the run"
    finding = Finding(
        "look",
        "Teachers read cut prompts",
        f"The end of what they are shown of an answer is missing {saw}.",
        "Raise data.max_teacher_prompt_tokens, or show them less (domains.NAME.teacher_context).",
    )
    return [checked(rule, saw, finding if shares.mean() > PROMPTS_CUT else None)]


def _compilations(run: Run) -> Check:
    rule = f"programs compiled at {RECOMPILED_STEPS} or more steps after step {WARM_STEPS}"
    steps, counts = series(run, "compilations")
    if not len(steps) or steps[-1] < WARM_STEPS + RECOMPILED_STEPS:
        return too_short(rule, steps, WARM_STEPS + RECOMPILED_STEPS)
    # The count falls when the run is resumed by a new process.
    late = steps[1:][(np.diff(counts) > 0) & (steps[1:] > WARM_STEPS)]
    finding = None
    if len(late) >= RECOMPILED_STEPS:
        finding = Finding(
            "note",
            "Programs compiled during the run",
            f"At {len(late)} steps after step {WARM_STEPS}, the last at step {late[-1]:.0f}: those "
            "steps are slow.",
            "Shapes change from step to step: keep rollout.slots and the batch size fixed. A "
            "resumed run compiles its programs again.",
        )
    return checked(rule, f"at {len(late)} steps", finding)
