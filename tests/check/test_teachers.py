"""Whether a teacher is better than the student, by the paired interval."""

import pytest

from gopd_jax.check.teachers import teacher_better
from gopd_jax.evaluate.held_out import Evaluation

RIGHT, WRONG = (1.0,) * 32, (0.0,) * 32
HALF = RIGHT[:16] + WRONG[:16]


def scored(by_prompt):
    return Evaluation(by_prompt, 1, 100, 0.0, 0.1)


@pytest.mark.parametrize(
    "student, teacher, state, todo",
    [
        (WRONG, HALF, "passed", "take a better teacher"),
        (HALF, HALF, "undecided", "more held-out prompts would decide it"),
        (RIGHT, HALF, "failed", "take a better teacher"),
    ],
)
def test_the_interval_decides(student, teacher, state, todo):
    found = teacher_better("teacher of math", scored(student), scored(teacher))
    assert (found.state, found.todo) == (state, todo)
    assert found.number == sum(teacher) / 32 - sum(student) / 32
