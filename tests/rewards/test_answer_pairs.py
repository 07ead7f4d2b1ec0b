"""Grading against 200 pairs judged by hand, on which the verifier agrees, and further ones, on which it does but for a list."""

from answer_pairs import MORE_RIGHT, MORE_WRONG, RIGHT, WRONG
import pytest

from gopd_jax.rewards.verifier import Verifier

# Judged otherwise by hand than by the verifier, and why. A pair that is cured has to leave this list.
DISAGREEMENTS = {
    (r"\ln 2", r"\log 2"): r"\log without a base is that to base 10 for Math-Verify",
    (r"\{x : x > 3\}", "x>3"): "the colon of a set is read as a division",
    (r"33\frac{1}{3}\%", r"\frac{1}{3}"): "mixed numbers with a percent sign are read as a product",
    ("3.5e3", "3500"): "e is the number e",
    (r"\{1, 2, \ldots, 5\}", r"\{1,2,3,4,5\}"): "dots are not filled in",
}


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=10.0) as verifier:
        yield verifier


def test_there_are_200_pairs_and_each_once():
    assert (len(RIGHT), len(WRONG), len({*RIGHT, *WRONG})) == (120, 80, 200)
    assert DISAGREEMENTS.keys() <= {*MORE_RIGHT, *MORE_WRONG}


@pytest.mark.parametrize("right, wrong", [(RIGHT, WRONG), (MORE_RIGHT, MORE_WRONG)])
def test_the_verifier_agrees_with_the_hand_judged_pairs(verify, right, wrong):
    verdicts = verify(
        [
            ("math", rf"Reasoning, then \boxed{{{answer}}}.", truth)
            for answer, truth in right + wrong
        ]
    )
    expected = [1.0] * len(right) + [0.0] * len(wrong)
    differing = {
        p for p, v, e in zip(right + wrong, verdicts, expected, strict=True) if v.reward != e
    }
    assert not differing - DISAGREEMENTS.keys(), "the verifier is wrong about these"
    assert not DISAGREEMENTS.keys() & {*right, *wrong} - differing, (
        "these are judged right now: take them off the list"
    )


@pytest.mark.parametrize(
    "box",
    [
        r"\boxed{%s}",
        r"\boxed {%s}",
        r"$\boxed{%s}$",
        "first \\boxed{99},\nthen \\[\\boxed{ %s }\\]",
    ],
)
def test_how_the_box_is_written_does_not_matter(verify, box):
    verdicts = verify(
        [("math", box % answer, truth) for answer, truth in RIGHT[10:22] + WRONG[10:15]]
    )
    assert [v.reward for v in verdicts] == [1.0] * 12 + [0.0] * 5
