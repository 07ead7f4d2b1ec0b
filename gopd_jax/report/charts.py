"""Which charts the page has: the metrics that they draw, with titles, units and a line on each.

Plain declarations; `numbers` takes the values from a run, web/curves.js draws them.
"""

import dataclasses

from gopd_jax.objective.diagnostics import POSITION_BINS


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves by step of one metric of metrics.jsonl.

    group: the heading that the chart stands under.
    key: the metric; empty for an area between two others, `low` and `high`.
    title, unit, about: texts of the chart.
    half: the metric that holds the half width of its 95% interval.
    percent: whether the metric is a share, drawn in percent.
    by_slice: whether each domain has its own.
    robust: whether a few distant points, such as steps that compile, may fall outside the scale.
    """

    group: str
    key: str
    title: str
    unit: str
    about: str
    half: str = ""
    low: str = ""
    high: str = ""
    percent: bool = False
    by_slice: bool = True
    robust: bool = False

    @property
    def keys(self) -> list[str]:
        return [k for k in (self.key, self.half, self.low, self.high) if k]


CHARTS = (
    Chart(
        "Responses",
        "reward",
        "Reward of the step's samples",
        "%",
        "95% interval by prompt. G-OPD does not learn from it.",
        half="reward_half_width",
        percent=True,
    ),
    Chart(
        "Responses",
        "response_length",
        "Response length",
        "tokens",
        "Mean. Doubling without a better score is a blow-up.",
    ),
    Chart(
        "Responses", "truncated", "Truncated", "%", "Share cut at the length limit.", percent=True
    ),
    Chart(
        "Responses",
        "repetition_rate",
        "Ending in a loop",
        "%",
        "Share whose last tokens repeat one n-gram.",
        percent=True,
    ),
    Chart(
        "Distances",
        "reverse_kl_teacher",
        "KL to the teacher",
        "nats per token",
        "Falls while the student learns; with lambda above 1 it ends above 0.",
    ),
    Chart(
        "Distances",
        "kl_reference",
        "KL to the reference",
        "nats per token",
        "How far the student has moved from the reference.",
    ),
    Chart(
        "Distances",
        "entropy",
        "Entropy",
        "nats per token",
        "Towards 0 the samples of a prompt become alike.",
    ),
    Chart(
        "Advantage",
        "advantage_mean",
        "Mean advantage",
        "nats",
        "Goes to 0 at lambda = 1, to a positive constant above.",
    ),
    Chart(
        "Advantage",
        "advantage_abs",
        "Mean size of the advantage",
        "nats",
        "The strength of the signal.",
    ),
    Chart(
        "Advantage",
        "advantage_positive",
        "Share positive",
        "%",
        "Tokens that the update makes more likely.",
        percent=True,
    ),
    Chart(
        "Advantage",
        "",
        "Extremes of the advantage",
        "nats",
        "Lowest to highest of the step: a few tokens can dominate a gradient.",
        low="advantage_min",
        high="advantage_max",
    ),
    Chart(
        "Sampler against learner",
        "sampler_gap",
        "Sampler gap",
        "nats per token",
        "Mean |log student - log behaviour|; should be 0.",
    ),
    Chart(
        "Sampler against learner",
        "importance_mean",
        "Importance weight, mean",
        "",
        "1 where sampler and learner agree.",
    ),
    Chart(
        "Sampler against learner",
        "",
        "Importance weight, extremes",
        "",
        "Lowest to highest of the step.",
        low="importance_min",
        high="importance_max",
    ),
    Chart(
        "Sampler against learner",
        "importance_capped",
        "Importance weight, capped",
        "%",
        "Share of tokens at the cap.",
        percent=True,
    ),
    Chart(
        "Optimizer",
        "grad_norm",
        "Gradient norm",
        "",
        "Before clipping.",
        by_slice=False,
        robust=True,
    ),
    Chart("Optimizer", "learning_rate", "Learning rate", "", "", by_slice=False),
    Chart(
        "Optimizer",
        "clip_fraction",
        "Clipped by PPO",
        "%",
        "0 where each batch of rollouts has one update.",
        percent=True,
    ),
    Chart(
        "Speed",
        "tokens_per_second",
        "Response tokens per second",
        "tokens/s",
        "Of the whole step; the first steps compile.",
        by_slice=False,
    ),
    Chart("Speed", "seconds", "Seconds per step", "s", "", by_slice=False, robust=True),
    Chart(
        "Speed",
        "seconds_rollout",
        "Seconds of rollout",
        "s",
        "Drawing the samples.",
        by_slice=False,
        robust=True,
    ),
    Chart(
        "Speed",
        "seconds_score",
        "Seconds of scoring",
        "s",
        "Teacher and reference log-probs.",
        by_slice=False,
        robust=True,
    ),
    Chart(
        "Speed",
        "seconds_update",
        "Seconds of update",
        "s",
        "Gradients and optimizer.",
        by_slice=False,
        robust=True,
    ),
)


@dataclasses.dataclass(frozen=True)
class PositionChart:
    """Curves of one metric over bins of the token's position in its response."""

    key: str
    title: str
    unit: str


POSITION_CHARTS = (
    PositionChart("advantage_mean_by_position", "Mean advantage", "nats"),
    PositionChart("advantage_abs_by_position", "Mean size of the advantage", "nats"),
    PositionChart("reverse_kl_teacher_by_position", "KL to the teacher", "nats per token"),
    PositionChart("tokens_by_position", "Tokens per step", "tokens"),
)

# Bin b holds the positions from 2^b to 2^(b+1) - 1; the first also holds 0, the last all above.
BIN_LABELS = (
    "0-1",
    *(f"{2**b:,}-{2 ** (b + 1) - 1:,}" for b in range(1, POSITION_BINS - 1)),
    f"{2 ** (POSITION_BINS - 1):,}+",
)
