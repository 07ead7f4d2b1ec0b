"""Settings of the evaluations that a training run makes."""

from gopd_jax.models.settings import SamplingRule
from gopd_jax.runtime.schema import Count, Flag, PositiveCount, part_of, settings


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
    teachers: Flag = True
    """Evaluate each teacher once, before the first step. Without it, the summary says that the
    teachers were not measured."""
    cache: Flag = True
    """Keep evaluations of teachers, and of the student before its first step, in the user's cache
    folder, and take from there what another run has found with the same inputs; not for reward
    functions of your own. The environment variable GOPD_CACHE moves that folder; "off" switches it
    off."""

    @property
    def rule(self) -> SamplingRule:
        return part_of(self, SamplingRule)
