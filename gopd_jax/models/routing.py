"""How a mixture spreads its tokens over the experts.

In: the router's probabilities. Out: counts that add up over devices, layers and micro-batches, and
the numbers that are logged of them. Padding counts for nothing.
"""

from collections.abc import Sequence
import functools

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.types import Params

COLLECTION = "routing"  # of linen variables, with one `Routing` for each layer


@struct.dataclass
class Routing:
    """Counts of one layer, or of all, with a leading axis L.

    load: int32 [E], tokens that went to each expert.
    entropy: float32, sum over tokens of the entropy of the router's probabilities, nats.
    tokens: int32, number of tokens.
    """

    load: jax.Array
    entropy: jax.Array
    tokens: jax.Array


def routing(probabilities_nE: jax.Array, expert_nk: jax.Array, real_n: jax.Array) -> Routing:
    """The counts of some tokens.

    Args:
        probabilities_nE: the router's, float32.
        expert_nk: int32, the chosen experts.
        real_n: bool, False for padding.
    """
    E = probabilities_nE.shape[1]
    probabilities_nE = jax.lax.stop_gradient(probabilities_nE)
    logs_nE = jnp.log(jnp.maximum(probabilities_nE, jnp.finfo(jnp.float32).tiny))
    entropy_n = -jnp.sum(probabilities_nE * logs_nE, axis=-1)
    chosen = jnp.where(real_n[:, None], expert_nk, E).reshape(-1)
    return Routing(
        jnp.bincount(chosen, length=E + 1)[:E].astype(jnp.int32),
        jnp.sum(jnp.where(real_n, entropy_n, 0.0)),
        jnp.sum(real_n, dtype=jnp.int32),
    )


def counted(
    model: nn.Module, params: Params, *rows: jax.Array, in_order: bool = True
) -> tuple[jax.Array, Routing | None]:
    """What a decoder returns for packed rows, and the counts [L, ...] if it is a mixture."""
    run = functools.partial(model.apply, {"params": params}, *rows, in_order=in_order)
    if not model.config.experts:
        return run(), None
    hidden_RSD, found = run(mutable=[COLLECTION])
    return hidden_RSD, found[COLLECTION]["layers"]["mlp"]["layer"]


def routing_metrics(updates: Sequence[Routing]) -> dict[str, float]:
    """The numbers of a step.

    Args:
        updates: of each update, arrays of the host with a leading axis L.

    Returns:
        Means over the layers, by the names of metrics.jsonl: the load of the busiest expert over
        the mean load, the share of experts that no token went to, and the mean entropy of a token.
        Empty if there is no token.
    """
    load_LE = sum(np.asarray(u.load, np.int64) for u in updates)
    tokens_L = sum(np.asarray(u.tokens, np.int64) for u in updates)
    if not np.all(tokens_L):
        return {}
    entropy_L = sum(np.asarray(u.entropy, np.float64) for u in updates) / tokens_L
    return {
        "expert_load_max": float(np.mean(load_LE.max(axis=1) / load_LE.mean(axis=1))),
        "experts_unused": float(np.mean(load_LE == 0)),
        "router_entropy": float(np.mean(entropy_L)),
    }
