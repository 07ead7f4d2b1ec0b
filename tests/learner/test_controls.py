"""Advantages of controls: what is dealt out, and what stays."""

import dataclasses

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_examples, random_values

from gopd_jax.learner.controls import controlled, random_teacher
from gopd_jax.learner.settings import ControlSettings
from gopd_jax.objective.gopd import gopd_advantage

SEED = (0, 3, 0)


def scored_examples():
    """Two domains with lambda 1.25 and 1; no reference where lambda is 1."""
    examples = make_examples(12, 2, response=(2, 9))
    teacher, reference = random_values(examples, 1), random_values(examples, 2)
    return [
        dataclasses.replace(
            e,
            reward_scale=(1.25, 1.0)[e.domain],
            teacher_logprobs=teacher[e.key],
            reference_logprobs=None if e.domain else reference[e.key],
        )
        for e in examples
    ]


def advantages_of(example):
    given = example.behaviour_logprobs, example.teacher_logprobs, example.reference_logprobs
    return np.asarray(gopd_advantage(*given, example.reward_scale))


def test_without_a_control_the_examples_stay():
    examples = scored_examples()
    assert controlled(examples, ControlSettings(), SEED) == examples


def test_a_constant_is_the_same_for_all_tokens_and_nothing_is_left_of_the_teacher():
    examples = scored_examples()
    settings = ControlSettings(kind="constant", advantage=-0.25)
    for before, after in zip(examples, controlled(examples, settings, SEED), strict=True):
        np.testing.assert_array_equal(after.advantage, np.full(len(before.response), -0.25))
        rest = {"advantage": 0.0, "teacher_logprobs": None, "reference_logprobs": None}
        assert dataclasses.replace(after, **rest) == dataclasses.replace(before, **rest)


def test_permuted_tokens_are_the_teachers_advantages_in_another_order():
    examples = scored_examples()
    settings = ControlSettings(kind="permuted_tokens")
    found = controlled(examples, settings, SEED)
    for domain in (0, 1):
        before = np.concatenate([advantages_of(e) for e in examples if e.domain == domain])
        after = np.concatenate([e.advantage for e in found if e.domain == domain])
        np.testing.assert_allclose(np.sort(after), np.sort(before), atol=1e-6)
        assert np.mean(np.isclose(after, before)) < 0.3
    again = controlled(examples, settings, SEED)
    other = controlled(examples, settings, (0, 4, 0))
    np.testing.assert_array_equal(found[0].advantage, again[0].advantage)
    assert any((a.advantage != b.advantage).any() for a, b in zip(found, other, strict=True))


def test_permuted_answers_have_those_of_another_answer_from_its_start():
    examples = scored_examples()
    found = controlled(examples, ControlSettings(kind="permuted_answers"), SEED)
    for domain in (0, 1):
        before = {e.key: advantages_of(e) for e in examples if e.domain == domain}
        for e in (e for e in found if e.domain == domain):
            sources = [
                key
                for key, a in before.items()
                if np.allclose(e.advantage, np.resize(a, len(e.response)), atol=1e-6)
            ]
            assert sources and e.key not in sources


def test_a_random_teacher_is_as_far_away_and_elsewhere():
    start, teacher = random_params(TINY, 0), random_params(TINY, 1)
    found = random_teacher(teacher, start, seed=0)
    for moved, ours, theirs in zip(*map(jax.tree.leaves, (found, start, teacher)), strict=True):
        distance = np.sort((moved - ours).ravel())
        np.testing.assert_allclose(distance, np.sort((theirs - ours).ravel()), atol=1e-6)
        if moved.size > 8:
            assert not np.allclose(moved, theirs, atol=1e-4)
    narrow = random_params(dataclasses.replace(TINY, mlp_width=TINY.mlp_width // 2))
    with pytest.raises(ValueError, match="expected a teacher of the student's architecture"):
        random_teacher(narrow, start, seed=0)
