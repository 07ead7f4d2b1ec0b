"""Sampling from a model: requests in, finished rollouts out, in any order. Knows nothing of teachers."""

from gopd_jax.rollout.engine import EngineOptions, RolloutEngine, RolloutStats
from gopd_jax.rollout.sampling import SamplingRule

__all__ = ["EngineOptions", "RolloutEngine", "RolloutStats", "SamplingRule"]
