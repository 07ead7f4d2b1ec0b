"""Which wrong answers are the same one, and when the verifier is asked."""

import pytest

from gopd_jax.evaluate.vote import vote
from gopd_jax.rewards.verifier import Verifier


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=5.0) as verify:
        yield verify


@pytest.mark.parametrize(
    "correct, wrong, expected",
    [
        (2, ["3", "7"], 1),
        (2, [r"\frac12", r"\sqrt{2}", r"\frac{1}{\sqrt{2}}"], 1),
        (2, [r"\frac12", r"\sqrt{2}", "0.5", r"\frac{1}{\sqrt{2}}"], 1 / 2),
        (2, [r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", r"\frac{ \sqrt 2}{2}"], 0),
        (2, ["1,000", "1000.0", "4"], 1 / 2),
        (1, [r"\pi", "3", r"x^2"], 1 / 4),
        (0, [], 0),
    ],
)
def test_votes_are_for_equal_answers(verify, correct, wrong, expected):
    assert vote(correct, wrong, verify) == expected


@pytest.mark.parametrize(
    "correct, wrong, expected",
    [
        (3, ["a", "b"], 1),  # more than all the others together
        (0, ["a", "b"], 0),
        (1, ["a", "a", "b"], 0),  # outvoted by the same text already
    ],
)
def test_the_verifier_is_asked_only_where_it_can_decide(correct, wrong, expected):
    def verify(items):
        raise AssertionError(items)

    assert vote(correct, wrong, verify) == expected
