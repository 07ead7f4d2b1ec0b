"""Log-probs of frozen models: each scores its own examples, in whatever portions they come."""

import dataclasses

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_examples, make_learner, naive

from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import Scoring, with_scores


def frozen(params):
    return FrozenModel("a frozen model", TINY, params)


def nan_params():
    return jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), random_params(TINY))


@pytest.fixture(scope="module")
def learner():
    """Two domains, lambda 1 in the first and 1.25 in the second."""
    return make_learner(make_config(("code", "math"), scales={"code": 1.0}, reward_scale=1.25))


def test_each_model_scores_its_own_examples_alone(learner):
    examples = make_examples(8, 2)
    params = [random_params(TINY, i) for i in range(4)]
    teachers = {"code": frozen(params[1]), "math": frozen(params[2])}
    scored = with_scores(learner, examples, teachers, frozen(params[3]), params[0])
    student, code, math, reference = (naive(p, examples)[1] for p in params)
    for e in scored:
        teacher = (code, math)[e.domain][e.key]
        np.testing.assert_allclose(e.teacher_logprobs, teacher, atol=2e-5)
        np.testing.assert_allclose(e.old_logprobs, student[e.key], atol=2e-5)
        if e.domain:
            np.testing.assert_allclose(e.reference_logprobs, reference[e.key], atol=2e-5)
        else:  # lambda is 1 in "code"
            assert e.reference_logprobs is None


def test_a_teacher_with_context_scores_the_response_after_its_own_prompt():
    """Domain 0 has a plain teacher; that of domain 1 reads a longer prompt."""
    plain = make_config(("code", "math"), max_teacher_prompt_tokens=14)
    context = dataclasses.replace(plain.domains["math"], teacher_context="{ground_truth}")
    learner = make_learner(dataclasses.replace(plain, domains=plain.domains | {"math": context}))
    rng = np.random.default_rng(5)
    longer = [
        rng.integers(1, TINY.vocab_size, int(rng.integers(8, 15)), dtype=np.int32) for _ in range(8)
    ]
    examples = [
        dataclasses.replace(e, teacher_prompt=longer[i] if e.domain else None)
        for i, e in enumerate(make_examples(8, 2))
    ]
    params = [random_params(TINY, i) for i in range(3)]
    teachers = {"code": frozen(params[1]), "math": frozen(params[2])}
    scored = with_scores(learner, examples, teachers, frozen(params[0]))
    read = [
        e if e.teacher_prompt is None else dataclasses.replace(e, prompt=e.teacher_prompt)
        for e in examples
    ]
    as_read = [naive(p, read, width=32)[1] for p in params]
    reference = naive(params[0], examples)[1]
    for e in scored:
        np.testing.assert_allclose(e.teacher_logprobs, as_read[1 + e.domain][e.key], atol=2e-5)
        np.testing.assert_allclose(e.reference_logprobs, reference[e.key], atol=2e-5)


def test_the_other_teacher_and_a_skipped_reference_may_be_anything(learner):
    broken, sound = frozen(nan_params()), frozen(random_params(TINY, 1))
    teachers = {"code": sound, "math": broken}
    code_alone = [e for e in make_examples(8, 2) if e.domain == 0]
    packed = learner.pack(with_scores(learner, code_alone, teachers, broken))
    state, metrics, _ = learner.update(learner.start(random_params(TINY)), packed)
    assert np.isfinite(metrics.loss)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(state.params))
    assert metrics.grad_norm > 0.01

    for e in with_scores(learner, make_examples(8, 2), teachers, sound):
        assert np.isnan(e.teacher_logprobs).all() == np.isnan(e.teacher_logprobs).any()
        assert np.isnan(e.teacher_logprobs).all() == (e.domain == 1)


def test_scores_do_not_depend_on_the_portions_in_which_examples_come(learner):
    """Whatever is full is scored before the rest is there; at the end all is."""
    examples = make_examples(120, 2)
    teachers = {"code": frozen(random_params(TINY, 1)), "math": frozen(random_params(TINY, 2))}
    reference = frozen(random_params(TINY, 3))
    whole = {e.key: e for e in with_scores(learner, examples, teachers, reference)}
    for portion in (1, 7):
        scoring = Scoring(learner, teachers, reference)
        early = 0
        for start in range(0, len(examples), portion):
            scoring.add(examples[start : start + portion])
            early = scoring.cost.needed.tokens
        assert early > 0  # before `finish`
        for key, found in scoring.finish().items():
            expected = whole[key]
            assert set(found) == {"teacher_logprobs", *["reference_logprobs"] * expected.domain}
            for name, values in found.items():
                np.testing.assert_allclose(values, getattr(expected, name), atol=1e-5)


def test_the_cost_is_that_of_what_was_scored(learner):
    examples = make_examples(8, 2)
    teachers = {"code": frozen(random_params(TINY, 1)), "math": frozen(random_params(TINY, 2))}
    scoring = Scoring(learner, teachers, teachers["code"])
    scoring.add(examples)
    scoring.finish()
    twice = sum(len(e) * (1 + e.domain) for e in examples)  # the reference reads domain 1 alone
    assert scoring.cost.needed.tokens == twice
    assert scoring.cost.done.tokens >= twice
    assert 0 < scoring.cost.flops_useful < 1
    nothing = Scoring(learner, {})
    nothing.add(examples)
    assert nothing.finish() == {e.key: {} for e in examples}
    assert nothing.cost.done.tokens == 0
