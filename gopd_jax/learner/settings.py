"""Settings of the update: objective, optimizer, packing."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.models.settings import Remat
from gopd_jax.objective.settings import Clipping, Weighting
from gopd_jax.runtime.schema import (
    Count,
    NonNegative,
    Positive,
    PositiveCount,
    part_of,
    settings,
)

Method = Literal["gopd", "grpo", "sft"]
Control = Literal["none", "constant", "permuted_tokens", "permuted_answers", "random_teacher"]
Schedule = Literal["constant", "cosine", "linear"]


Decay = Annotated[float, Strict(), Field(ge=0, lt=1)]


@settings
class OptimizerSettings:
    """AdamW and its learning-rate schedule. The defaults are those of the paper."""

    learning_rate: NonNegative = 1e-5
    """Peak learning rate of AdamW. Larger values change the student faster and less stably."""
    schedule: Schedule = "constant"
    """Learning rate after the warm-up: constant, or falling to 0 at the last step along a cosine
    or a line."""
    warmup_steps: Count = 0
    """Updates over which the learning rate rises linearly from 0 to its peak."""
    b1: Decay = 0.9
    """Decay of AdamW's mean of gradients. Larger values average over more updates."""
    b2: Decay = 0.999
    """Decay of AdamW's mean of squared gradients. Larger values average over more updates."""
    eps: Positive = 1e-8
    """Added to the denominator of AdamW's step. Larger values shorten the steps of parameters
    with small gradients."""
    weight_decay: NonNegative = 0.01
    """AdamW's weight decay, on every parameter. Larger values pull harder towards 0."""
    clip_norm: NonNegative = 1.0
    """Gradients are scaled down to this global norm; 0 switches clipping off."""


@settings
class PackingSettings:
    """The fixed shape that the responses of a step are packed into."""

    row_length: Count = 0
    """Tokens in a packed row; 0 takes 1,024, or 2,048 if samples share prompts and
    rows_per_micro_batch is 0, or prompt limit + response limit if that is more. Longer rows pack
    more densely and need more memory. What is left over in the end goes into rows of a quarter of
    this length."""
    rows_per_micro_batch: Count = 0
    """Packed rows in one forward and backward pass; 0 takes those that hold 2,048 tokens on each
    device. Larger values need more memory for activations; the result does not depend on it."""
    score_early: bool = True
    """Teachers and reference score finished responses while others are still drawn. false waits
    for all of them, which needs less memory: cache and activations are not in use together."""
    share_prompts: bool = True
    """Samples of one prompt that stand in the same row compute it once, where that pays. Longer
    rows hold more of them. false packs every sample with a prompt of its own."""
    attention: Literal["auto", "xla", "pallas_tpu", "pallas_gpu"] = "auto"
    """Attention kernel of scoring and updates. --verbose tells which one "auto" chose, and why."""
    remat: Remat = "attention"
    """What the backward pass computes again to save memory: "none" keeps all activations, "block"
    keeps the input of each layer alone, and "attention" the output of attention besides. "offload"
    is "block" with these inputs in the memory of the host, on accelerators."""


@settings
class ParkingSettings:
    """What waits in the memory of the host while it is not used. No number depends on it."""

    park_frozen: bool = False
    """Teachers and reference wait in the memory of the host. They come back to the devices one at
    a time, those that the responses need, which takes seconds and saves the memory of all but
    one."""
    park_optimizer: bool = False
    """The moments of AdamW wait in the memory of the host, and are on the devices only while the
    parameters change. It saves 8 bytes per parameter, and each update takes longer."""


@settings
class ControlSettings:
    """A run without the teacher's knowledge, to compare one of method gopd with."""

    kind: Control = "none"
    """constant: every token has one advantage. permuted_tokens: the teacher's advantages are dealt
    out anew to the tokens. permuted_answers: each answer has those of another answer.
    random_teacher: a teacher as far from the student's start as the real one, in a random
    direction. All else stays as it is."""
    advantage: Annotated[float, Strict(), Field(allow_inf_nan=False)] = -0.1
    """The advantage of every token with control constant, in nats."""

    @property
    def of_advantages(self) -> bool:
        """Whether advantages take the place of what teacher and reference say."""
        return self.kind not in ("none", "random_teacher")


@settings
class SelfTeacherSettings:
    """A teacher that follows the student, where every teacher is the student's own start."""

    follow: Literal["none", "average", "refresh"] = "none"
    """none: the teachers stay as they are. average: after each update the teacher moves towards the
    student, an exponential moving average. refresh: it becomes the student every so many updates.
    Such a teacher can collapse with its student: watch entropy and the held-out score."""
    decay: Decay = 0.99
    """What the average keeps of the teacher at each update. Smaller values follow faster."""
    every: PositiveCount = 10
    """Updates between two refreshes."""

    @property
    def follows(self) -> bool:
        return self.follow != "none"


@settings
class LearnerSettings(Clipping, Weighting, OptimizerSettings, PackingSettings, ParkingSettings):
    """How the student is updated from the responses of a step."""

    reward_scale: NonNegative = 1.25
    """lambda: scale of the teacher's implicit reward. 1 is OPD, larger values extrapolate beyond
    the teacher (ExOPD), values below 1 interpolate between reference and teacher."""
    updates_per_batch: PositiveCount = 1
    """Optimizer updates on one batch of responses, which is split evenly. More than 1 makes later
    updates off-policy, so that the PPO clip acts."""

    @property
    def clipping(self) -> Clipping:
        return part_of(self, Clipping)

    @property
    def weighting(self) -> Weighting:
        return part_of(self, Weighting)

    @property
    def optimizer(self) -> OptimizerSettings:
        return part_of(self, OptimizerSettings)
