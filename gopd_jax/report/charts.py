"""Which charts the page has: the metrics that they draw, with titles, units and a line on each.

Plain declarations; `numbers` takes the values from a run, web/curves.js draws them. The scale of a
chart follows from the kind of its metric: no axis is drawn so narrow that noise fills it.
"""

import dataclasses
from typing import Literal

from gopd_jax.objective.diagnostics import POSITION_BINS

Kind = Literal["share", "kl", "nats", "signed", "gap", "weight", "tokens", "positive"]


@dataclasses.dataclass(frozen=True)
class Scale:
    """What the axis of a kind of metric shows at least, and at most.

    span: its least width, in the unit of the chart. It is also at least a tenth of the largest
        value.
    zero: whether 0 is always on it; otherwise it is where the values reach down to half of their
        highest.
    lowest, highest: what it never exceeds.
    """

    span: float = 0.0
    zero: bool = False
    lowest: float | None = None
    highest: float | None = None


SCALES: dict[Kind, Scale] = {
    "share": Scale(span=5, lowest=0, highest=100),  # percent
    "kl": Scale(span=0.005, zero=True),
    "nats": Scale(span=0.02, lowest=0),
    "signed": Scale(span=0.01, zero=True),
    "gap": Scale(span=0.002, zero=True, lowest=0),  # float32 shows 1e-6, bfloat16 about 0.01
    "weight": Scale(span=0.02, lowest=0),
    "tokens": Scale(span=2, lowest=0),
    "positive": Scale(zero=True, lowest=0),
}


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves by step of one metric of metrics.jsonl.

    group: the heading that the chart stands under.
    key: the metric; empty for an area between two others, `low` and `high`.
    title, unit, about: texts of the chart.
    kind: of the metric; a share is drawn in percent.
    low, high: the metrics that hold the ends of its 95% interval, or of the area.
    by_slice: whether each domain has its own.
    robust: whether a few distant points, such as steps that compile, may fall outside the scale.
    """

    group: str
    key: str
    title: str
    unit: str
    about: str
    kind: Kind
    low: str = ""
    high: str = ""
    by_slice: bool = True
    robust: bool = False

    @property
    def keys(self) -> list[str]:
        return [k for k in (self.key, self.low, self.high) if k]


CHARTS = (
    Chart(
        "Responses",
        "reward",
        "Reward of the step's samples",
        "%",
        "95% interval by prompt. G-OPD does not learn from it.",
        "share",
        low="reward_low",
        high="reward_high",
    ),
    Chart(
        "Responses",
        "response_length",
        "Response length",
        "tokens",
        "Mean. Doubling without a better score is a blow-up.",
        "tokens",
    ),
    Chart("Responses", "truncated", "Truncated", "%", "Share cut at the length limit.", "share"),
    Chart(
        "Responses",
        "repetition_rate",
        "Ending in a loop",
        "%",
        "Share whose last tokens repeat one n-gram.",
        "share",
    ),
    Chart(
        "Distances",
        "reverse_kl_teacher",
        "KL to the teacher",
        "nats per token",
        "Falls while the student learns; with lambda above 1 it ends above 0.",
        "kl",
    ),
    Chart(
        "Distances",
        "kl_reference",
        "KL to the reference",
        "nats per token",
        "How far the student has moved from the reference.",
        "kl",
    ),
    Chart(
        "Distances",
        "entropy",
        "Entropy",
        "nats per token",
        "Towards 0 the samples of a prompt become alike.",
        "nats",
    ),
    Chart(
        "Advantage",
        "advantage_mean",
        "Mean advantage",
        "nats",
        "Goes to 0 at lambda = 1, to a positive constant above.",
        "signed",
    ),
    Chart(
        "Advantage",
        "advantage_abs",
        "Mean size of the advantage",
        "nats",
        "The strength of the signal.",
        "nats",
    ),
    Chart(
        "Advantage",
        "advantage_positive",
        "Share positive",
        "%",
        "Tokens that the update makes more likely.",
        "share",
    ),
    Chart(
        "Advantage",
        "",
        "Extremes of the advantage",
        "nats",
        "Lowest to highest of the step: a few tokens can dominate a gradient.",
        "signed",
        low="advantage_min",
        high="advantage_max",
    ),
    Chart(
        "Sampler against learner",
        "sampler_gap",
        "Sampler gap",
        "nats per token",
        "Mean |log student - log behaviour|; should be 0.",
        "gap",
    ),
    Chart(
        "Sampler against learner",
        "importance_mean",
        "Importance weight, mean",
        "",
        "1 where sampler and learner agree.",
        "weight",
    ),
    Chart(
        "Sampler against learner",
        "",
        "Importance weight, extremes",
        "",
        "Lowest to highest of the step.",
        "weight",
        low="importance_min",
        high="importance_max",
    ),
    Chart(
        "Sampler against learner",
        "importance_capped",
        "Importance weight, capped",
        "%",
        "Share of tokens at the cap.",
        "share",
    ),
    Chart(
        "Optimizer",
        "grad_norm",
        "Gradient norm",
        "",
        "Before clipping.",
        "positive",
        by_slice=False,
        robust=True,
    ),
    Chart("Optimizer", "learning_rate", "Learning rate", "", "", "positive", by_slice=False),
    Chart(
        "Optimizer",
        "clip_fraction",
        "Clipped by PPO",
        "%",
        "0 where each batch of rollouts has one update.",
        "share",
    ),
    Chart(
        "Speed",
        "tokens_per_second",
        "Response tokens per second",
        "tokens/s",
        "Of the whole step; the first steps compile.",
        "positive",
        by_slice=False,
    ),
    Chart(
        "Speed",
        "seconds",
        "Seconds per step",
        "s",
        "With the checkpoint and the evaluation before it.",
        "positive",
        by_slice=False,
        robust=True,
    ),
    *(
        Chart("Speed", key, title, "s", about, "positive", by_slice=False, robust=True)
        for key, title, about in (
            ("seconds_rollout", "Seconds of rollout", "Drawing the samples."),
            ("seconds_score", "Seconds of scoring", "Teacher and reference log-probs."),
            ("seconds_update", "Seconds of update", "Gradients and optimizer."),
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class HeldOutChart:
    """A curve over the evaluations of a domain, besides its score: a field of evaluations.jsonl."""

    key: str
    title: str
    unit: str
    about: str
    kind: Kind


HELD_OUT_CHARTS = (
    HeldOutChart(
        "kl",
        "Held-out KL to the teacher",
        "nats per token",
        "On the student's samples, with 95% interval by prompt.",
        "kl",
    ),
    HeldOutChart(
        "top1_overlap",
        "Held-out overlap",
        "%",
        "Share of tokens at which student and teacher prefer the same one.",
        "share",
    ),
    HeldOutChart(
        "entropy", "Held-out entropy", "nats per token", "Of the student, on its samples.", "nats"
    ),
    HeldOutChart("mean_tokens", "Held-out response length", "tokens", "Mean.", "tokens"),
    HeldOutChart("truncated", "Held-out truncated", "%", "Share cut at the length limit.", "share"),
)


@dataclasses.dataclass(frozen=True)
class PositionChart:
    """Curves of one metric over bins of the token's position in its response."""

    key: str
    title: str
    unit: str
    kind: Kind


POSITION_CHARTS = (
    PositionChart("advantage_mean_by_position", "Mean advantage", "nats", "signed"),
    PositionChart("advantage_abs_by_position", "Mean size of the advantage", "nats", "nats"),
    PositionChart("reverse_kl_teacher_by_position", "KL to the teacher", "nats per token", "kl"),
    PositionChart("tokens_by_position", "Tokens per step", "tokens", "positive"),
)

# Bin b holds the positions from 2^b to 2^(b+1) - 1; the first also holds 0, the last all above.
BIN_LABELS = (
    "0-1",
    *(f"{2**b:,}-{2 ** (b + 1) - 1:,}" for b in range(1, POSITION_BINS - 1)),
    f"{2 ** (POSITION_BINS - 1):,}+",
)
