"""Grading against 200 pairs judged by hand: the verifier agrees, but for the listed ones."""

from answer_pairs import RIGHT, WRONG
import pytest

from gopd_jax.rewards import Verifier

# Where Math-Verify and mathematics differ, and why. A pair that is cured has to leave this list.
DISAGREEMENTS = {
    (r"1\,000", "1000"): r"\, between digits is read as a separator of two numbers",
    ("5.", "5"): "a full stop after the number is not dropped",
    ("5 = x", "5"): "only the right side of an equation is taken for the value",
    (r"\emptyset", r"\varnothing"): r"\varnothing is read as text",
    (
        r"\frac{-1+\sqrt{17}}{2}, \frac{-1-\sqrt{17}}{2}",
        r"\frac{-1\pm\sqrt{17}}{2}",
    ): r"\pm inside a fraction is not two values",
    ("1 < x < 4", "4 > x > 1"): "chains of inequalities are compared piece by piece, in order",
    (r"x \leq 3", r"(-\infty, 3]"): "the set of an inequality is not taken where the truth is an interval",
    (r"1 \le x < 4", "[1, 4)"): "the set of an inequality is not taken where the truth is an interval",
    (r"\frac{1}{i}", "-i"): "i is a symbol, not the imaginary unit",
    ("(1+i)^2", "2i"): "i is a symbol, not the imaginary unit",
    ("1011_2", "1011_3"): "the base of a numeral is dropped",
}


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=10.0) as verifier:
        yield verifier


def test_there_are_200_pairs_and_each_once():
    assert (len(RIGHT), len(WRONG), len({*RIGHT, *WRONG})) == (120, 80, 200)
    assert DISAGREEMENTS.keys() <= {*RIGHT, *WRONG}


def test_the_verifier_agrees_with_the_hand_judged_pairs(verify):
    verdicts = verify([("math", rf"Reasoning, then \boxed{{{answer}}}.", truth) for answer, truth in RIGHT + WRONG])
    expected = [1.0] * len(RIGHT) + [0.0] * len(WRONG)
    differing = {p for p, v, e in zip(RIGHT + WRONG, verdicts, expected, strict=True) if v.reward != e}
    assert not differing - DISAGREEMENTS.keys(), "the verifier is wrong about these"
    assert not DISAGREEMENTS.keys() - differing, "these are judged right now: take them off the list"


@pytest.mark.parametrize(
    "box", [r"\boxed{%s}", r"\boxed {%s}", r"$\boxed{%s}$", "first \\boxed{99},\nthen \\[\\boxed{ %s }\\]"]
)
def test_how_the_box_is_written_does_not_matter(verify, box):
    verdicts = verify([("math", box % answer, truth) for answer, truth in RIGHT[10:22] + WRONG[10:15]])
    assert [v.reward for v in verdicts] == [1.0] * 12 + [0.0] * 5
