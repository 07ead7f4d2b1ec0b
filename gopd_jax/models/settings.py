"""Settings of the distribution that a token is drawn from, and of what a backward pass keeps."""

from typing import Literal

from gopd_jax.runtime.schema import Count, NonNegative, Probability, settings

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
