"""The reported log-probs are those of the distribution drawn from, in float and in int8."""

import dataclasses

from engine_cases import (
    KEY,
    MAX_RESPONSE,
    REQUESTS,
    STOP_IDS,
    TOLERANCE,
    exact_logprobs,
    expected,
    log_softmax,
    logits_of,
    make_engine,
    same,
    sample,
)
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from scipy import stats
from step_cases import TINY, make_requests

from gopd_jax.models.settings import SamplingRule
from gopd_jax.types import EncodedPrompt, Request


def test_logprobs_are_those_of_a_full_forward_pass():
    worst, count = 0.0, 0
    for rollout in expected().values():
        assert rollout.behaviour_logprobs.dtype == np.float32
        gap = np.abs(rollout.behaviour_logprobs - exact_logprobs(rollout)).max()
        worst, count = max(worst, gap), count + len(rollout.tokens)
    print(f"largest difference over {count} tokens {worst:.1e}")
    assert worst < TOLERANCE
    # The log-prob of a stop token is among them.
    assert any(r.finish_reason == "stop" for r in expected().values())


def test_logprobs_with_temperature_and_limits_are_renormalised():
    rule = SamplingRule(temperature=0.7, top_k=20, top_p=0.8)
    for rollout in sample(make_engine(), REQUESTS[:3], rule=rule).values():
        for logits, token, logprob in zip(
            logits_of(rollout), rollout.tokens, rollout.behaviour_logprobs, strict=True
        ):
            order = np.argsort(-logits)[:20]
            top_k = np.exp(log_softmax(logits[order] / 0.7))
            kept = order[: 1 + np.searchsorted(np.cumsum(top_k), 0.8)]
            assert token in kept
            exact = log_softmax(logits[kept] / 0.7)[list(kept).index(token)]
            assert logprob == pytest.approx(exact, abs=3e-5)


def test_greedy_takes_the_most_likely_token():
    drawn = sample(make_engine(), REQUESTS[:6:3], rule=SamplingRule(temperature=0.0))
    for rollout in drawn.values():
        np.testing.assert_array_equal(rollout.tokens, logits_of(rollout).argmax(axis=-1))
        np.testing.assert_array_equal(rollout.behaviour_logprobs, np.zeros(len(rollout.tokens)))


# ---- int8.

SHORT = make_requests((3, 7, 16, 1, 12), MAX_RESPONSE, sample_ids=(0, 1, 2))  # one chunk width


def mean_gap(rollouts):
    """Mean of |log-prob reported - log-prob of the float model| over all tokens."""
    gaps = []
    for r in rollouts:
        gaps.append(np.abs(r.behaviour_logprobs - exact_logprobs(r)))
        assert 1 <= len(r.tokens) <= MAX_RESPONSE and (r.tokens[-1] in STOP_IDS) != r.truncated
        assert ((0 <= r.tokens) & (r.tokens < TINY.vocab_size)).all()
        assert not set(r.tokens[:-1]) & set(STOP_IDS)
        assert (r.behaviour_logprobs < 0).all()
    gap = np.concatenate(gaps).mean()
    print(f"mean gap {gap:.1e} nats")
    return gap


@pytest.mark.slow
def test_an_int8_cache_is_close_and_does_not_depend_on_slots_either():
    engine = make_engine(kv_cache="int8")
    drawn = sample(engine, SHORT)
    assert 1e-4 < mean_gap(drawn.values()) < 0.2
    column = 2 * TINY.layers * TINY.kv_heads * (TINY.head_size + 4)  # a scale has 4 bytes
    assert engine.caches.bytes_of(4) == 4 * column * (32 + 16)
    other = make_engine(slots=7, kv_cache="int8", steps_per_dispatch=3)
    same(sample(other, SHORT[::-1]), drawn)


def test_int8_weights_are_close_and_have_a_scale_for_each_output_channel():
    engine = make_engine(weights="int8")
    quantized = engine.sync_weights(random_params(TINY))
    query, key = TINY.heads * TINY.head_size, TINY.kv_heads * TINY.head_size
    channels = {"query": query, "key": key, "value": key, "out": TINY.width}
    channels |= {"gate": TINY.mlp_width, "up": TINY.mlp_width, "down": TINY.width}
    for layer in quantized["layers"]:
        matrices = layer["attention"] | layer["mlp"]
        int8 = {
            name: x.scale.size
            for name, x in matrices.items()
            if hasattr(x, "qvalue") and x.qvalue.dtype == jnp.int8
        }
        assert int8 == channels
    assert 1e-4 < mean_gap(list(engine(quantized, SHORT, KEY))) < 0.2


# ---- The distribution, through the whole engine.


def test_first_tokens_follow_the_distribution_of_the_model_and_the_rule():
    """2,048 samples on 512 slots; p-value of a chi-square test, fixed seed."""
    rule, count = SamplingRule(temperature=0.7, top_p=0.8), 2048
    (request,) = make_requests([5], 1)
    requests = []
    for i in range(4):  # at most as many samples of one prompt id as slots
        source = dataclasses.replace(request.prompt.source, prompt_id=f"q{i}")
        prompt = EncodedPrompt(source, request.prompt.tokens)
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
    rarest = count * exact[kept].min()
    p_value = stats.chisquare(counts[kept], count * exact[kept]).pvalue
    print(f"p = {p_value:.3f} over {len(kept)} tokens, the rarest expected {rarest:.0f} times")
    assert p_value > 0.01 and rarest > 5
