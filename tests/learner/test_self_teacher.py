"""A teacher that follows the student: where it is after an update, and what a checkpoint has."""

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_learner, trees_equal

from gopd_jax.learner.settings import SelfTeacherSettings
from gopd_jax.learner.step import followed


def test_average_and_refresh():
    teacher, student = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 0.0])}
    average = SelfTeacherSettings(follow="average", decay=0.75)
    np.testing.assert_allclose(followed(teacher, student, 1, average)["a"], [1.5, 1.5])
    refresh = SelfTeacherSettings(follow="refresh", every=3)
    for step, expected in ((2, teacher), (3, student), (4, teacher), (6, student)):
        np.testing.assert_array_equal(followed(teacher, student, step, refresh)["a"], expected["a"])
    assert followed(None, student, 1, average) is None


@pytest.mark.parametrize("follow", ["none", "average"])
def test_the_state_has_the_teacher_only_where_it_follows(follow):
    settings = SelfTeacherSettings(follow=follow)
    config = make_config(self_teacher=settings, student="teacher")  # the path of its teachers
    learner = make_learner(config)
    state = learner.start(random_params(TINY))
    assert jax.tree.structure(state) == jax.tree.structure(learner.abstract_state())
    if follow == "none":
        assert state.teacher is None and learner.teacher_params(state) is None
    else:
        trees_equal(state.teacher, random_params(TINY))
        trees_equal(learner.teacher_params(state), random_params(TINY))
