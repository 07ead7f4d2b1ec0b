"""Settings of the loss: clipping, aggregation, and the treatment of truncated responses."""

from typing import Annotated, Literal

from pydantic import Field, Strict

from gopd_jax.runtime.schema import NonNegative, settings

Aggregation = Literal["token-mean", "sequence-mean-token-mean", "sequence-mean-token-sum"]
Truncation = Literal["keep", "mask", "drop"]


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
