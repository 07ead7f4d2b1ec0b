"""Several models that are drawn from as one: their product, normalised at every token.

    pi(v | s)  =  prod_m pi_m(v | s)^a_m / Z(s),    log Z(s) = log sum_v prod_m pi_m(v | s)^a_m

With teacher and reference and the exponents lambda and 1 - lambda, this is the exact optimum of
G-OPD at every state s. The engine needs nothing else for it: the layers of all models make up one
cache, a token is fed to each of them, and their logits are mixed before a token is drawn.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gopd_jax.models.config import ModelConfig
from gopd_jax.models.heads import real_logits
from gopd_jax.rollout.gathered import Gathered
from gopd_jax.rollout.memory import Layout, cache_part, choose_layout, weights_part
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.types import Params

# What is measured of each token of a mixture, nats: the entropy of the distribution that is mixed,
# before temperature, top-k and top-p, and log Z of the state.
MEASURES = ("entropy", "log_z")


@struct.dataclass
class Mixture:
    """What an engine of several models draws with, in place of decode weights.

    weights: the decode weights of each model, in the order of the engine.
    exponents: float32 [M], which sum to 1. They are arguments of the programs, so that one program
        serves all of them.
    """

    weights: tuple[Params, ...]
    exponents: Any


@dataclasses.dataclass(frozen=True)
class Member:
    """A model as the programs run it.

    config: its architecture.
    split: reads its decode weights where they are split over the mesh; None if they are whole.
    """

    config: ModelConfig
    split: Gathered | None = None


def read_models(
    configs: Sequence[ModelConfig],
    mesh: Mesh,
    *,
    slots: int,
    max_tokens: int,
    dtype: DTypeLike,
    options: EngineOptions,
    room: int | None,
) -> tuple[tuple[Member, ...], tuple[Layout, ...]]:
    """How the programs read each model, and the layout of its decode weights.

    Args:
        slots, max_tokens, dtype, options: see `memory.cache_part`.
        room: bytes of a device for decode weights and caches of all; None stands for enough.
    """
    shape = {"slots": slots, "max_tokens": max_tokens, "dtype": dtype, "options": options}
    models, layouts = [], []
    for number, config in enumerate(configs):
        left = room
        for other in (*configs[:number], *configs[number + 1 :]) if room is not None else ():
            left -= weights_part(other, mesh, dtype, options, "").bytes
            left -= cache_part(other, mesh, **shape, setting="").bytes
        layouts.append(choose_layout(config, mesh, **shape, room=left))
        int8 = options.weights == "int8"
        split = Gathered(config, mesh, dtype, int8) if layouts[-1].gathered else None
        models.append(Member(config, split))
    return tuple(models), tuple(layouts)


def members(
    models: Sequence[Member], weights: Params | Mixture
) -> Iterator[tuple[Member, Params, range]]:
    """Each model, its decode weights, and its layers in the cache."""
    each = weights.weights if isinstance(weights, Mixture) else (weights,)
    first = 0
    for model, own in zip(models, each, strict=True):
        yield model, own, range(first, first + model.config.layers)
        first += model.config.layers


def mixed(
    weights: Params | Mixture, logits: Sequence[jax.Array], num_ids: int | None
) -> tuple[jax.Array, jax.Array | None]:
    """The logits that a token is drawn from, -inf for ids from `num_ids` on, and what is measured.

    Raw logits are mixed: log-probs differ from them by a constant, which leaves no trace in the
    distribution, and an exponent of 1 beside one of 0 then leaves the logits as they are.

    Args:
        weights: decode weights of one model, or a mixture.
        logits: float32 [B, V] of each model; the first one decides V. Others may have further rows,
            or fewer if those that they lack are no ids.
        num_ids: number of ids; None stands for all V.

    Returns:
        float32 [B, V], and float32 [B, 2], the `MEASURES`; None without a mixture.
    """
    if not isinstance(weights, Mixture):
        return real_logits(logits[0], num_ids), None
    V = logits[0].shape[1]
    logits = [real_logits(_with_columns(x, V), num_ids) for x in logits]
    real = jnp.arange(V) < (num_ids or V)
    mix_BV, log_z_B = 0.0, 0.0
    for number, x_BV in enumerate(logits):
        exponent = weights.exponents[number]
        mix_BV += exponent * jnp.where(real, x_BV, 0.0)
        log_z_B -= exponent * jax.nn.logsumexp(x_BV, axis=1)
    logits_BV = real_logits(mix_BV, num_ids)
    total_B = jax.nn.logsumexp(logits_BV, axis=1)
    masses_BV = jnp.exp(logits_BV - total_B[:, None])
    entropy_B = total_B - jnp.sum(masses_BV * mix_BV, axis=1)
    return logits_BV, jnp.stack([entropy_B, total_B + log_z_B], axis=1)


def check_vocabularies(configs: Sequence[ModelConfig], num_ids: int | None) -> None:
    """Raises ValueError if a model of several lacks a row for one of the ids that may be drawn."""
    wanted = num_ids or configs[0].vocab_size
    for config in configs if len(configs) > 1 else ():
        if config.vocab_size < wanted:
            raise ValueError(
                f"a model of {config.vocab_size} rows cannot be mixed: expected at least {wanted}, "
                "the number of ids"
            )


def _with_columns(x_BV: jax.Array, columns: int) -> jax.Array:
    """Cut, or padded with zeros."""
    missing = max(0, columns - x_BV.shape[1])
    return jnp.pad(x_BV, ((0, 0), (0, missing))) if missing else x_BV[:, :columns]
