"""The engine: a sample depends on its request, the weights and the key alone, and reports the probability it was drawn with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from scipy import stats
from step_cases import TINY, make_requests

from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.types import Request

STOP_IDS = (3, 40, 41, 42, 95)
LENGTHS = (3, 20, 7, 16, 18, 1, 12)
MAX_PROMPT, MAX_RESPONSE = 20, 10
TOLERANCE = 1e-5
KEY = jax.random.key(1)
PLAIN = SamplingRule()


@functools.cache
def make_engine(
    slots=4, max_prompt=MAX_PROMPT, stop_ids=STOP_IDS, max_response=MAX_RESPONSE, **options
):
    mesh, options = make_mesh(devices=jax.devices()[:1]), EngineOptions(**options)
    return RolloutEngine(
        TINY,
        mesh,
        stop_ids,
        slots=slots,
        max_prompt_tokens=max_prompt,
        max_response_tokens=max_response,
        options=options,
    )


@functools.cache
def weights(seed=0):
    return make_engine().lay_out(random_params(TINY, seed))


def sample(engine, requests, key=KEY, seed=0, rule=PLAIN):
    """{(prompt id, sample id): rollout}"""
    rollouts = list(engine(weights(seed), requests, key, rule))
    assert len(rollouts) == len(requests)
    by_name = {r.request.key: r for r in rollouts}
    assert by_name.keys() == {r.key for r in requests}
    return by_name


def same(actual, expected):
    assert actual.keys() <= expected.keys()
    for name, rollout in actual.items():
        np.testing.assert_array_equal(rollout.tokens, expected[name].tokens, err_msg=str(name))
        np.testing.assert_allclose(
            rollout.behaviour_logprobs, expected[name].behaviour_logprobs, atol=TOLERANCE
        )
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
    hidden = Decoder(TINY, remat=False).apply(
        {"params": params}, tokens, positions, jnp.ones_like(tokens)
    )
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
    same(
        sample(make_engine(max_prompt=150), requests), expected
    )  # three blocks of columns in place of one
    same(sample(make_engine(steps_per_dispatch=3), requests), expected)
    same(sample(make_engine(prefill_tokens=6), requests), expected)  # prompts in pieces


def test_step_sample_prompt_and_weights_change_the_draw(requests, expected):
    def tokens(rollouts):
        return [tuple(rollouts[name].tokens) for name in sorted(rollouts)]

    assert len(set(tokens(expected))) == len(requests)  # also the three samples of each prompt
    for other in (
        sample(make_engine(), requests, jax.random.key(2)),
        sample(make_engine(), requests, seed=5),
    ):
        assert (
            sum(a != b for a, b in zip(tokens(other), tokens(expected), strict=True))
            >= len(requests) - 1
        )
    twins = make_requests((12, 12), sample_ids=(0, 1, 2), seed=3)
    twins[3:] = [
        type(r)(type(r.prompt)(r.prompt.source, twins[0].prompt.tokens), r.sample_id, r.max_tokens)
        for r in twins[3:]
    ]
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
    results.append({r.request.key: r for r in rollouts})
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
    assert run_on_fake_devices(ON_EIGHT, tmp_path / "tokens.npz").split() == [
        "1",
        "1.0",
        "8",
        "0.5",
    ]
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
        worst, count = (
            max(worst, np.abs(rollout.behaviour_logprobs - exact).max()),
            count + len(exact),
        )
    print(f"largest difference over {count} tokens {worst:.1e}")
    assert worst < TOLERANCE
    assert any(
        r.finish_reason == "stop" for r in expected.values()
    )  # the stop token's log-prob is among them


def test_logprobs_with_temperature_and_limits_are_renormalised(requests):
    rule = SamplingRule(temperature=0.7, top_k=20, top_p=0.8)
    for rollout in sample(make_engine(), requests[:3], rule=rule).values():
        for logits, token, logprob in zip(
            logits_of(rollout), rollout.tokens, rollout.behaviour_logprobs, strict=True
        ):
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
        assert (
            len(rollout.tokens) == len(rollout.behaviour_logprobs) >= 1
            and rollout.tokens.dtype == np.int32
        )
        assert not set(rollout.tokens[:-1]) & set(STOP_IDS)
        stopped = rollout.tokens[-1] in STOP_IDS
        assert (rollout.finish_reason, rollout.truncated) == (
            ("stop", False) if stopped else ("length", True)
        )
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


def test_prompts_of_one_id_and_more_samples_than_slots_are_refused():
    many = make_requests([5], sample_ids=range(5))
    with pytest.raises(
        ValueError, match=r"prompt 'p0' is asked for 5 samples: wanted at most slots=4"
    ):
        next(make_engine()(weights(), many, KEY))
    twins = make_requests([5]) + make_requests([5], sample_ids=(1,), seed=1)
    with pytest.raises(
        ValueError, match=r"prompt id 'p0' stands for two prompts: wanted an id for each"
    ):
        next(make_engine()(weights(), twins, KEY))
    copies = [
        type(r)(type(r.prompt)(r.prompt.source, r.prompt.tokens.copy()), r.sample_id, 1)
        for r in many[:2]
    ]
    assert (
        len(list(make_engine()(weights(), copies, KEY))) == 2
    )  # the same tokens in another array are no other prompt


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kv_cache": "int4"}, r"kv_cache='int4': wanted one of \['compute', 'int8'\]"),
        ({"weights": "float"}, r"weights='float': wanted one of \['compute', 'int8'\]"),
        ({"steps_per_dispatch": 0}, r"steps_per_dispatch=0: wanted a number >= 1"),
        ({"prefill_tokens": 0}, r"prefill_tokens=0: wanted a number >= 1"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        EngineOptions(**options)


# ---- One call at a time, a rollout at a time.


def test_an_engine_draws_for_one_iterator_at_a_time(requests, expected):
    engine = make_engine()
    first, second = engine(weights(), requests, KEY), engine(weights(), requests, KEY)
    drawn = next(first)
    for other in (second, engine(weights(), requests[:1], KEY)):
        with pytest.raises(
            RuntimeError,
            match="this engine is drawing already; finish or close the other iterator first",
        ):
            next(other)
    names = [r.request.key for r in (drawn, next(first))]
    assert set(names) <= expected.keys()  # the first goes on
    first.close()
    same(sample(engine, requests), expected)


def test_rollouts_come_out_before_the_last_one_is_drawn(requests):
    engine = make_engine()
    rollouts = engine(weights(), requests, KEY)
    next(rollouts)
    steps, dispatches = engine.stats.steps, engine.stats.dispatches
    assert dispatches == 1
    assert len(list(rollouts)) == len(requests) - 1
    assert engine.stats.steps > 3 * steps and engine.stats.dispatches > 3


def test_the_mesh_in_use_between_rollouts_is_the_callers(requests):
    rollouts = make_engine()(weights(), requests, KEY)
    next(rollouts)
    between = jax.sharding.get_abstract_mesh()
    rollouts.close()
    assert between.empty


def test_after_an_error_the_engine_draws_again(requests, expected):
    engine = make_engine()
    with pytest.raises(TypeError):
        next(engine({}, requests, KEY))
    assert engine.cache_bytes == 0  # what was lent to a program may be lost
    same(sample(engine, requests), expected)


# ---- Prompts once, caches kept.

EIGHT = tuple(range(8))


def test_a_prompt_is_prefilled_once_for_eight_samples(expected):
    engine = make_engine(slots=8)
    requests = make_requests(LENGTHS, MAX_RESPONSE, sample_ids=EIGHT)
    drawn = sample(engine, requests)
    same({name: r for name, r in drawn.items() if name in expected}, expected)
    stats = engine.stats
    assert stats.prefill_tokens == stats.prompt_tokens == sum(LENGTHS)
    assert 0 < stats.copies <= len(requests) - len(LENGTHS)
    assert stats.samples == len(requests) and stats.tokens == sum(
        len(r.tokens) for r in drawn.values()
    )
    assert (
        stats.slot_steps == 8 * stats.steps
        and stats.utilisation == stats.tokens / stats.slot_steps > 0.5
    )


def test_caches_and_programs_are_kept_until_they_are_freed():
    engine = make_engine(slots=8)
    requests = make_requests(LENGTHS, MAX_RESPONSE, sample_ids=EIGHT)
    first = sample(engine, requests)
    size, programs = engine.cache_bytes, list(engine.programs)
    a_column = 2 * TINY.layers * TINY.kv_heads * TINY.head_size * 4  # keys and values in float32
    assert size == 8 * a_column * (32 + 16)  # 20 + 10 columns in one block, 16 fresh ones
    same(sample(engine, requests), first)
    assert (engine.cache_bytes, engine.programs) == (size, programs)
    engine.free()
    assert engine.cache_bytes == 0
    same(sample(engine, requests), first)
    assert (engine.cache_bytes, engine.programs) == (size, programs)


# ---- int8.


def gaps(rollouts):
    """|log-prob reported - log-prob of the float model|, one for each token."""
    out = []
    for r in rollouts.values():
        exact = log_softmax(logits_of(r))[np.arange(len(r.tokens)), r.tokens]
        out.append(np.abs(r.behaviour_logprobs - exact))
        assert 1 <= len(r.tokens) <= MAX_RESPONSE and (r.tokens[-1] in STOP_IDS) != r.truncated
        assert ((0 <= r.tokens) & (r.tokens < TINY.vocab_size)).all() and not set(
            r.tokens[:-1]
        ) & set(STOP_IDS)
        assert (r.behaviour_logprobs < 0).all()
    return np.concatenate(out)


SHORT = (3, 7, 16, 1, 12)  # one bucket of prompt pieces


def test_an_int8_cache_is_close_and_depends_on_no_slot_either():
    requests, one = (
        make_requests(SHORT, MAX_RESPONSE, sample_ids=(0, 1, 2)),
        make_engine(kv_cache="int8"),
    )
    drawn = sample(one, requests)
    gap = gaps(drawn).mean()
    print(f"mean gap {gap:.1e} nats")
    assert 1e-4 < gap < 0.2
    assert one.cache_bytes == 4 * 2 * TINY.layers * TINY.kv_heads * (TINY.head_size + 4) * (
        32 + 16
    )  # a scale is 4 bytes
    same(sample(make_engine(slots=7, kv_cache="int8", steps_per_dispatch=3), requests[::-1]), drawn)


def test_int8_weights_are_close():
    engine = make_engine(weights="int8")
    quantized = engine.lay_out(random_params(TINY))
    for layer in quantized["layers"]:
        matrices = layer["attention"] | layer["mlp"]
        scales = {
            name: x.scale.size
            for name, x in matrices.items()
            if hasattr(x, "qvalue") and x.qvalue.dtype == jnp.int8
        }
        query, key, width, wide = (
            TINY.heads * TINY.head_size,
            TINY.kv_heads * TINY.head_size,
            TINY.width,
            TINY.mlp_width,
        )
        outputs = {
            "query": query,
            "key": key,
            "value": key,
            "out": width,
            "gate": wide,
            "up": wide,
            "down": width,
        }
        assert scales == outputs  # one for each output channel
    rollouts = engine(quantized, make_requests(SHORT, MAX_RESPONSE, sample_ids=(0, 1, 2)), KEY)
    gap = gaps({i: r for i, r in enumerate(rollouts)}).mean()
    print(f"mean gap {gap:.1e} nats")
    assert 1e-4 < gap < 0.2


# ---- The distribution, through the whole engine.


def test_first_tokens_follow_the_distribution_of_the_model_and_the_rule():
    """2,048 samples on 512 slots: p-value of a chi-square test, fixed seed."""
    rule, count = SamplingRule(temperature=0.7, top_p=0.8), 2048
    (request,) = make_requests([5], 1)
    requests = []
    for i in range(4):  # at most as many samples of one prompt id as slots
        prompt = type(request.prompt)(
            dataclasses.replace(request.prompt.source, prompt_id=f"q{i}"), request.prompt.tokens
        )
        requests += [Request(prompt, s, 1) for s in range(count // 4)]
    drawn = sample(make_engine(slots=512), requests, rule=rule)

    logits = logits_of(drawn["q0", 0])[0] / 0.7
    probabilities = np.exp(log_softmax(logits))
    order = np.argsort(-probabilities)
    kept = order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), 0.8)]
    exact = np.zeros(TINY.vocab_size)
    exact[kept] = probabilities[kept] / probabilities[kept].sum()
    counts = np.bincount([int(r.tokens[0]) for r in drawn.values()], minlength=TINY.vocab_size)
    assert counts.sum() == count and not counts[exact == 0].any() and len(kept) > 3
    p_value = stats.chisquare(counts[kept], count * exact[kept]).pvalue
    print(
        f"p = {p_value:.3f} over {len(kept)} tokens, the rarest expected {count * exact[kept].min():.0f} times"
    )
    assert p_value > 0.01 and count * exact[kept].min() > 5
