"""Whether a run still learns: what it gains with more responses, and how noisy its gradient is.

In: a `Run`. Out: checks.
"""

import numpy as np
from scipy import stats

from gopd_jax.report.checks import (
    Check,
    Finding,
    checked,
    end_of,
    ends_of,
    part_of,
    series,
    too_short,
)
from gopd_jax.report.read import Run

# The trend is that of the last third, and of so many steps at least.
TREND_PART, TREND_STEPS = 3, 10

STEP_OF_PROGRESS = 0.1  # nats per token: what a run is asked to gain next
LEAST_CHANGE = 0.01  # nats per token in as many steps again, below which nothing is learned

# Share of the squared gradient norm: the direction is decided by which samples were drawn.
NOISE = 0.95


def progress(run: Run, suffix: str) -> Check:
    """The trend of the objective, and the responses that the next tenth of a nat takes.

        J = mean(lambda (log teacher - log reference) - (log student - log reference))
          = (lambda - 1) KL(student, reference) - lambda KL(student, teacher)

    J is the mean advantage before any shaping, in nats per token of the student's own samples. Its
    trend is a straight line through the last third of the run, over the sum of the learning rates,
    so that a schedule that ends at 0 is not taken for a goal that is reached.
    """
    rule = f"signal: J changes by less than {LEAST_CHANGE:g} nats per token in as many steps again"
    steps, gains = _objective(run, suffix)
    last = len(steps) // TREND_PART
    if last < TREND_STEPS:
        return too_short(rule, steps, TREND_PART * TREND_STEPS)
    learned = _learned(run, steps)
    if np.ptp(learned[-last:]) == 0:
        return Check(rule, "not checked", "the learning rate was 0")
    line = stats.linregress(learned[-last:], gains[-last:])
    margin = float(stats.t.ppf(0.975, last - 2) * line.stderr)
    low, high = line.slope - margin, line.slope + margin  # of an average step
    rollout = run.config.get("rollout", {})
    responses = rollout.get("prompts_per_step", 0) * rollout.get("samples_per_prompt", 0)
    if low > 0 and responses:
        needed = (_rounded(STEP_OF_PROGRESS * responses / x) for x in (line.slope, high, low))
        saw = (
            f"{STEP_OF_PROGRESS:g} nats per token more take about {next(needed)} responses at this "
            f"rate ({' to '.join(needed)})"
        )
    else:
        saw = (
            f"in 100 steps J changes by {100 * line.slope:+.2g} "
            f"[{100 * low:+.2g}, {100 * high:+.2g}] nats per token"
        )
    if (left := _left(run, suffix, gains)) is not None:
        saw += f"; {max(left, 0.0):.2g} are left to the optimum"
    finding = Finding(
        "note",
        "No signal left",
        f"{saw}; J is the mean advantage before any shaping.",
        "Stop here, or give it something new: other prompts, a larger lambda "
        "(learner.reward_scale), another teacher.",
    )
    flat = max(abs(low), abs(high)) * len(steps) < LEAST_CHANGE
    return checked(rule, saw, finding if flat else None)


def _rounded(number: float) -> str:
    """A number to two digits, with commas."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _objective(run: Run, suffix: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and J; empty where it is not recorded, as for methods without teachers."""
    scale = run.reward_scale(suffix.removeprefix("/") or next(iter(run.domains), ""))
    steps, to_teacher = series(run, f"reverse_kl_teacher{suffix}")
    if scale is None or not len(steps):
        return steps[:0], steps[:0]
    if scale == 1:
        return steps, -to_teacher
    also, to_reference = series(run, f"kl_reference{suffix}")
    steps, of_teacher, of_reference = np.intersect1d(steps, also, return_indices=True)
    return steps, (scale - 1) * to_reference[of_reference] - scale * to_teacher[of_teacher]


def _learned(run: Run, steps: np.ndarray) -> np.ndarray:
    """The sum of the learning rates up to each step, in average steps."""
    at, rates = series(run, "learning_rate")
    if not len(at):
        return steps
    mean = rates.mean()
    total = np.cumsum(rates) / (mean if mean > 0 else 1.0)
    return np.interp(steps, at, total)


def _left(run: Run, suffix: str, gains: np.ndarray) -> float | None:
    """How far J is from its optimum at the end: from mean log Z, which is 0 where lambda is 1."""
    if run.reward_scale(suffix.removeprefix("/") or next(iter(run.domains), "")) == 1:
        return -end_of(gains)
    log_z = series(run, f"log_z{suffix}")[1]
    return end_of(log_z) - end_of(gains) if len(log_z) else None


def noise(run: Run) -> Check:
    """How much of the gradient is noise, beside the spread of the advantages."""
    rule = f"gradient noise: more than {NOISE:.0%} of the squared gradient norm at the end"
    steps, shares = series(run, "grad_noise")
    at, norms = series(run, "grad_norm")
    _, of_share, of_norm = np.intersect1d(steps, at, return_indices=True)
    squares = norms[of_norm] ** 2
    random = shares[of_share] * squares
    if ends_of(random) is None:
        return too_short(rule, random)
    part = part_of(random)
    # What is estimated is a share, and the estimate may leave [0, 1].
    start, end = (
        float(np.clip(random[some].sum() / squares[some].sum(), 0.0, 1.0))
        for some in (slice(part), slice(-part, None))
    )
    distils, spread = run.config.get("method") == "gopd", series(run, "advantage_std")[1]
    beside = f"; advantages spread by {end_of(spread):.2g} nats" if distils and len(spread) else ""
    other = ", use an estimator with less variance (objective.estimator=full)" if distils else ""
    saw = f"{start:.0%} at the start, {end:.0%} at the end{beside}"
    finding = Finding(
        "note",
        "The gradient is noise",
        f"Of its squared norm, {saw}.",
        f"Draw more prompts in a step (rollout.prompts_per_step){other}, or stop if the score has "
        "stopped rising.",
    )
    return checked(rule, saw, finding if end > NOISE else None)
