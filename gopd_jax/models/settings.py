"""Settings of the distribution that a token is drawn from, of what a backward pass keeps, and of
adapters."""

from typing import Literal

from gopd_jax.runtime.schema import Count, NonNegative, Positive, Probability, settings

# What the backward pass computes again: nothing; each block but its attention; each block; each
# block, from inputs that the host keeps.
Remat = Literal["none", "attention", "block", "offload"]


@settings
class SamplingRule:
    """Which distribution a token is drawn from, applied in the order temperature, top-k, top-p."""

    temperature: NonNegative = 1.0
    """Divides the logits. Larger values draw unlikely tokens more often; 0 always takes the most
    likely token."""
    top_k: Count = 0
    """Draw only from the K most likely tokens; 0 draws from all. Larger values cut off less."""
    top_p: Probability = 1.0
    """Draw only from the most likely tokens whose probabilities reach this sum. Larger values cut
    off less; 1 draws from all."""


PLAIN = SamplingRule()

Target = Literal["query", "key", "value", "out", "gate", "up", "down"]


@settings
class LoraSettings:
    """Low-rank adapters, which are trained in place of the student's own parameters."""

    rank: Count = 0
    """Rank of the adapters. Larger values can change the student more and need more memory; 0
    trains the student's own parameters."""
    alpha: Positive = 32.0
    """An adapter acts with the factor alpha / rank. Larger values let the same learning rate change
    the student faster."""
    targets: tuple[Target, ...] = ("query", "key", "value", "out", "gate", "up", "down")
    """The matrices of each layer that have an adapter. Experts can have none."""

    @property
    def scale(self) -> float:
        """The factor that the product of A and B is multiplied by."""
        return self.alpha / self.rank


NO_LORA = LoraSettings()
