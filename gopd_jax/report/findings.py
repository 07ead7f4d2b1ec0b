"""What in a run deserves attention, in plain words and with advice.

In: a `Run`. Out: findings, the most serious first. Draws nothing. The "end" of a run is its last
tenth (at least 3 steps), its "start" is its first.
"""

from collections.abc import Iterator
import dataclasses
import math
from typing import Literal

import numpy as np
from scipy import ndimage

from gopd_jax.report.read import Run, number

# Each threshold is far from what the embedded runs and the paper's runs show when all is well.

# Share of truncated responses, beyond which neither the rewards nor the advantages of the last
# tokens mean much; and its rise over the run, the beginning of a length blow-up.
TRUNCATED, TRUNCATED_RISE = 0.2, 0.05

# Ratio of response lengths at the end and at the start; teachers rarely differ more from students.
LENGTH_RATIO = 2.0

REPETITION = 0.05  # share of responses that end in a loop; near 0 in healthy runs

# KL to the teacher as a multiple of its lowest; below the minimum, in nats per token, it is noise.
KL_GROWTH, KL_MINIMUM = 2.0, 0.02

KL_REFERENCE = 1.0  # nats per token: the student has left what the reference can judge

# Share of the initial entropy that is left: the samples of a prompt are nearly alike.
ENTROPY_SHARE = 0.1

# Share of tokens whose importance weight is capped: sampler and learner disagree, and the
# correction is incomplete.
IMPORTANCE_CAPPED = 0.01

SAMPLER_GAP = 0.05  # nats per token; float32 shows 1e-6, bfloat16 about 0.01

# Nats per token at the first step: rounding in bfloat16, far below any two trained models.
SAME_MODEL = 1e-3

# A multiple of the median norm of the surrounding steps; over a run the norm falls by itself.
GRADIENT_SPIKE, SURROUNDING_STEPS = 10.0, 21

# The number of slots shrinks for some steps; after the warm-up nothing should compile.
WARM_STEPS, RECOMPILED_STEPS = 10, 3

Level = Literal["bad", "look", "note"]
LEVELS = ("bad", "look", "note")

CHECKS = (
    f"truncated responses: more than {TRUNCATED:.0%} at the end, or {TRUNCATED_RISE:.0%} more than "
    "at the start",
    f"response length: {LENGTH_RATIO:g} times longer or shorter than at the start",
    f"responses that end in a loop: more than {REPETITION:.0%} at the end",
    f"KL to the teacher: {KL_GROWTH:g} times its lowest at the end; KL to the reference: above "
    f"{KL_REFERENCE:g} nats per token",
    f"entropy: less than {ENTROPY_SHARE:.0%} of that at the start",
    f"importance weights capped on more than {IMPORTANCE_CAPPED:.0%} of the tokens; sampler gap "
    f"above {SAMPLER_GAP:g} nats",
    f"student and teacher the same at the first step: within {SAME_MODEL:g} nats",
    f"gradient norm: more than {GRADIENT_SPIKE:g} times the median of the {SURROUNDING_STEPS} "
    "steps around it; values that are not finite",
    f"programs compiled at {RECOMPILED_STEPS} or more steps after step {WARM_STEPS}; an unfinished "
    "run; broken files",
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that deserves attention.

    level: "bad" (the result is in doubt), "look" (it may be intended) or "note".
    title, text: what was found.
    todo: what to do about it.
    """

    level: Level
    title: str
    text: str
    todo: str


def findings(run: Run) -> list[Finding]:
    """All findings of a run, the most serious first."""
    suffixes = ["/" + d for d in run.domains] if len(run.domains) > 1 else [""]
    found = [*_files(run), *_not_finite(run), *_gradient_norm(run), *_compilations(run)]
    for suffix in suffixes:
        where = f", {suffix[1:]}" if suffix else ""
        of_domain = [*_responses(run, suffix), *_distances(run, suffix), *_sampler(run, suffix)]
        found += [dataclasses.replace(f, title=f.title + where) for f in of_domain]
    return sorted(found, key=lambda f: LEVELS.index(f.level))


def series(run: Run, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of a metric, without steps at which it is missing or not finite."""
    pairs = [(m["step"], number(m.get(name))) for m in run.metrics]
    points = np.array([(s, v) for s, v in pairs if math.isfinite(v)]).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def _ends(values: np.ndarray) -> tuple[float, float] | None:
    """Means at the start and at the end; None for a run too short to have both."""
    part = max(3, len(values) // 10)
    if len(values) < 2 * part:
        return None
    return float(values[:part].mean()), float(values[-part:].mean())


def _files(run: Run) -> Iterator[Finding]:
    if run.problems:
        yield Finding(
            "look",
            "Files that could not be read in full",
            "; ".join(run.problems),
            "The page is made from the rest. A line cut short by a kill is dropped when the run is "
            "resumed.",
        )
    if not run.finished:
        steps = run.config.get("steps")
        of = f" of {steps}" if steps else ""
        yield Finding(
            "look",
            f"Unfinished at step {run.last_step}{of}",
            "There is no summary yet: the run is still going on or was stopped.",
            "The same training command continues from the last checkpoint.",
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
            "Go back to a checkpoint before that step; lower learner.learning_rate, and check the "
            "models' log-probs.",
        )


def _gradient_norm(run: Run) -> Iterator[Finding]:
    steps, norms = series(run, "grad_norm")
    if not len(norms):
        return
    usual = norms
    if len(norms) >= SURROUNDING_STEPS:
        usual = ndimage.median_filter(norms, SURROUNDING_STEPS, mode="nearest")
    worst = int(np.argmax(norms / np.maximum(usual, np.finfo(float).tiny)))
    if norms[worst] > GRADIENT_SPIKE * usual[worst] > 0:
        yield Finding(
            "note",
            "A spike of the gradient norm",
            f"{norms[worst]:.3g} at step {steps[worst]:.0f}; the median of the steps around it is "
            f"{usual[worst]:.3g}.",
            "learner.clip_norm limits its effect; look at the samples and at the extremes of the "
            "advantage at that step.",
        )


def _compilations(run: Run) -> Iterator[Finding]:
    steps, counts = series(run, "compilations")
    # The count falls when the run is resumed by a new process.
    late = steps[1:][(np.diff(counts) > 0) & (steps[1:] > WARM_STEPS)]
    if len(late) >= RECOMPILED_STEPS:
        yield Finding(
            "note",
            "Programs compiled during the run",
            f"At {len(late)} steps after step {WARM_STEPS}, the last at step {late[-1]:.0f}: those "
            "steps are slow.",
            "Shapes change from step to step: keep rollout.slots and the batch size fixed. A "
            "resumed run compiles its programs again.",
        )


def _responses(run: Run, suffix: str) -> Iterator[Finding]:
    limit = run.config.get("rollout", {}).get("max_response_tokens", "?")
    if ends := _ends(series(run, f"truncated{suffix}")[1]):
        start, end = ends
        if end > TRUNCATED or end > start + TRUNCATED_RISE:
            yield Finding(
                "bad" if end > TRUNCATED else "look",
                "Many responses are truncated",
                f"{start:.1%} at the start, {end:.1%} at the end, at {limit} tokens.",
                "Raise rollout.max_response_tokens, or leave truncated responses out of the loss "
                "(learner.truncation=mask); check that the stop tokens are those of the chat "
                "template.",
            )
    if ends := _ends(series(run, f"response_length{suffix}")[1]):
        start, end = ends
        lengths = f"{start:.0f} tokens at the start, {end:.0f} at the end."
        if end > LENGTH_RATIO * start:
            yield Finding(
                "look",
                "Responses grow long",
                lengths,
                "Compare with the teacher's own length; if the score does not grow too, lower "
                "lambda (learner.reward_scale) or learner.learning_rate.",
            )
        elif end * LENGTH_RATIO < start:
            yield Finding(
                "look",
                "Responses grow short",
                lengths,
                "This is fine if the teacher is as brief; otherwise read samples and look for "
                "answers without a derivation.",
            )
    ends = _ends(series(run, f"repetition_rate{suffix}")[1])
    if ends and ends[1] > REPETITION:
        yield Finding(
            "bad",
            "Responses end in a loop",
            f"{ends[1]:.1%} of them at the end, {ends[0]:.1%} at the start.",
            "Read the samples below; lower lambda or the learning rate, and leave truncated "
            "responses out of the loss (learner.truncation=mask).",
        )


def _distances(run: Run, suffix: str) -> Iterator[Finding]:
    yield from _distance_to_teacher(run, suffix)
    ends = _ends(series(run, f"kl_reference{suffix}")[1])
    if ends and ends[1] > KL_REFERENCE:
        yield Finding(
            "look",
            "The student is far from the reference",
            f"{ends[1]:.3g} nats per token at the end.",
            "With lambda > 1 the reference enters the advantage: lower lambda, or use the "
            "teacher's own start as the reference (config.reference).",
        )
    ends = _ends(series(run, f"entropy{suffix}")[1])
    if ends and ends[1] < ENTROPY_SHARE * ends[0]:
        yield Finding(
            "look",
            "Entropy collapse",
            f"{ends[0]:.3g} nats per token at the start, {ends[1]:.3g} at the end.",
            "Samples are nearly alike and carry little to learn from: lower the learning rate, or "
            "stop earlier.",
        )


def _distance_to_teacher(run: Run, suffix: str) -> Iterator[Finding]:
    steps, kl = series(run, f"reverse_kl_teacher{suffix}")
    size = series(run, f"advantage_abs{suffix}")[1]
    if len(kl) and len(size) and abs(kl[0]) < SAME_MODEL and size[0] < SAME_MODEL and steps[0] == 1:
        yield Finding(
            "bad",
            "Student and teacher are the same model",
            f"At step 1 their log-probs differ by {abs(kl[0]):.1e} nats per token, so that there "
            "is nothing to learn.",
            "Check domains.*.teacher: is it the folder you meant?",
        )
    if ends := _ends(kl):
        part = max(3, len(kl) // 10)
        windows = np.convolve(kl, np.ones(part) / part, "valid")
        lowest = max(float(windows.min()), 0.0)
        if ends[1] > KL_MINIMUM and ends[1] > KL_GROWTH * lowest:
            at = steps[int(windows.argmin())]
            yield Finding(
                "look",
                "The student moves away from its teacher",
                f"{lowest:.3g} nats per token around step {at:.0f}, {ends[1]:.3g} at the end.",
                "Some distance is intended where lambda > 1. If the held-out score does not grow "
                "with it, lower learner.learning_rate or lambda, or stop at the best checkpoint.",
            )


def _sampler(run: Run, suffix: str) -> Iterator[Finding]:
    capped = series(run, f"importance_capped{suffix}")[1]
    if len(capped) and capped.mean() > IMPORTANCE_CAPPED:
        yield Finding(
            "bad",
            "Importance weights are capped",
            f"On {capped.mean():.1%} of the tokens, on average over the run.",
            "The sampler draws from a distribution other than the one trained: check "
            "rollout.top_p, top_k and temperature, and the precision of rollout.kv_cache and "
            "rollout.weights.",
        )
    gap = series(run, f"sampler_gap{suffix}")[1]
    if len(gap) and gap.mean() > SAMPLER_GAP:
        yield Finding(
            "bad",
            "Sampler and learner disagree",
            f"{gap.mean():.2g} nats per token on average, for the same tokens.",
            "Compare the precision of rollout.weights and rollout.kv_cache with compute_dtype; "
            "check the stop tokens.",
        )
