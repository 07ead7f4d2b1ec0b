"""Adapters with noise on both sides, and their merge with the base, computed naively."""

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models.lora import abstract_adapter

ATTENTION = ("query", "key", "value", "out")


def random_adapter(config, settings, seed=0):
    """Noise on A and B, so that both act."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32),
        abstract_adapter(config, settings),
    )


def naive_merge(base, adapter, settings):
    """W + alpha / rank * A B of every matrix with an adapter, one layer after the other."""
    whole, rank = jax.tree.map(np.array, base), settings.rank
    for room, matrices in adapter["layers"].items():
        for name, sides in matrices.items():
            matrix = whole["layers"][room][name]
            for layer, (a, b) in enumerate(zip(sides["a"], sides["b"], strict=True)):
                product = np.asarray(a).reshape(-1, rank) @ np.asarray(b).reshape(rank, -1)
                scaled = settings.alpha / rank * product
                matrix[layer] += scaled.reshape(matrix[layer].shape)
    return whole
