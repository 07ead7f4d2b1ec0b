"""The G-OPD objective: pure arithmetic on token arrays. Knows nothing of models, sharding or files."""

from gopd_jax.objective.diagnostics import Diagnostics, token_diagnostics
from gopd_jax.objective.gopd import gopd_advantage, group_normalised, importance_weight, policy_loss
from gopd_jax.objective.weights import AGGREGATIONS, TRUNCATION_RULES, token_weights

__all__ = [
    "AGGREGATIONS",
    "TRUNCATION_RULES",
    "Diagnostics",
    "gopd_advantage",
    "group_normalised",
    "importance_weight",
    "policy_loss",
    "token_diagnostics",
    "token_weights",
]
