"""Settings of the loss: estimator, clipping, aggregation, treatment of truncated responses."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.objective.shaping_settings import SHAPING, ShapingSettings
from gopd_jax.runtime.schema import NonNegative, PositiveCount, settings

Aggregation = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]
Truncation = Literal["keep", "mask", "drop"]
Estimator = Literal["sampled", "sampled_baseline", "full", "top_k", "forward_kl", "jsd"]


@settings
class EstimatorSettings:
    """How the gradient is estimated at each state; see `objective.estimators`.

    All but "sampled" need what teacher and reference say of the whole vocabulary.
    """

    estimator: Estimator = "sampled"
    """sampled: the advantage of the drawn token, as in the paper. sampled_baseline: the same minus
    its mean over the vocabulary, which has less variance. full: the exact loss over the vocabulary.
    top_k: the exact KL to the optimum over the most likely tokens. forward_kl: KL(optimum ||
    student). jsd: the Jensen-Shannon divergence of GKD. The optimum is teacher^lambda
    reference^(1 - lambda), normalised."""
    beta: Annotated[float, Strict(), Field(gt=0, lt=1)] = 0.5
    """Weight of the optimum in the mixture of jsd. Values near 0 act like forward_kl, values near 1
    like full, both with a small gradient."""
    top_k: PositiveCount = 32
    """Tokens that top_k looks at in each state. Larger values are nearer to full."""
    top_k_of: Literal["student", "teacher"] = "student"
    """Whose most likely tokens top_k looks at."""
    tail: Literal["bucket", "unnormalised"] = "bucket"
    """What top_k does with the other tokens: they count as one token, or as a term that keeps the
    sum above 0."""

    @property
    def exact(self) -> bool:
        """Whether the whole vocabulary of teacher and reference is needed."""
        return self.estimator != "sampled"

    @property
    def of_states(self) -> bool:
        """Whether the loss is one of states, whatever token was drawn."""
        return self.estimator not in ("sampled", "sampled_baseline")


@settings
class Clipping:
    """Limits of the policy loss; see `objective.gopd.policy_loss` and `importance_weight`."""

    clip_low: Annotated[float, Strict(), Field(ge=0, le=1)] = 0.2
    """PPO clips the ratio new/old probability at 1 - clip_low from below. Larger values clip less.
    Acts only with updates_per_batch > 1."""
    clip_high: NonNegative = 0.28
    """PPO clips the ratio new/old probability at 1 + clip_high from above. Larger values clip
    less. Acts only with updates_per_batch > 1."""
    dual_clip: Annotated[float, Strict(), Field(ge=1)] = 3.0
    """Bounds the loss of a token with a negative advantage A at -A * dual_clip. Larger values
    clip less."""
    importance_cap: NonNegative = 5.0
    """Upper limit of the importance weight, trained/sampled probability of a token. Larger values
    correct a larger mismatch and add variance."""


@settings
class Weighting:
    """How tokens are averaged; see `objective.weights.token_weights`."""

    aggregation: Aggregation = "token-mean"
    """Weight of a token in the loss: the mean over all tokens of the batch, the mean over
    responses of their token means, or the mean over responses of their token sums."""
    truncation: Truncation = "keep"
    """Responses cut at the length limit: trained on like others (keep), given weight 0 but
    counted in the denominator (mask), or left out of both (drop)."""


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """All that the loss of a micro-batch is told; see `objective.loss.weighted_loss`.

    likelihood: the loss is the weighted negative log-likelihood (SFT).
    """

    clipping: Clipping = Clipping()
    estimator: EstimatorSettings = EstimatorSettings()
    likelihood: bool = False
    shaping: ShapingSettings = SHAPING
