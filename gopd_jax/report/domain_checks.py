"""What is checked in each domain of a run: responses, distances between models, the sampler.

In: a `Run` and the suffix of a domain's metrics, such as "/math". Out: checks.
"""

from collections.abc import Iterator

import numpy as np

from gopd_jax.report.checks import (
    Check,
    Finding,
    checked,
    end_of,
    ends_of,
    over_all,
    part_of,
    series,
    too_short,
)
from gopd_jax.report.read import Run

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


def of_domain(run: Run, suffix: str) -> Iterator[Check]:
    """All checks of a domain."""
    yield from truncated(run, suffix)
    yield length(run, suffix)
    yield loops(run, suffix)
    yield same_model(run, suffix)
    yield distance_to_teacher(run, suffix)
    yield distance_to_reference(run, suffix)
    yield entropy(run, suffix)
    yield from sampler(run, suffix)


# ---- Responses.


def truncated(run: Run, suffix: str) -> Iterator[Check]:
    level = f"truncated responses: more than {TRUNCATED:.0%} at the end"
    rise = f"truncated responses: {TRUNCATED_RISE:.0%} more at the end than at the start"
    values = series(run, f"truncated{suffix}")[1]
    if not len(values):
        yield from (too_short(rule, values) for rule in (level, rise))
        return
    limit = run.config.get("rollout", {}).get("max_response_tokens", "?")
    ends, end = ends_of(values), end_of(values)
    saw = f"{ends[0]:.1%} at the start, {end:.1%} at the end" if ends else over_all(values, ".1%")
    many = end > TRUNCATED
    grows = ends is not None and end > ends[0] + TRUNCATED_RISE
    finding = Finding(
        "bad" if many else "look",
        "Many responses are truncated",
        f"{saw}, at {limit} tokens.",
        "Raise rollout.max_response_tokens, or leave truncated responses out of the loss "
        "(learner.truncation=mask); check that the stop tokens are those of the chat template.",
    )
    yield checked(level, saw, finding if many else None)
    if ends is None:
        yield too_short(rise, values)
    else:
        said_already = None if many else finding
        yield Check(rise, "found" if grows else "passed", saw, said_already if grows else None)


def length(run: Run, suffix: str) -> Check:
    rule = f"response length: {LENGTH_RATIO:g} times longer or shorter than at the start"
    values = series(run, f"response_length{suffix}")[1]
    if not (ends := ends_of(values)):
        return too_short(rule, values)
    start, end = ends
    saw, finding = f"{start:.0f} tokens at the start, {end:.0f} at the end", None
    if end > LENGTH_RATIO * start:
        finding = Finding(
            "look",
            "Responses grow long",
            f"{saw}.",
            "Compare with the teacher's own length; if the score does not grow too, lower lambda "
            "(learner.reward_scale) or learner.learning_rate.",
        )
    elif end * LENGTH_RATIO < start:
        finding = Finding(
            "look",
            "Responses grow short",
            f"{saw}.",
            "This is fine if the teacher is as brief; otherwise read samples and look for answers "
            "without a derivation.",
        )
    return checked(rule, saw, finding)


def loops(run: Run, suffix: str) -> Check:
    rule = f"responses that end in a loop: more than {REPETITION:.0%} at the end"
    values = series(run, f"repetition_rate{suffix}")[1]
    if not len(values):
        return too_short(rule, values)
    ends, end = ends_of(values), end_of(values)
    saw = f"{end:.1%} at the end, {ends[0]:.1%} at the start" if ends else over_all(values, ".1%")
    finding = Finding(
        "bad",
        "Responses end in a loop",
        f"{saw}.",
        "Read the samples below; lower lambda or the learning rate, and leave truncated responses "
        "out of the loss (learner.truncation=mask).",
    )
    return checked(rule, saw, finding if end > REPETITION else None)


# ---- Distances.


def same_model(run: Run, suffix: str) -> Check:
    rule = f"student and teacher within {SAME_MODEL:g} nats per token at step 1"
    steps, kl = series(run, f"reverse_kl_teacher{suffix}")
    size = series(run, f"advantage_abs{suffix}")[1]
    if not len(kl) or not len(size):
        return too_short(rule, kl[:0])
    if steps[0] != 1:
        return Check(rule, "not checked", "step 1 was not recorded")
    finding = None
    if abs(kl[0]) < SAME_MODEL and size[0] < SAME_MODEL:
        finding = Finding(
            "bad",
            "Student and teacher are the same model",
            f"At step 1 their log-probs differ by {abs(kl[0]):.1e} nats per token, so that there "
            "is nothing to learn.",
            "Check domains.*.teacher: is it the folder you meant?",
        )
    return checked(rule, f"{abs(kl[0]):.2g} nats per token apart", finding)


def distance_to_teacher(run: Run, suffix: str) -> Check:
    rule = f"KL to the teacher: {KL_GROWTH:g} times its lowest at the end, and above {KL_MINIMUM:g}"
    steps, kl = series(run, f"reverse_kl_teacher{suffix}")
    if not (ends := ends_of(kl)):
        return too_short(rule, kl)
    part = part_of(kl)
    windows = np.convolve(kl, np.ones(part) / part, "valid")
    lowest, at = max(float(windows.min()), 0.0), steps[int(windows.argmin())]
    saw = f"{lowest:.3g} nats per token around step {at:.0f}, {ends[1]:.3g} at the end"
    finding = Finding(
        "look",
        "The student moves away from its teacher",
        f"{saw}.",
        "Some distance is intended where lambda > 1. If the held-out score does not grow with it, "
        "lower learner.learning_rate or lambda, or stop at the best checkpoint.",
    )
    grows = ends[1] > KL_MINIMUM and ends[1] > KL_GROWTH * lowest
    return checked(rule, saw, finding if grows else None)


def distance_to_reference(run: Run, suffix: str) -> Check:
    rule = f"KL to the reference: above {KL_REFERENCE:g} nats per token at the end"
    values = series(run, f"kl_reference{suffix}")[1]
    if not len(values):
        return too_short(rule, values)
    end = end_of(values)
    saw = f"{end:.3g} nats per token at the end"
    finding = Finding(
        "look",
        "The student is far from the reference",
        f"{saw}.",
        "With lambda > 1 the reference enters the advantage: lower lambda, or use the teacher's "
        "own start as the reference (config.reference).",
    )
    return checked(rule, saw, finding if end > KL_REFERENCE else None)


def entropy(run: Run, suffix: str) -> Check:
    rule = f"entropy: less than {ENTROPY_SHARE:.0%} of that at the start"
    values = series(run, f"entropy{suffix}")[1]
    if not (ends := ends_of(values)):
        return too_short(rule, values)
    saw = f"{ends[0]:.3g} nats per token at the start, {ends[1]:.3g} at the end"
    finding = Finding(
        "look",
        "Entropy collapse",
        f"{saw}.",
        "Samples are nearly alike and carry little to learn from: lower the learning rate, or stop "
        "earlier.",
    )
    return checked(rule, saw, finding if ends[1] < ENTROPY_SHARE * ends[0] else None)


def sampler(run: Run, suffix: str) -> Iterator[Check]:
    capped = series(run, f"importance_capped{suffix}")[1]
    rule = f"importance weights capped on more than {IMPORTANCE_CAPPED:.0%} of the tokens"
    if not len(capped):
        yield too_short(rule, capped)
    else:
        saw = f"on {capped.mean():.1%} of the tokens, on average over the run"
        finding = Finding(
            "bad",
            "Importance weights are capped",
            f"{saw[0].upper()}{saw[1:]}.",
            "The sampler draws from a distribution other than the one trained: check "
            "rollout.top_p, top_k and temperature, and the precision of rollout.kv_cache and "
            "rollout.weights.",
        )
        yield checked(rule, saw, finding if capped.mean() > IMPORTANCE_CAPPED else None)
    gap = series(run, f"sampler_gap{suffix}")[1]
    rule = f"sampler gap: above {SAMPLER_GAP:g} nats per token"
    if not len(gap):
        yield too_short(rule, gap)
    else:
        saw = f"{gap.mean():.2g} nats per token on average"
        finding = Finding(
            "bad",
            "Sampler and learner disagree",
            f"{saw}, for the same tokens.",
            "Compare the precision of rollout.weights and rollout.kv_cache with compute_dtype; "
            "check the stop tokens.",
        )
        yield checked(rule, saw, finding if gap.mean() > SAMPLER_GAP else None)
