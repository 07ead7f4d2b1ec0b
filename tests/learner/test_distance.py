"""The distance of a student to its teacher, on rollouts, against all logits at once."""

import dataclasses

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_learner, make_requests

from gopd_jax.learner.distance import distances
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.runtime.metrics import compilations
from gopd_jax.types import Rollout


def make_rollouts(shown_more=False):
    """Five rollouts of different lengths; the teacher of some may read a longer prompt."""
    rng, rollouts = np.random.default_rng(0), []
    for i, request in enumerate(make_requests([1, 8, 5, 3, 6], max_tokens=12)):
        tokens = rng.integers(1, TINY.vocab_size, 3 * i + 1, dtype=np.int32)[:12]
        if shown_more and i % 2:
            more = rng.integers(1, TINY.vocab_size, 2, dtype=np.int32)
            longer = np.concatenate([request.prompt.tokens[-6:], more])
            prompt = dataclasses.replace(request.prompt, teacher_tokens=longer)
            request = dataclasses.replace(request, prompt=prompt)
        rollouts.append(Rollout(request, tokens, np.zeros(len(tokens), np.float32), "stop"))
    return rollouts


def logprobs(params, prompt, response):
    """Log-probs [T, V] at each response token, of one rollout alone."""
    tokens = jnp.asarray(np.concatenate([prompt, response]))[None]
    positions = jnp.arange(tokens.shape[1])[None]
    hidden = Decoder(TINY, remat="none").apply(
        {"params": params}, tokens, positions, jnp.ones_like(tokens)
    )
    logits = jnp.einsum("btd,vd->btv", hidden, output_head(params))[0]
    first = len(prompt) - 1
    return np.asarray(jax.nn.log_softmax(logits)[first : first + len(response)], np.float64)


@pytest.fixture(scope="module")
def learner():
    """Rows for two rollouts at a time."""
    return make_learner(make_config())


@pytest.mark.parametrize("shown_more", [pytest.param(False, marks=pytest.mark.slow), True])
def test_against_all_logits(learner, shown_more):
    student, teacher = random_params(TINY, 0), random_params(TINY, 1)
    rollouts = make_rollouts(shown_more)
    found = distances(learner, student, FrozenModel("teacher", TINY, teacher), rollouts)
    assert len(found) == len(rollouts)
    for rollout, values in zip(rollouts, found, strict=True):
        prompt = rollout.request.prompt
        read = prompt.tokens if prompt.teacher_tokens is None else prompt.teacher_tokens
        ours = logprobs(student, prompt.tokens, rollout.tokens)
        theirs = logprobs(teacher, read, rollout.tokens)
        kl = (np.exp(ours) * (ours - theirs)).sum(-1)
        np.testing.assert_allclose(values["kl"], kl, atol=2e-5)
        np.testing.assert_array_equal(values["same"], ours.argmax(-1) == theirs.argmax(-1))
        entropy = -(np.exp(ours) * ours).sum(-1)
        np.testing.assert_allclose(values["entropy"], entropy, atol=2e-5)


def test_one_program_serves_every_call(learner):
    student, teacher = random_params(TINY, 0), FrozenModel("t", TINY, random_params(TINY, 1))
    first = distances(learner, student, teacher, make_rollouts())
    before = compilations()
    again = distances(learner, student, teacher, make_rollouts()[::-1] * 2)
    assert compilations() == before
    for a, b in zip(first[::-1], again, strict=False):
        np.testing.assert_array_equal(a["kl"], b["kl"])
