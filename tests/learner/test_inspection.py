"""What is seen of a few responses over the whole vocabulary, against all logits at once."""

from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_learner

from gopd_jax.learner.inspection import TOP, inspect_responses, inspection_metrics
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.runtime.metrics import compilations
from tests.learner.test_distance import logprobs, make_rollouts

LAMBDA = 1.5


def test_against_all_logits_and_one_program_serves_every_call():
    learner = make_learner(make_config())
    student, teacher, reference = (random_params(TINY, seed) for seed in range(3))
    models = FrozenModel("teacher", TINY, teacher), FrozenModel("reference", TINY, reference)
    rollouts = make_rollouts(shown_more=True)
    found = inspect_responses(learner, student, *models, rollouts, LAMBDA)
    for i, rollout in enumerate(rollouts):
        prompt = rollout.request.prompt
        read = prompt.tokens if prompt.teacher_tokens is None else prompt.teacher_tokens
        p = logprobs(student, prompt.tokens, rollout.tokens)
        q = logprobs(teacher, read, rollout.tokens)
        r = logprobs(reference, prompt.tokens, rollout.tokens)
        drawn = np.arange(len(rollout.tokens)), rollout.tokens
        ours, theirs = (np.argsort(-x, axis=-1)[:, :TOP] for x in (p, q))
        entropies = [-(np.exp(x) * x).sum(-1) for x in (p, q)]
        expected = {
            "top_k_overlap": [len({*a} & {*b}) / TOP for a, b in zip(ours, theirs, strict=True)],
            "teacher_on_top_k": np.take_along_axis(np.exp(q), ours, -1).sum(-1),
            "teacher_entropy": entropies[1],
            "entropy_gap": entropies[0] - entropies[1],
            "implied_reward": LAMBDA * (q - r)[drawn],
            "log_z": np.log(np.exp(LAMBDA * q + (1 - LAMBDA) * r).sum(-1)),
        }
        assert found.keys() == expected.keys()
        for name, right in expected.items():
            np.testing.assert_allclose(found[name][i], right, atol=3e-5, err_msg=name)
    before = compilations()
    inspect_responses(learner, student, *models, rollouts[::-1], LAMBDA)
    assert compilations() == before


def test_means_by_domain_and_position():
    values = {"a": {"x": [np.array([1.0, 3.0, 5.0]), np.array([7.0])]}, "b": {"x": [np.ones(4)]}}
    found = inspection_metrics(values)
    assert found["x"] == pytest.approx(20 / 8) and found["x/a"] == pytest.approx(4)
    assert found["x_by_position/a"] == pytest.approx([11 / 3, 5])
    assert found["x_by_position/b"] == pytest.approx([1, 1])
    assert inspection_metrics({"a": values["a"]}).keys() == {"x", "x_by_position"}
