"""Math answers: what counts as the answer, what as equal, and that none stops the verifier."""

import os

from decided_answers import DECIDED
import math_verify
from processes import children
import pytest

from gopd_jax.rewards import math
from gopd_jax.rewards.verifier import Verdict, Verifier, check_ground_truth


@pytest.fixture(scope="module")
def verify():
    with Verifier(timeout_s=2.0) as verifier:
        yield verifier


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"first \boxed{1}, no: \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed {3}", "3"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{5} and then \boxed{6", "5"),
        (r"\boxed{}", ""),
        (r"a \} and } and {\boxed{8}", "8"),
        (r"\boxed{1} \\boxed{2}", "2"),
        (r"\boxed{1 \boxed{2} \boxed{3", "2"),
        ("no box: 7", None),
        (r"\boxed{7", None),
        ("", None),
    ],
)
def test_last_boxed(text, answer):
    assert math.last_boxed(text) == answer


RIGHT = [
    (r"\boxed{0.5}", r"\frac{1}{2}"),
    (r"\boxed{1/2}", "0.5"),
    (r"\boxed{\dfrac12}", "1/2"),
    (r"\boxed{\frac{2}{4}}", r"$\frac{1}{2}$"),
    (r"\boxed{\{3, 1, 2\}}", r"\{1,2,3\}"),
    (r"\boxed{[0, 1)}", "[0,1)"),
    (r"\boxed{(-\infty, 2]}", r"\left(-\infty,2\right]"),
    (r"\boxed{50\%}", r"50\%"),
    (r"\boxed{12\text{ cm}}", "12"),
    (r"\boxed{1{,}000}", "1000"),
    (r"\boxed{\sqrt{8}}", r"2\sqrt{2}"),
    (r"\boxed{(x+1)^2}", "x^2+2x+1"),
    (r"\boxed{x = 3}", "3"),
    (r"\boxed{\text{A}}", "A"),
    (r"\boxed{42}", r"\boxed{42}"),
    (r"wrong: \boxed{3}. Right: \boxed{\frac{1}{\sqrt{4}}}", "0.5"),
]
WRONG = [
    (r"\boxed{0.51}", r"\frac{1}{2}"),
    (r"\boxed{\{1, 2\}}", r"\{1,2,3\}"),
    (r"\boxed{[0, 1]}", "[0,1)"),
    (r"\boxed{-42}", "42"),
    (r"\boxed{x^2+1}", "x^2+2x+1"),
    (r"\boxed{B}", "A"),
    (r"right: \boxed{1}, then \boxed{2}", "1"),
    (r"\boxed{\frac{1}{0}}", "1"),
    (r"\boxed{\frac{}{}}", "1"),
    (r"\boxed{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}", "7"),
]


def test_equal_and_unequal_answers(verify):
    verdicts = verify([("math", *pair) for pair in RIGHT + WRONG])
    expected = [1.0] * len(RIGHT) + [0.0] * len(WRONG)
    bad = [
        pair
        for pair, verdict, reward in zip(RIGHT + WRONG, verdicts, expected, strict=True)
        if verdict.reward != reward
    ]
    assert not bad


@pytest.mark.parametrize("answer, truth, is_right", DECIDED)
def test_decisions_of_docs_method(verify, answer, truth, is_right):
    verdict = verify([("math", rf"\boxed{{{answer}}}", truth)])[0]
    assert verdict.detail == ("correct" if is_right else "wrong")


@pytest.mark.parametrize(
    "response", ["", "the answer is 5", r"\boxed{5", r"\boxed{}", r"\boxed{ }"]
)
def test_no_answer(verify, response):
    assert verify([("math", response, "5")]) == [Verdict(0.0, "no answer")]


def test_a_hang_scores_zero_and_the_next_items_are_right(verify):
    tower = r"\boxed{9^{9^{9^{9}}}}"
    verdicts = verify(
        [
            ("math", r"\boxed{1}", "1"),
            ("math", tower, "3"),
            ("math", r"\boxed{2}", "2"),
            ("math", tower, "4"),
        ]
    )
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 1.0, 0.0]
    assert verdicts[1].detail in ("timeout", "memory")


def test_boxes_without_an_end_take_linear_time(verify):
    """Quadratic time would be minutes; the box is searched before a deadline applies."""
    assert math.last_boxed("\\boxed{" * 200_000) is None
    response = "\\boxed{" * 20_000
    assert verify([("math", response, "3")]) == [Verdict(0.0, "no answer")]
    assert verify([("math", response + "3}", "3")]) == [Verdict(1.0, "correct")]


def test_power_towers_end_at_the_deadline_without_a_new_worker():
    towers = ["9^{9^{9^{9}}}", "2^{9^{9^{9^9}}}", "9^{9^{9^{9}}} = 1", "(10^{10^{10^{10}}})!"]
    with Verifier(timeout_s=0.5) as verify:
        assert verify([("math", r"\boxed{1}", "1")])[0].reward == 1.0
        before = children(os.getpid())
        for tower in towers:
            verdict = verify([("math", rf"\boxed{{{tower}}}", "3")])[0]
            assert verdict.detail in ("timeout", "memory", "wrong", "error: verifier died")
        assert children(os.getpid()) == before
        assert verify([("math", r"\boxed{2}", "2")])[0].reward == 1.0


def test_exceptions_of_the_verifier_score_zero(monkeypatch):
    def raises(*_args, **_kwargs):
        raise ZeroDivisionError

    assert math.score("1", "1") == (1.0, "correct")
    monkeypatch.setattr(math_verify, "verify", raises)
    assert math.score("1", "1") == (0.0, "error: ZeroDivisionError")


def test_text_cannot_run_code(verify, tmp_path):
    mark = tmp_path / "mark"
    code = f"__import__('os').mkdir('{mark}')"
    assert verify([("math", rf"\boxed{{{code}}}", "1")])[0].reward == 0.0
    assert not mark.exists()


@pytest.mark.parametrize(
    "ground_truth", ["42", r"\frac{1}{2}", r"$\{1,2\}$", r"\boxed{[0,1)}", "A"]
)
def test_good_ground_truth(ground_truth):
    check_ground_truth("math", ground_truth)


@pytest.mark.parametrize("ground_truth", ["", "  ", "$$", None])
def test_bad_ground_truth(ground_truth):
    with pytest.raises(ValueError, match="math ground truth"):
        check_ground_truth("math", ground_truth)
