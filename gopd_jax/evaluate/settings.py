"""Settings of the evaluations that a training run makes."""

from gopd_jax.models.settings import SamplingRule
from gopd_jax.runtime.schema import Count, PositiveCount, part_of, settings


@settings
class EvalSettings(SamplingRule):
    """When the student is evaluated on held-out prompts, and on how many."""

    every: Count = 0
    """Steps between two evaluations; 0 evaluates only before the first step and after the last."""
    prompts: Count = 0
    """Test prompts of each domain that are used; 0 uses all."""
    during_prompts: Count = 0
    """Test prompts of each domain in the evaluations between the first and the last; 0 uses as
    many as there."""
    samples: PositiveCount = 1
    """Samples of each prompt, the k of avg@k. Larger values narrow the interval."""

    @property
    def rule(self) -> SamplingRule:
        return part_of(self, SamplingRule)
