"""Engines for the tiny model, the requests that most tests draw, and exact log-probs."""

import functools

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
from step_cases import TINY, make_requests

from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh

STOP_IDS = (3, 40, 41, 42, 95)
LENGTHS = (3, 20, 7, 16, 18, 1, 12)
MAX_PROMPT, MAX_RESPONSE = 20, 10
TOLERANCE = 1e-5
KEY = jax.random.key(1)
PLAIN = SamplingRule()
REQUESTS = make_requests(LENGTHS, MAX_RESPONSE, sample_ids=(0, 1, 2))


def new_engine(
    slots=4,
    max_prompt=MAX_PROMPT,
    max_response=MAX_RESPONSE,
    stop_ids=STOP_IDS,
    programs=None,
    **options,
):
    return RolloutEngine(
        TINY,
        make_mesh(devices=jax.devices()[:1]),
        stop_ids,
        slots=slots,
        max_prompt_tokens=max_prompt,
        max_response_tokens=max_response,
        options=EngineOptions(**options),
        programs=programs,
    )


make_engine = functools.cache(new_engine)  # one engine for each set of arguments


@functools.cache
def weights(seed=0):
    return make_engine().sync_weights(random_params(TINY, seed))


def sample(engine, requests, key=KEY, seed=0, rule=PLAIN):
    """The rollouts of all requests, by the key of the sample."""
    rollouts = list(engine(weights(seed), requests, key, rule))
    assert len(rollouts) == len(requests)
    by_key = {r.request.key: r for r in rollouts}
    assert by_key.keys() == {r.key for r in requests}
    return by_key


@functools.cache
def expected():
    """The rollouts of `REQUESTS` as an engine of four slots draws them."""
    return sample(make_engine(), REQUESTS)


def same(actual, expected):
    assert actual.keys() <= expected.keys()
    for key, rollout in actual.items():
        other = expected[key]
        np.testing.assert_array_equal(rollout.tokens, other.tokens, err_msg=str(key))
        np.testing.assert_allclose(
            rollout.behaviour_logprobs, other.behaviour_logprobs, atol=TOLERANCE
        )
        assert rollout.finish_reason == other.finish_reason


@jax.jit
def _forward(params, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    decoder = Decoder(TINY, remat="none")
    hidden = decoder.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
    return hidden @ output_head(params).T


def logits_of(rollout):
    """float64 [T, V]: the logits of a full forward pass before each token of the response."""
    prompt, response = rollout.request.prompt.tokens, rollout.tokens
    row = np.zeros((1, MAX_PROMPT + MAX_RESPONSE), np.int32)
    row[0, : len(prompt) + len(response)] = np.concatenate([prompt, response])
    logits = _forward(random_params(TINY), row)[0]
    return np.asarray(logits, np.float64)[len(prompt) - 1 : len(prompt) + len(response) - 1]


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def exact_logprobs(rollout):
    """float64 [T]: the log-prob of each token of the response by a full forward pass."""
    return log_softmax(logits_of(rollout))[np.arange(len(rollout.tokens)), rollout.tokens]
