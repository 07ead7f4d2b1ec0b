"""Engines, options and requests that are refused."""

from engine_cases import KEY, REQUESTS, make_engine, new_engine, sample, weights
import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_requests

from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.errors import NonFiniteError
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.schema import build
from gopd_jax.types import EncodedPrompt, Request


@pytest.mark.parametrize(
    "length, limit, message",
    [
        (21, 5, r"prompt 'p0' has 21 tokens: expected 1 to max_prompt_tokens=20"),
        (0, 5, r"prompt 'p0' has 0 tokens"),
        (5, 11, r"prompt 'p0' asks for max_tokens=11: expected 1 to max_response_tokens=10"),
        (5, 0, r"prompt 'p0' asks for max_tokens=0"),
    ],
)
def test_requests_that_the_cache_cannot_hold(length, limit, message):
    with pytest.raises(ValueError, match=message):
        next(make_engine()(weights(), make_requests([length], limit), KEY))


def test_two_prompts_with_one_id():
    twins = make_requests([5]) + make_requests([5], sample_ids=(1,), seed=1)
    message = r"prompt id 'p0' stands for two different prompts: expected one id for each"
    with pytest.raises(ValueError, match=message):
        next(make_engine()(weights(), twins, KEY))
    # The same tokens in another array are the same prompt.
    copies = [
        Request(EncodedPrompt(r.prompt.source, np.copy(r.prompt.tokens)), r.sample_id, 1)
        for r in make_requests([5], sample_ids=(0, 1))
    ]
    assert len(list(make_engine()(weights(), copies, KEY))) == 2


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"slots": 0},
            r"slots=0: expected a positive multiple of 1 \(data x fsdp x expert x ",
        ),
        ({"stop_ids": (3, 96)}, r"stop ids \[3, 96\].*all in \[0, 96\); outside: \[96\]"),
        ({"stop_ids": (-1,)}, r"outside: \[-1\]"),
        ({"stop_ids": ()}, r"stop ids \[\]: expected at least one"),
    ],
)
def test_engines_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        new_engine(**settings)


def test_slots_that_the_mesh_does_not_divide():
    class FakeMesh:
        shape = {"data": 2, "fsdp": 2, "expert": 1, "context": 1, "tensor": 1}

    with pytest.raises(ValueError, match=r"slots=6: expected a positive multiple of 4"):
        RolloutEngine(TINY, FakeMesh(), (3,), slots=6, max_prompt_tokens=4, max_response_tokens=4)


def test_a_program_table_of_another_mesh():
    other = ProgramTable(jax.sharding.Mesh(jax.devices()[:1], ("other",)))
    with pytest.raises(ValueError, match=r"program table of .*other.*: expected one of .*fsdp"):
        new_engine(programs=other)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kv_cache": "int4"}, r"kv_cache='int4': expected one of 'compute' or 'int8'"),
        ({"weights": "float"}, r"weights='float': expected one of 'compute' or 'int8'"),
        ({"steps_per_dispatch": 0}, r"steps_per_dispatch=0: expected a number >= 1"),
        ({"prefill_tokens": 0}, r"prefill_tokens=0: expected a number >= 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        build(EngineOptions, options, "rollout")
    with pytest.raises(ValueError):
        EngineOptions(**options)


def test_a_model_that_is_not_finite_is_named_and_poisons_nothing():
    """Its keys and values stay in no cache: the next weights draw what a new engine draws."""
    engine = new_engine()
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), random_params(TINY))
    with pytest.raises(NonFiniteError, match="log-probs drawn for prompt 'p[0-9]' are not finite"):
        list(engine(engine.sync_weights(broken), REQUESTS, KEY))
    again, expected = sample(engine, REQUESTS), sample(make_engine(), REQUESTS)
    for key, rollout in expected.items():
        np.testing.assert_array_equal(again[key].tokens, rollout.tokens)
        np.testing.assert_array_equal(again[key].behaviour_logprobs, rollout.behaviour_logprobs)
