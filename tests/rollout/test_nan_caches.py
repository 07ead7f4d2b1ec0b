"""Whatever stands in the unused parts of a cache, NaN too, a good model draws what it draws."""

import dataclasses
import functools

from engine_cases import KEY, REQUESTS, new_engine, sample, weights
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_cases import make_requests

from gopd_jax.kernels.decode_attention import xla
from gopd_jax.kernels.decode_attention_tpu import pallas_tpu
from gopd_jax.rollout import engine as engine_module
from gopd_jax.runtime.errors import NonFiniteError

INTERPRETED = functools.partial(pallas_tpu, interpret=True)


def fill(engine, value):
    """Fills blocks and fresh columns of every cache that the engine may use."""

    def filled(x):
        return jnp.full_like(x, value) if jnp.issubdtype(x.dtype, jnp.floating) else x

    for slots in engine.widths:
        cache = engine.caches[slots]
        engine.caches.put_back(
            slots, jax.tree.map(filled, cache.blocks), jax.tree.map(filled, cache.fresh)
        )


def equal(actual, expected):
    assert actual.keys() == expected.keys()
    for key, rollout in expected.items():
        np.testing.assert_array_equal(actual[key].tokens, rollout.tokens)
        np.testing.assert_array_equal(actual[key].behaviour_logprobs, rollout.behaviour_logprobs)


@pytest.mark.parametrize(
    "settings",
    [
        {"slots": 4},  # refills: 21 samples of 7 prompts, copies of prompts
        {"slots": 16, "max_prompt": 150},  # three blocks, and a narrower cache at the end
        {"prefill_tokens": 6},  # chunks after a prefix
        pytest.param({"slots": 16, "kv_cache": "int8"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_model_of_nan_leaves_nothing_to_the_next(settings):
    engine = new_engine(**settings)
    expected = sample(engine, REQUESTS)
    assert engine.stats.copies or settings.get("slots") == 16
    nothing = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), weights())
    with pytest.raises(NonFiniteError):
        list(engine(nothing, REQUESTS, KEY))
    equal(sample(engine, REQUESTS), expected)


@pytest.mark.parametrize("kernel", [INTERPRETED, xla])
def test_nan_in_unused_columns_does_not_reach_the_kernels_of_tpus(kernel, monkeypatch):
    """One of them is in the Pallas interpreter."""
    choose = engine_module.choose_decode_attention

    def interpreted(*args, **kwargs):
        chosen = choose(*args, **kwargs)
        return dataclasses.replace(chosen, kernel=kernel, skips=True)

    monkeypatch.setattr(engine_module, "choose_decode_attention", interpreted)
    engine = new_engine(max_response=4, prefill_tokens=4)  # a chunk after a prefix, too
    requests = make_requests((3, 7, 5), 4, sample_ids=(0, 1))
    expected = sample(engine, requests)
    fill(engine, jnp.nan)
    equal(sample(engine, requests), expected)
