"""The engine: a sample depends on its request, the weights and the key alone, and reports the probability it was drawn with."""

import functools

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_requests

from gopd_jax.models import Decoder, output_head
from gopd_jax.rollout import EngineOptions, RolloutEngine, SamplingRule
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations

STOP_IDS = (3, 40, 41, 42, 95)
LENGTHS = (3, 20, 7, 16, 18, 1, 12)
MAX_PROMPT, MAX_RESPONSE = 20, 10
TOLERANCE = 1e-5
KEY = jax.random.key(1)
PLAIN = SamplingRule()


@functools.cache
def make_engine(slots=4, max_prompt=MAX_PROMPT, stop_ids=STOP_IDS, max_response=MAX_RESPONSE, **options):
    mesh, options = make_mesh(devices=jax.devices()[:1]), EngineOptions(**options)
    return RolloutEngine(
        TINY, mesh, stop_ids, slots=slots, max_prompt_tokens=max_prompt, max_response_tokens=max_response, options=options
    )


@functools.cache
def weights(seed=0):
    return make_engine().lay_out(random_params(TINY, seed))


def sample(engine, requests, key=KEY, seed=0, rule=PLAIN):
    """{(prompt id, sample id): rollout}"""
    rollouts = list(engine(weights(seed), requests, key, rule))
    assert len(rollouts) == len(requests)
    by_name = {(r.request.prompt.prompt.prompt_id, r.request.sample_id): r for r in rollouts}
    assert by_name.keys() == {(r.prompt.prompt.prompt_id, r.sample_id) for r in requests}
    return by_name


def same(actual, expected):
    assert actual.keys() <= expected.keys()
    for name, rollout in actual.items():
        np.testing.assert_array_equal(rollout.tokens, expected[name].tokens, err_msg=str(name))
        np.testing.assert_allclose(rollout.behaviour_logprobs, expected[name].behaviour_logprobs, atol=TOLERANCE)
        assert rollout.finish_reason == expected[name].finish_reason


@pytest.fixture(scope="module")
def requests():
    return make_requests(LENGTHS, MAX_RESPONSE, sample_ids=(0, 1, 2))


@pytest.fixture(scope="module")
def expected(requests):
    return sample(make_engine(), requests)


@jax.jit
def _forward(params, tokens):
    positions = jnp.arange(tokens.shape[1])[None]
    hidden = Decoder(TINY, remat=False).apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
    return hidden @ output_head(params).T


def logits_of(rollout):
    """[T, V]: what a full forward pass says before each token of the response; float64."""
    prompt, response = rollout.request.prompt.tokens, rollout.tokens
    row = np.zeros((1, MAX_PROMPT + MAX_RESPONSE), np.int32)
    row[0, : len(prompt) + len(response)] = np.concatenate([prompt, response])
    logits = _forward(random_params(TINY), row)[0]
    return np.asarray(logits, np.float64)[len(prompt) - 1 : len(prompt) + len(response) - 1]


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


# ---- A sample depends on nothing else.


def test_slots_order_buckets_and_company_change_nothing(requests, expected):
    same(sample(make_engine(), requests[::-1]), expected)
    for request in requests[::5]:
        same(sample(make_engine(), [request]), expected)
    same(sample(make_engine(slots=7), requests), expected)
    same(sample(make_engine(max_prompt=150), requests), expected)  # three blocks of columns in place of one
    same(sample(make_engine(steps_per_dispatch=3), requests), expected)
    same(sample(make_engine(prefill_tokens=6), requests), expected)  # prompts in pieces


def test_step_sample_prompt_and_weights_change_the_draw(requests, expected):
    def tokens(rollouts):
        return [tuple(rollouts[name].tokens) for name in sorted(rollouts)]

    assert len(set(tokens(expected))) == len(requests)  # also the three samples of each prompt
    for other in (sample(make_engine(), requests, jax.random.key(2)), sample(make_engine(), requests, seed=5)):
        assert sum(a != b for a, b in zip(tokens(other), tokens(expected), strict=True)) >= len(requests) - 1
    twins = make_requests((12, 12), sample_ids=(0, 1, 2), seed=3)
    twins[3:] = [type(r)(type(r.prompt)(r.prompt.prompt, twins[0].prompt.tokens), r.sample_id, r.max_tokens) for r in twins[3:]]
    assert len(set(tokens(sample(make_engine(), twins)))) == 6  # same tokens, other prompt id


ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_requests
from gopd_jax.models import abstract_params, logical_axes
from gopd_jax.rollout import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh, shardings

requests = make_requests((3, 20, 7, 16, 18, 1, 12), 10, sample_ids=(0, 1, 2))
results = []
for sizes in ({"devices": jax.devices()[:1]}, {"data": 2, "fsdp": 2, "tensor": 2}):
    mesh = make_mesh(**sizes)
    engine = RolloutEngine(
        TINY, mesh, (3, 40, 41, 42, 95), slots=4, max_prompt_tokens=20, max_response_tokens=10
    )
    placed = jax.device_put(random_params(TINY), shardings(mesh, abstract_params(TINY), logical_axes(TINY)))
    weights = engine.lay_out(placed)
    rollouts = engine(weights, requests, jax.random.key(1))
    results.append({(r.request.prompt.prompt.prompt_id, r.request.sample_id): r for r in rollouts})
    query = weights["layers"][0]["attention"]["query"]
    print(len(query.sharding.device_set), query.addressable_shards[0].data.size / query.size)
one, eight = results
for name, r in one.items():
    np.testing.assert_array_equal(eight[name].tokens, r.tokens)
    np.testing.assert_allclose(eight[name].behaviour_logprobs, r.behaviour_logprobs, atol=1e-5)
    assert eight[name].finish_reason == r.finish_reason
np.savez(__import__("sys").argv[1], **{f"{p} {s}": r.tokens for (p, s), r in eight.items()})
"""


def test_eight_devices_draw_what_one_does(run_on_fake_devices, expected, tmp_path):
    """data 2 x fsdp 2 x tensor 2: weights whole on each fsdp rank, in halves over tensor. Also another process draws alike."""
    assert run_on_fake_devices(ON_EIGHT, tmp_path / "tokens.npz").split() == ["1", "1.0", "8", "0.5"]
    with np.load(tmp_path / "tokens.npz") as tokens:
        for (prompt, number), rollout in expected.items():
            np.testing.assert_array_equal(tokens[f"{prompt} {number}"], rollout.tokens)


def test_later_steps_compile_nothing(requests):
    counts = []
    for step in range(3):
        drawn = make_engine().lay_out(random_params(TINY, step))
        chosen = requests[step : 12 + 3 * step]
        assert len(list(make_engine()(drawn, chosen, jax.random.key(step)))) == len(chosen)
        counts.append(compilations())
    assert counts[1:] == [counts[1]] * 2


# ---- The log-probs are those of the distribution that was drawn from.


def test_logprobs_are_those_of_a_full_forward_pass(expected):
    worst, count = 0.0, 0
    for rollout in expected.values():
        exact = log_softmax(logits_of(rollout))[np.arange(len(rollout.tokens)), rollout.tokens]
        assert rollout.behaviour_logprobs.dtype == np.float32
        worst, count = max(worst, np.abs(rollout.behaviour_logprobs - exact).max()), count + len(exact)
    print(f"largest difference over {count} tokens {worst:.1e}")
    assert worst < TOLERANCE
    assert any(r.finish_reason == "stop" for r in expected.values())  # the stop token's log-prob is among them


def test_logprobs_with_temperature_and_limits_are_renormalised(requests):
    rule = SamplingRule(temperature=0.7, top_k=20, top_p=0.8)
    for rollout in sample(make_engine(), requests[:3], rule=rule).values():
        for logits, token, logprob in zip(logits_of(rollout), rollout.tokens, rollout.behaviour_logprobs, strict=True):
            order = np.argsort(-logits)[:20]
            top_k = np.exp(log_softmax(logits[order] / 0.7))
            kept = order[: 1 + np.searchsorted(np.cumsum(top_k), 0.8)]
            assert token in kept
            exact = log_softmax(logits[kept] / 0.7)[list(kept).index(token)]
            assert logprob == pytest.approx(exact, abs=3e-5)


def test_greedy_takes_the_most_likely_token(requests):
    drawn = sample(make_engine(), requests[:6:3], rule=SamplingRule(temperature=0.0))
    for rollout in drawn.values():
        np.testing.assert_array_equal(rollout.tokens, logits_of(rollout).argmax(axis=-1))
        np.testing.assert_array_equal(rollout.behaviour_logprobs, np.zeros(len(rollout.tokens)))


# ---- Where a response ends.


def test_stop_token_ends_the_response_and_belongs_to_it(expected):
    seen = set()
    for rollout in expected.values():
        assert len(rollout.tokens) == len(rollout.behaviour_logprobs) >= 1 and rollout.tokens.dtype == np.int32
        assert not set(rollout.tokens[:-1]) & set(STOP_IDS)
        stopped = rollout.tokens[-1] in STOP_IDS
        assert (rollout.finish_reason, rollout.truncated) == (("stop", False) if stopped else ("length", True))
        assert stopped or len(rollout.tokens) == MAX_RESPONSE
        seen |= {int(rollout.tokens[-1])} & set(STOP_IDS)
    assert len(seen) > 1 and any(r.truncated for r in expected.values())


def test_each_request_has_its_own_limit(requests, expected):
    limited = [type(r)(r.prompt, r.sample_id, 1 + i % MAX_RESPONSE) for i, r in enumerate(requests)]
    for name, rollout in sample(make_engine(), limited).items():
        limit, whole = rollout.request.max_tokens, expected[name]
        np.testing.assert_array_equal(rollout.tokens, whole.tokens[:limit])
        assert rollout.truncated == (len(whole.tokens) > limit or whole.truncated)


def test_a_stop_token_at_the_limit_is_a_stop(requests, expected):
    name, whole = next((n, r) for n, r in expected.items() if not r.truncated and len(r.tokens) > 1)
    request = type(whole.request)(whole.request.prompt, whole.request.sample_id, len(whole.tokens))
    same(sample(make_engine(), [request]), {name: whole})


# ---- Errors.


@pytest.mark.parametrize(
    "length, limit, message",
    [
        (21, 5, r"prompt 'p0' has 21 tokens: wanted 1 to max_prompt_tokens=20"),
        (0, 5, r"prompt 'p0' has 0 tokens"),
        (5, 11, r"prompt 'p0' asks for max_tokens=11: wanted 1 to max_response_tokens=10"),
        (5, 0, r"prompt 'p0' asks for max_tokens=0"),
    ],
)
def test_requests_that_the_cache_cannot_hold(length, limit, message):
    with pytest.raises(ValueError, match=message):
        next(make_engine()(weights(), make_requests([length], limit), KEY))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"slots": 0}, r"rollout slots=0: wanted a positive multiple of 1 \(data x fsdp devices\)"),
        ({"stop_ids": (3, 96)}, r"stop ids \[3, 96\].*all in \[0, 96\); outside: \[96\]"),
        ({"stop_ids": (-1,)}, r"outside: \[-1\]"),
        ({"stop_ids": ()}, r"stop ids \[\]: wanted at least one"),
    ],
)
def test_engines_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(**options)


def test_slots_that_the_mesh_does_not_divide_are_refused():
    class FakeMesh:
        shape = {"data": 2, "fsdp": 2, "tensor": 1}

    with pytest.raises(ValueError, match=r"slots=6: wanted a positive multiple of 4"):
        RolloutEngine(TINY, FakeMesh(), (3,), slots=6, max_prompt_tokens=4, max_response_tokens=4)
