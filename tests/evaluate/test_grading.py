"""What is judged in a response, and what happens when verifying fails."""

import time
import types

import numpy as np
import pytest

from gopd_jax.evaluate.grading import Grader, answer_of
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.types import EncodedPrompt, Prompt, Request, Rollout


@pytest.mark.parametrize(
    "kind, text, answer",
    [
        ("math", r"\boxed{1} \boxed{2}", "2"),
        ("math", r"so 2, \boxed{ }", None),
        ("code", "say:\n```python\nx = 1\n```\n", "x = 1\n"),
        ("code", " \n", None),
    ],
)
def test_answers(kind, text, answer):
    assert answer_of(kind, text) == answer


def test_nothing_more_is_taken_once_grading_has_failed():
    def verify(items):
        raise ValueError("no verifier today")

    prompt = EncodedPrompt(Prompt("p", (), "b", "1"), np.zeros(1, np.int32))
    rollout = Rollout(Request(prompt, 0, 1), np.zeros(1, np.int32), np.zeros(1), "stop")
    tokenizer = types.SimpleNamespace(decode=lambda tokens: r"\boxed{1}")
    benchmark = Benchmark("b", "b", "math", 1, (), {})
    deadline = time.monotonic() + 60  # only reached by a grader that never stops taking
    grader = Grader(verify, tokenizer, [benchmark], lambda record: None)
    with pytest.raises(ValueError, match="no verifier today"):  # raised again on leaving
        with grader:
            with pytest.raises(ValueError, match="no verifier today"):
                while time.monotonic() < deadline:
                    grader.take(rollout)
