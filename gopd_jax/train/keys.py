"""The random keys of a run: a stream for training, one for evaluation, one for adapters."""

import jax

_TRAIN, _EVAL, _ADAPTER = 0, 1, 2


def training_key(seed: int, step: int) -> jax.Array:
    """The key of a training step; `rollout.sampling.sample_keys` derives that of each token."""
    return _fold(seed, _TRAIN, step)


def evaluation_key(seed: int) -> jax.Array:
    """The key of every evaluation.

    All models draw with the same keys at every step, so that differences between them are paired.
    """
    return _fold(seed, _EVAL, 0)


def adapter_key(seed: int) -> jax.Array:
    """The key that a new adapter is drawn with."""
    return _fold(seed, _ADAPTER, 0)


def _fold(seed: int, stream: int, step: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
