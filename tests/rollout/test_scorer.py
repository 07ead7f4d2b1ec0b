"""The sampler reports what the learner's scorer computes: every position, the stop token too, under every sampling rule."""

import functools

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_requests

from gopd_jax.learner.packing import Sequence, pack
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


@pytest.mark.parametrize(
    "rule",
    [SamplingRule(), SamplingRule(0.6), SamplingRule(top_p=0.7), SamplingRule(0.8, 30, 0.9)],
    ids=str,
)
def test_sampler_equals_scorer(rule):
    requests = make_requests(LENGTHS, LIMIT, sample_ids=(0, 1, 2, 3))
    rollouts = list(
        engine()(engine().lay_out(random_params(TINY)), requests, jax.random.key(3), rule)
    )
    sequences = [
        Sequence(
            (i,), 0, r.request.prompt.tokens, r.tokens, 1.0, behaviour_logprobs=r.behaviour_logprobs
        )
        for i, r in enumerate(rollouts)
    ]
    batch, places, _ = pack(sequences, 12, 2, 44)
    active = np.ones(12, bool)
    run = functools.partial(score, model=Decoder(TINY, remat=False), rule=rule)
    scores = np.asarray(jax.jit(run)(random_params(TINY), batch, active))
    gaps, stops = [], 0
    for i, rollout in enumerate(rollouts):
        place = places[(i,)]
        first = place.start + len(rollout.request.prompt.tokens) - 1
        scored = scores[place.micro, place.row, first : first + len(rollout.tokens)]
        gaps.append(np.abs(scored - rollout.behaviour_logprobs))
        stops += rollout.finish_reason == "stop"
    worst = max(gap.max() for gap in gaps)
    print(
        f"largest gap over {sum(map(len, gaps))} tokens, {stops} of them stop tokens: {worst:.1e}"
    )
    assert stops > len(rollouts) / 4 and worst < TOLERANCE
