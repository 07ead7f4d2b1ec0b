"""The sampler's log-probs are those that the learner's scorer computes, under every rule."""

import functools

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_requests, pack_one, run_score

from gopd_jax.learner.example import Example
from gopd_jax.learner.step import score
from gopd_jax.models.decoder import Decoder
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh

LENGTHS, LIMIT = (3, 20, 7, 16, 1), 24
TOLERANCE = 1e-5


@functools.cache
def engine():
    mesh = make_mesh(devices=jax.devices()[:1])
    stop_ids = tuple(range(3, 90, 12))
    return RolloutEngine(
        TINY, mesh, stop_ids, slots=8, max_prompt_tokens=20, max_response_tokens=LIMIT
    )


def to_example(rollout):
    return Example(
        key=rollout.request.key,
        domain=0,
        prompt=rollout.request.prompt.tokens,
        response=rollout.tokens,
        weight=1.0,
        behaviour_logprobs=rollout.behaviour_logprobs,
    )


@pytest.mark.parametrize(
    "rule",
    [SamplingRule(), SamplingRule(0.6), SamplingRule(top_p=0.7), SamplingRule(0.8, 30, 0.9)],
    ids=str,
)
def test_sampler_equals_scorer(rule):
    """At every position, that of the stop token included."""
    params = random_params(TINY)
    requests = make_requests(LENGTHS, LIMIT, sample_ids=(0, 1, 2, 3))
    weights = engine().sync_weights(params)
    rollouts = list(engine()(weights, requests, jax.random.key(3), rule))
    batch, slices = pack_one([to_example(r) for r in rollouts], 12, 2, 44)
    run = functools.partial(score, model=Decoder(TINY, remat="none"), rule=rule)
    scores = run_score(jax.jit(run), params, batch)
    gaps = []
    for r in rollouts:
        where = slices[r.request.key].predictions(len(r.request.prompt.tokens), len(r.tokens))
        gaps.append(np.abs(scores[where] - r.behaviour_logprobs))
    worst, stops = max(gap.max() for gap in gaps), sum(r.finish_reason == "stop" for r in rollouts)
    count = sum(map(len, gaps))
    print(f"largest gap over {count} tokens, {stops} of them stop tokens: {worst:.1e}")
    assert stops > len(rollouts) / 4 and worst < TOLERANCE
