"""Samples that share their prompt in a row: the update and the scores are those without sharing."""

import collections
import dataclasses

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_learner, make_samples, naive, of_tokens

from gopd_jax.learner import packing
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import Scoring, with_scores
from gopd_jax.types import SampleKey

SAMPLES, PROMPT, RESPONSE = 4, 60, 40


@pytest.fixture(scope="module", autouse=True)
def short_rows():
    """Rows of two lengths, long ones of several blocks of the attention kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "LEAST", 40)
        yield


@pytest.fixture(scope="module")
def learner(short_rows):
    config = make_config(
        ("code", "math"),
        scales={"math": 1.0},
        reward_scale=1.25,
        max_prompt_tokens=PROMPT,
        max_response_tokens=RESPONSE,
        samples_per_prompt=SAMPLES,
        prompts_per_step=6,
        row_length=200,
    )
    return make_learner(config)


def examples_of(learner, **fields):
    """Prompts shorter and longer than a block of 32; those of the second domain fill short rows."""
    found = make_samples(7, SAMPLES, (9, PROMPT), (1, RESPONSE))
    short = make_samples(1, SAMPLES, (3, 4), (1, 20), seed=3)
    found += [dataclasses.replace(e, key=SampleKey("q", e.key.sample_id), domain=1) for e in short]
    scales = list(learner.reward_scales.values())
    rng = np.random.default_rng(4)
    return [
        dataclasses.replace(
            e,
            reward_scale=scales[e.domain],
            advantage=float(rng.normal()),
            **{n: rng.uniform(-6, -3, len(e.response)).astype(np.float32) for n in fields["names"]},
        )
        for e in found
    ]


def without_sharing(learner, monkeypatch):
    monkeypatch.setattr(learner, "sharing", None)


GOPD = ("behaviour_logprobs", "teacher_logprobs", "reference_logprobs")


@pytest.mark.parametrize(
    "names", [GOPD, pytest.param(GOPD[:1], marks=pytest.mark.slow)], ids=["gopd", "grpo"]
)
def test_an_update_is_that_without_sharing(learner, monkeypatch, names):
    examples = examples_of(learner, names=names)

    def updated():
        packed = learner.pack(examples, names)
        return packed, *learner.update(learner.start(random_params(TINY)), packed)

    packed, state, metrics, tokens = updated()
    without_sharing(learner, monkeypatch)
    other, other_state, other_metrics, other_tokens = updated()
    assert packed.cost.done.tokens < 0.8 * other.cost.done.tokens
    prompts = {e.key.prompt_id: len(e.prompt) for e in examples}
    needed = sum(prompts.values()) + sum(len(e.response) for e in examples)
    assert packed.cost.needed.tokens == other.cost.needed.tokens == needed
    assert needed < packed.cost.tokens < other.cost.tokens
    assert all(packed.used) and len(packed.used) == 2
    # Some prompts have all their samples in a row, and some are split over rows.
    rows = collections.defaultdict(set)
    for e in examples:
        if e.domain == 0:
            rows[e.key.prompt_id].add(dataclasses.replace(packed.slices[e.key], start=0))
    assert {1, 2} <= set(map(len, rows.values()))
    assert float(metrics.loss) == pytest.approx(float(other_metrics.loss), rel=1e-5)
    assert float(metrics.grad_norm) == pytest.approx(float(other_metrics.grad_norm), rel=1e-5)
    # Adam's moments are the gradient and its square.
    moments = (jax.tree.leaves(x.opt_state) for x in (state, other_state))
    for ours, theirs in zip(*moments, strict=True):
        largest = np.abs(theirs).max()
        assert largest > 0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * largest)
    for e in examples:
        for name in ("logprobs", "advantages"):
            mine, theirs = (
                of_tokens([getattr(t, name) for t in found], where, e)
                for found, where in ((tokens, packed), (other_tokens, other))
            )
            np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_scores_are_those_of_each_sample_alone(learner):
    examples = examples_of(learner, names=())
    params = [random_params(TINY, i) for i in range(3)]
    frozen = [FrozenModel("a frozen model", TINY, p) for p in params]
    teachers = {"code": frozen[0], "math": frozen[1]}
    scored = with_scores(learner, examples, teachers, frozen[2])
    expected = [naive(p, examples, width=PROMPT + RESPONSE)[1] for p in params]
    for e in scored:
        np.testing.assert_allclose(e.teacher_logprobs, expected[e.domain][e.key], atol=2e-5)
        if not e.domain:  # lambda is 1 in the other
            np.testing.assert_allclose(e.reference_logprobs, expected[2][e.key], atol=2e-5)


def test_early_scores_wait_for_company_and_are_the_same(learner):
    """Prompts are scored before the end once all of their samples are there."""
    examples = make_samples(12, SAMPLES, (9, PROMPT), (1, RESPONSE))
    teacher = FrozenModel("a teacher", TINY, random_params(TINY, 1))
    whole = {e.key: e.teacher_logprobs for e in with_scores(learner, examples, {"code": teacher})}
    # One sample of each prompt after the other, and one prompt after the other.
    by_sample = sorted(examples, key=lambda e: e.key.sample_id)
    tokens = {}
    for name, order in (("samples", by_sample), ("prompts", examples)):
        scoring = Scoring(learner, {"code": teacher})
        for e in order[:-12]:
            scoring.add([e])
        tokens[name] = scoring.cost.done.tokens
        scoring.add(order[-12:])
        for key, found in scoring.finish().items():
            np.testing.assert_allclose(found["teacher_logprobs"], whole[key], atol=1e-5)
        assert scoring.cost.needed.predictions == sum(len(e.response) for e in examples)
    assert tokens["prompts"] > 0 and tokens["samples"] == 0


def test_one_sample_of_each_prompt_leaves_nothing_to_share():
    assert make_learner(make_config()).sharing is None
    several = make_config(samples_per_prompt=2)
    assert make_learner(several).sharing is not None
    off = dataclasses.replace(several.learner, share_prompts=False)
    assert make_learner(dataclasses.replace(several, learner=off)).sharing is None
