"""What in a run deserves attention, in plain words with what to do; nothing here draws.

In: a `Run`. Out: findings, the worst first. "The end" of a run is its last tenth (3 steps at least), "the start" its first.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from gopd_jax.report.read import Run

# Each threshold is far from what the embedded runs and the papers' runs show when all is well.
TRUNCATED_MUCH = (
    0.2  # of the answers cut: rewards and the advantage of the last tokens no longer mean much
)
TRUNCATED_RISE = 0.05  # more of them than at the start: how length blow-up begins
LENGTH_RATIO = 2.0  # twice as long, or half as long, as at the start; teachers rarely differ more from the student
REPETITION = 0.05  # of the answers end in a loop; near 0 in healthy runs
KL_GROWTH, KL_LEAST = (
    2.0,
    0.02,
)  # KL to the teacher twice its lowest; below 0.02 nats a token that is noise
KL_REFERENCE = 1.0  # nats a token: the student has left what the reference can judge
ENTROPY_SHARE = 0.1  # of the entropy at the start is left: samples of one prompt are nearly alike
IMPORTANCE_CAPPED = (
    0.01  # of the tokens: the sampler disagrees with the learner, and the correction is cut
)
SAMPLER_GAP = 0.05  # nats a token; float32 shows 1e-6, bfloat16 about 0.01
SAME_MODEL = (
    1e-3  # nats a token at the first step: rounding in bfloat16, far below any two trained models
)
GRADIENT_SPIKE, AROUND = (
    10.0,
    21,
)  # times the median of so many steps around; over a run the norm falls by itself
WARM_STEPS, RECOMPILED_STEPS = (
    10,
    3,
)  # slots shrink through sizes for some steps; after that nothing should compile

Level = Literal["bad", "look", "note"]
LEVELS = ("bad", "look", "note")

CHECKS = (
    f"answers cut at the limit: more than {TRUNCATED_MUCH:.0%} at the end, or {TRUNCATED_RISE:.0%} more than at the start",
    f"response length: {LENGTH_RATIO:g} times longer or shorter than at the start",
    f"answers that end in a loop: more than {REPETITION:.0%} at the end",
    f"KL to the teacher: {KL_GROWTH:g} times its lowest at the end; KL to the reference: above {KL_REFERENCE:g} nats a token",
    f"entropy: less than {ENTROPY_SHARE:.0%} of that at the start",
    f"importance weights capped on more than {IMPORTANCE_CAPPED:.0%} of the tokens; sampler gap above {SAMPLER_GAP:g} nats",
    f"student and teacher the same at the first step: within {SAME_MODEL:g} nats",
    f"gradient norm: more than {GRADIENT_SPIKE:g} times the median of the {AROUND} steps around; values that are not finite",
    f"programs compiled at {RECOMPILED_STEPS} or more steps after step {WARM_STEPS}; a run that is not finished; broken files",
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """level: "bad" (the result is in doubt), "look" (may be meant, look at it), "note". todo: what to do about it."""

    level: Level
    title: str
    text: str
    todo: str


def findings(run: Run) -> list[Finding]:
    """All findings of a run, the worst first."""
    slices = ["/" + d for d in run.domains] if len(run.domains) > 1 else [""]
    found = [*_files(run), *_not_finite(run), *_optimizer(run), *_compilations(run)]
    for suffix in slices:
        where = f", {suffix[1:]}" if suffix else ""
        for finding in [*_answers(run, suffix), *_distances(run, suffix), *_sampler(run, suffix)]:
            found.append(dataclasses.replace(finding, title=finding.title + where))
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def number(value: Any) -> float:
    """A metric as a float; what is no number, and what is not there, as NaN."""
    return (
        float(value)
        if isinstance(value, (int, float)) and not isinstance(value, bool)
        else math.nan
    )


def series(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, where it is finite."""
    pairs = [(m["step"], number(m.get(name))) for m in run.metrics]
    points = np.array([(s, v) for s, v in pairs if math.isfinite(v)]).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _ends(values: np.ndarray) -> tuple[float, float] | None:
    """Means at the start and at the end, or None for runs too short to have both."""
    part = max(3, len(values) // 10)
    return (
        (float(values[:part].mean()), float(values[-part:].mean()))
        if len(values) >= 2 * part
        else None
    )


def _files(run: Run) -> Iterator[Finding]:
    if run.problems:
        yield Finding(
            "look",
            "Files that could not be read in full",
            "; ".join(run.problems),
            "The page is made from the rest. A line cut short by a kill is dropped when the run is resumed.",
        )
    if not run.finished:
        steps = run.config.get("steps")
        of = f" of {steps}" if steps else ""
        yield Finding(
            "look",
            f"Unfinished at step {run.last_step}{of}",
            "There is no summary yet; the run goes on or was stopped.",
            "The same training command goes on from the last checkpoint.",
        )
    if not run.metrics:
        yield Finding(
            "note",
            "No steps yet",
            "There is no line in metrics.jsonl: no curves to show.",
            "Look again later.",
        )


def _not_finite(run: Run) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for m in run.metrics:
        for name, value in m.items():
            values = value if isinstance(value, list) else [value]
            if any(isinstance(v, float) and not math.isfinite(v) for v in values):
                first.setdefault(name, m["step"])
    if first:
        start = min(first.values())
        names = ", ".join(sorted(n for n, s in first.items() if s == start)[:6])
        yield Finding(
            "bad",
            "Values that are not finite",
            f"NaN or infinity from step {start} on, first in {names}.",
            "Go back to a checkpoint before that step; lower learner.learning_rate, check the models' log-probs.",
        )


def _optimizer(run: Run) -> Iterator[Finding]:
    steps, norms = series(run, "grad_norm")
    usual = ndimage.median_filter(norms, AROUND, mode="nearest") if len(norms) >= AROUND else norms
    worst = int(np.argmax(norms / np.maximum(usual, np.finfo(float).tiny))) if len(norms) else 0
    if len(norms) and norms[worst] > GRADIENT_SPIKE * usual[worst] > 0:
        yield Finding(
            "note",
            "A spike of the gradient norm",
            f"{norms[worst]:.3g} at step {steps[worst]:.0f}; the steps around have {usual[worst]:.3g} (median).",
            "learner.clip_norm limits what it does; look at the samples and the advantage's extremes of that step.",
        )


def _compilations(run: Run) -> Iterator[Finding]:
    steps, counts = series(run, "compilations")
    late = steps[1:][(np.diff(counts) > 0) & (steps[1:] > WARM_STEPS)]  # a fall is a new process
    if len(late) >= RECOMPILED_STEPS:
        yield Finding(
            "note",
            "Programs compiled during the run",
            f"At {len(late)} steps after step {WARM_STEPS}, the last at step {late[-1]:.0f}: those steps are slow.",
            "Shapes that change from step to step: keep rollout.slots and the batch fixed; resumed runs compile anew.",
        )


def _answers(run: Run, suffix: str) -> Iterator[Finding]:
    limit = run.config.get("rollout", {}).get("max_response_tokens", "?")
    if ends := _ends(series(run, f"truncated{suffix}")[1]):
        if ends[1] > TRUNCATED_MUCH or ends[1] > ends[0] + TRUNCATED_RISE:
            level: Level = "bad" if ends[1] > TRUNCATED_MUCH else "look"
            yield Finding(
                level,
                "Many answers are cut at the limit",
                f"{ends[0]:.1%} at the start, {ends[1]:.1%} at the end, at {limit} tokens.",
                "Raise rollout.max_response_tokens, or leave cut answers out of the loss "
                "(learner.truncation=mask); check that the stop tokens are those of the chat template.",
            )
    if ends := _ends(series(run, f"response_length{suffix}")[1]):
        if ends[1] > LENGTH_RATIO * ends[0]:
            yield Finding(
                "look",
                "Answers grow long",
                f"{ends[0]:.0f} tokens at the start, {ends[1]:.0f} at the end.",
                "Compare with the teacher's own length; if the score does not grow with it, lower lambda "
                "(learner.reward_scale) or learner.learning_rate.",
            )
        elif ends[1] * LENGTH_RATIO < ends[0]:
            yield Finding(
                "look",
                "Answers grow short",
                f"{ends[0]:.0f} tokens at the start, {ends[1]:.0f} at the end.",
                "Fine if the teacher answers that briefly; else read samples: answers without a derivation?",
            )
    if (ends := _ends(series(run, f"repetition_rate{suffix}")[1])) and ends[1] > REPETITION:
        yield Finding(
            "bad",
            "Answers end in a loop",
            f"{ends[1]:.1%} of them at the end, {ends[0]:.1%} at the start.",
            "Read samples below; lower lambda or the learning rate, and leave cut answers out (learner.truncation=mask).",
        )


def _distances(run: Run, suffix: str) -> Iterator[Finding]:
    steps, kl = series(run, f"reverse_kl_teacher{suffix}")
    size = series(run, f"advantage_abs{suffix}")[1]
    if len(kl) and len(size) and abs(kl[0]) < SAME_MODEL and size[0] < SAME_MODEL and steps[0] == 1:
        yield Finding(
            "bad",
            "Student and teacher are the same model",
            f"At step 1 their log-probs differ by {abs(kl[0]):.1e} nats a token, so nothing can be learned.",
            "Check domains.*.teacher: is it the folder you meant?",
        )
    if ends := _ends(kl):
        part = max(3, len(kl) // 10)
        windows = np.convolve(kl, np.ones(part) / part, "valid")
        lowest = max(float(windows.min()), 0.0)
        if ends[1] > KL_LEAST and ends[1] > KL_GROWTH * lowest:
            at = steps[int(windows.argmin())]
            yield Finding(
                "look",
                "The student moves away from its teacher",
                f"{lowest:.3g} nats a token around step {at:.0f}, {ends[1]:.3g} at the end.",
                "Some distance is meant where lambda > 1. If the held-out score does not grow with it: lower "
                "learner.learning_rate or lambda, or stop at the best checkpoint.",
            )
    if (ends := _ends(series(run, f"kl_reference{suffix}")[1])) and ends[1] > KL_REFERENCE:
        yield Finding(
            "look",
            "The student is far from the reference",
            f"{ends[1]:.3g} nats a token at the end.",
            "With lambda > 1 the reference enters the advantage: lower lambda, or take the teacher's own start as "
            "reference (config.reference).",
        )
    if (ends := _ends(series(run, f"entropy{suffix}")[1])) and ends[1] < ENTROPY_SHARE * ends[0]:
        yield Finding(
            "look",
            "Entropy collapse",
            f"{ends[0]:.3g} nats a token at the start, {ends[1]:.3g} at the end.",
            "Samples are nearly alike and carry little to learn from: lower the learning rate, or stop earlier.",
        )


def _sampler(run: Run, suffix: str) -> Iterator[Finding]:
    capped = series(run, f"importance_capped{suffix}")[1]
    if len(capped) and capped.mean() > IMPORTANCE_CAPPED:
        yield Finding(
            "bad",
            "Importance weights are capped",
            f"On {capped.mean():.1%} of the tokens, on average over the run.",
            "The sampler draws from another distribution than the one trained: check rollout.top_p, top_k, temperature, "
            "and kv_cache and weights precision.",
        )
    gap = series(run, f"sampler_gap{suffix}")[1]
    if len(gap) and gap.mean() > SAMPLER_GAP:
        yield Finding(
            "bad",
            "Sampler and learner disagree",
            f"{gap.mean():.2g} nats a token on average, for the same tokens.",
            "Compare the precision of rollout.weights and kv_cache with compute_dtype; check the stop tokens.",
        )
