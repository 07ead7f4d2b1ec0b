"""Settings that shape advantage, loss and weights of G-OPD; every one of them is off by default."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.runtime.schema import Count, NonNegative, Probability, settings

TaskRewardForm = Literal["normalised", "centred"]


@settings
class ShapingSettings:
    """What is done to the advantage and the loss of a token; see `objective.shaping`."""

    reward_scale_start: NonNegative = 1.0
    """lambda of the first step. It goes along a line to the lambda of each teacher, which it
    reaches reward_scale_steps steps later. Acts only with reward_scale_steps > 0."""
    reward_scale_steps: Count = 0
    """Steps over which lambda goes from reward_scale_start to that of the teacher; 0 has the
    teacher's from the start."""
    gate_tau: NonNegative = 0.0
    """Gates lambda per token: lambda - 1 is multiplied by exp(-(e^x - x - 1) / gate_tau), where
    x = log teacher - log student, in nats. Larger values let more tokens be extrapolated; 0
    extrapolates all (REOPD)."""
    log_ratio_clip: NonNegative = 0.0
    """Limit of |log teacher - log student| and |log reference - log student| in the advantage,
    nats. Larger values clip less; 0 clips nothing."""
    box_cox: NonNegative = 0.0
    """Exponent alpha of a bounded reward: (teacher^alpha - student^alpha) / alpha takes the place
    of log teacher - log student, and likewise for the reference. Larger values bound it more, at
    1 / alpha; 0 is the log-ratio (PowerOPD, which has 5)."""
    advantage_clip: NonNegative = 0.0
    """Limit of the |advantage| that teacher and reference give a token, nats. Larger values clip
    less; 0 clips nothing."""
    return_discount: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.0
    """Discount gamma of the advantages of later tokens of the response, which are added to that of
    a token. Larger values credit a token with more of what follows it, and add variance; 0, as in
    the paper, credits it with its own alone."""
    keep_states: Probability = 1.0
    """Share of the states of each response that are learned from: those where teacher and
    reference differ most, by the Jensen-Shannon divergence over the objective.top_k most likely
    tokens. 1 keeps all (S2D-OPD, which has 0.1)."""
    forward_kl: NonNegative = 0.0
    """Weight of KL(optimum || student), which is added to the loss of states where the teacher's
    entropy is above forward_kl_entropy. Larger values keep more variety; 0 adds nothing (EOPD,
    which has 1)."""
    forward_kl_entropy: NonNegative = 0.8
    """Entropy of the teacher, in nats, from which on forward_kl acts. Larger values mean fewer
    states."""
    kl_coefficient: NonNegative = 0.0
    """Weight of an estimate of the KL between student and reference (k3), which is added to the
    loss. Larger values keep the student nearer to the reference; 0 adds nothing."""
    kl_coefficient_end: NonNegative = 0.0
    """kl_coefficient after kl_coefficient_steps steps, to which it goes along a line. Acts only
    with kl_coefficient_steps > 0."""
    kl_coefficient_steps: Count = 0
    """Steps over which kl_coefficient goes to kl_coefficient_end; 0 leaves it as it is."""
    position_half_life: Count = 0
    """Tokens of a response after which the weight of a token is half as large. Larger values fade
    more slowly; 0 weighs all tokens alike."""
    prefix_limit: Count = 0
    """Tokens of a response that are learned from, the first ones; 0 learns from all."""
    task_reward: NonNegative = 0.0
    """Weight of the verified reward in the advantage of gopd, compared with the other samples of
    the prompt. Larger values learn more from rewards and less from the teacher; 0 does not wait
    for rewards."""
    task_reward_form: TaskRewardForm = "normalised"
    """How rewards are compared: minus the mean over the samples of the prompt (centred), divided by
    their deviation besides (normalised, as in grpo)."""
    truncation_penalty: NonNegative = 0.0
    """Subtracted from the advantage of every token of a response that was cut at the length limit,
    nats. Larger values shorten responses faster."""

    @property
    def of_advantage(self) -> tuple[str, ...]:
        """The settings that are on and act on the advantage that teacher and reference give."""
        names = ("gate_tau", "log_ratio_clip", "box_cox", "advantage_clip", "return_discount")
        return tuple(name for name in names if getattr(self, name))

    @property
    def of_states(self) -> tuple[str, ...]:
        """The settings that are on and need the whole vocabulary at each state."""
        names = ["keep_states"] if self.keep_states < 1 else []
        return tuple(names + (["forward_kl"] if self.forward_kl else []))

    @property
    def trust_region(self) -> bool:
        """Whether a KL to the reference is ever added to the loss."""
        return self.kl_coefficient > 0 or (
            self.kl_coefficient_steps > 0 and self.kl_coefficient_end > 0
        )

    @property
    def by_position(self) -> bool:
        """Whether the tokens of a response have different weights."""
        return bool(self.position_half_life or self.prefix_limit)

    def reward_scales(self, scales: Mapping[str, float], step: int) -> dict[str, float]:
        """lambda by domain in a step, the first of which is 1."""
        start, steps = self.reward_scale_start, self.reward_scale_steps
        return {name: ramp(start, end, steps, step) for name, end in scales.items()}

    def kl_at(self, step: int) -> float:
        """Weight of the KL to the reference in a step, the first of which is 1."""
        if not self.kl_coefficient_steps:
            return self.kl_coefficient
        ends = self.kl_coefficient, self.kl_coefficient_end
        return ramp(*ends, self.kl_coefficient_steps, step)

    @property
    def reference_everywhere(self) -> bool:
        """Whether the reference is read even where the lambda of the teacher is 1.

        It is then read in all steps, so that a schedule that passes through lambda = 1 changes
        neither what is scored nor what is compiled.
        """
        scheduled = self.reward_scale_steps > 0 and self.reward_scale_start != 1
        return scheduled or self.trust_region or self.keep_states < 1


def ramp(start: float, end: float, steps: int, step: int) -> float:
    """A number that goes from `start` in step 1 along a line to `end` in step 1 + `steps`.

    It stays there; with `steps` 0 it is `end` from the first step on.
    """
    left = steps - (step - 1)
    return end + (start - end) * left / steps if left > 0 else end


SHAPING = ShapingSettings()
