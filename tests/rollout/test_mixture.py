"""Mixtures: tokens of teacher^lambda reference^(1 - lambda), and what is measured of them."""

import dataclasses
import functools
from pathlib import Path

from engine_cases import KEY, MAX_PROMPT, MAX_RESPONSE, REQUESTS, STOP_IDS, log_softmax, same
import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest
from step_cases import TINY

from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.mixture import Mixture
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.programs import ProgramTable

# Another family, with other numbers of layers, heads and vocabulary rows; the last ids are padding.
REFERENCE = dataclasses.replace(CASES["llama_tied_llama3_rope"], layers=1, vocab_size=104)
IDS = 90
STOPS = tuple(i for i in STOP_IDS if i < IDS)


@functools.cache
def engine(*models, slots=4):
    teacher, *others = models
    return RolloutEngine(
        teacher,
        make_mesh(devices=jax.devices()[:1]),
        STOPS,
        slots=slots,
        max_prompt_tokens=MAX_PROMPT,
        max_response_tokens=MAX_RESPONSE,
        num_ids=IDS,
        others=others,
    )


@functools.cache
def params(model, seed):
    return random_params(model, seed)


def sample(scale, teacher=TINY, reference=REFERENCE, slots=4, requests=REQUESTS):
    """The rollouts by the key of the sample, drawn at lambda = `scale`."""
    pair = engine(teacher, reference, slots=slots)
    weights = [pair.sync_weights(params(m, n), n) for n, m in enumerate((teacher, reference))]
    mixture = Mixture(tuple(weights), np.array([scale, 1 - scale], np.float32))
    return {r.request.key: r for r in pair(mixture, requests, KEY)}


drawn = functools.cache(sample)  # without arguments that have no hash


@functools.cache
def forward(model):
    def run(params, tokens):
        positions = jnp.arange(tokens.shape[1])[None]
        decoder = Decoder(model, remat="none")
        hidden = decoder.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
        return (hidden @ output_head(params).T)[0, :, :IDS]

    return jax.jit(run)


def logprobs(model, seed, rollout):
    """float64 [T, IDS]: log-probs of a full forward pass before each token of the response."""
    prompt, response = rollout.request.prompt.tokens, rollout.tokens
    row = np.zeros((1, MAX_PROMPT + MAX_RESPONSE), np.int32)
    row[0, : len(prompt) + len(response)] = np.concatenate([prompt, response])
    logits = np.asarray(forward(model)(params(model, seed), row), np.float64)
    return log_softmax(logits[len(prompt) - 1 : len(prompt) + len(response) - 1])


@pytest.mark.parametrize("scale", [0.5, 1.25, 2.0])
def test_tokens_and_sums_are_those_of_full_forward_passes(scale):
    """Random models are far apart, so that a wrong exponent or cache would be seen."""
    for key, rollout in drawn(scale).items():
        target = scale * logprobs(TINY, 0, rollout) + (1 - scale) * logprobs(REFERENCE, 1, rollout)
        mixed = log_softmax(target)
        at = np.arange(len(rollout.tokens)), rollout.tokens
        np.testing.assert_allclose(rollout.behaviour_logprobs, mixed[at], atol=5e-5)
        log_z = (target - mixed)[:, 0]
        entropy = -(np.exp(mixed) * mixed).sum(axis=1)
        np.testing.assert_allclose(
            rollout.sums, [entropy.sum(), log_z.sum()], rtol=1e-4, atol=1e-4, err_msg=str(key)
        )
        assert (log_z >= 0).all() if scale > 1 else (log_z <= 0).all()


@pytest.mark.parametrize("scale, number", [(1.0, 0), pytest.param(0.0, 1, marks=pytest.mark.slow)])
def test_lambda_1_draws_what_the_teacher_alone_does_and_0_what_the_reference_does(scale, number):
    """To the bit; and one model alone is measured as a mixture of itself."""
    other = dataclasses.replace(REFERENCE, vocab_size=TINY.vocab_size)
    model = (TINY, other)[number]
    alone = engine(model)
    weights = alone.sync_weights(params(model, number))
    plain = {r.request.key: r for r in alone(weights, REQUESTS, KEY)}
    mixture = Mixture((weights,), np.ones(1, np.float32))
    measured = {r.request.key: r for r in alone(mixture, REQUESTS, KEY)}
    mixed = drawn(scale, TINY, other)
    assert plain.keys() == mixed.keys() == measured.keys()
    for key, rollout in plain.items():
        assert rollout.sums is None
        for found in (mixed[key], measured[key]):
            np.testing.assert_array_equal(found.tokens, rollout.tokens)
            np.testing.assert_array_equal(found.behaviour_logprobs, rollout.behaviour_logprobs)
            assert found.finish_reason == rollout.finish_reason
            assert found.sums[1] == 0  # log Z
        np.testing.assert_allclose(mixed[key].sums, measured[key].sums, rtol=1e-6)


def test_one_slot_draws_what_several_draw():
    few = REQUESTS[::4]
    alone = sample(1.25, slots=1, requests=few)
    assert alone.keys() == {r.key for r in few}
    same(alone, drawn(1.25))
    for key, rollout in alone.items():
        np.testing.assert_allclose(rollout.sums, drawn(1.25)[key].sums, rtol=1e-4, atol=1e-4)


def test_no_padding_is_drawn_and_one_program_serves_every_lambda():
    found = [drawn(scale) for scale in (0.5, 1.25, 2.0)]
    tokens = np.concatenate([r.tokens for by_key in found for r in by_key.values()])
    assert tokens.max() < IDS and len(np.unique(tokens)) > IDS / 2
    programs = engine(TINY, REFERENCE, slots=4).programs.programs
    buckets = [p.bucket for p in programs if p.name == "decode"]
    assert len(buckets) == len(set(buckets)) > 0


def test_samplers_keep_an_engine_for_each_pair():
    samplers = Samplers(
        ProgramTable(make_mesh(devices=jax.devices()[:1])),
        STOPS,
        slots=2,
        max_prompt_tokens=4,
        max_response_tokens=4,
        num_ids=IDS,
    )
    pair = samplers[TINY, REFERENCE]
    assert pair is samplers[TINY, REFERENCE] is not samplers[REFERENCE, TINY]
    assert pair is not samplers[TINY] is samplers[TINY]
    held = [samplers[m].caches.bytes_of(2) for m in (TINY, REFERENCE)]
    assert pair.caches.bytes_of(2) == sum(held)


def test_a_model_without_a_row_for_every_id_is_refused():
    small = dataclasses.replace(REFERENCE, vocab_size=IDS - 1)
    with pytest.raises(ValueError, match="a model of 89 rows cannot be mixed: expected at least"):
        engine(TINY, small)


ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import make_requests
from test_mixture import IDS, REFERENCE, STOPS, TINY
from gopd_jax.models.decoder import param_shardings
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.mixture import Mixture
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh

requests = make_requests((3, 20, 7, 16, 18, 1, 12), 10, sample_ids=(0, 1))
limits = {"slots": 4, "max_prompt_tokens": 20, "max_response_tokens": 10, "num_ids": IDS}
models, results = (TINY, REFERENCE), []
for layout, sizes in (
    ("whole", {"devices": jax.devices()[:1]}),
    ("whole", {"data": 2, "fsdp": 2, "tensor": 2}),
    ("gathered", {"data": 2, "fsdp": 2, "tensor": 2}),
):
    mesh = make_mesh(**sizes)
    options = EngineOptions(layout=layout)
    engine = RolloutEngine(TINY, mesh, STOPS, **limits, options=options, others=[REFERENCE])
    weights = []
    for number, model in enumerate(models):
        where = param_shardings(model, mesh)
        params = jax.device_put(random_params(model, number), where)
        weights.append(engine.sync_weights(params, number))
    print([model.split is not None for model in engine.models])
    mixture = Mixture(tuple(weights), np.array([1.25, -0.25], np.float32))
    results.append({r.request.key: r for r in engine(mixture, requests, jax.random.key(1))})
one, *others = results
for eight in others:
    for key, r in one.items():
        np.testing.assert_array_equal(eight[key].tokens, r.tokens)
        np.testing.assert_allclose(eight[key].sums, r.sums, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_eight_devices_draw_what_one_does(run_on_fake_devices):
    """With whole weights, and with weights of both models that are gathered layer by layer."""
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
    said = run_on_fake_devices(path + ON_EIGHT).split("\n")
    assert said[:3] == ["[False, False]", "[False, False]", "[True, True]"]
