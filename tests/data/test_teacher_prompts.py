"""The prompts that a teacher with privileged context reads: the student's with text added, and what is left out or refused."""

import numpy as np
import pytest

from gopd_jax.data import teacher_prompts
from gopd_jax.data.prompts import encode_all
from gopd_jax.data.teacher_prompts import add_teacher_context
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import Prompt

SUFFIX = " Be brief."


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return ChatTokenizer.load(str(tokenizer_folder))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(teacher_prompts, "ENCODE_BATCH", 2)


def encode(tokenizer):
    def prompt(i):
        return Prompt(
            f"math/{i}",
            ({"role": "user", "content": "two" * (i + 1)},),
            "math",
            str(i),
            {"solution": "s" * i},
        )

    prompts = [prompt(i) for i in range(3)]
    return encode_all(prompts, tokenizer, SUFFIX, 1000)[0]


def test_the_context_follows_the_suffix_and_the_students_tokens_stay(tokenizer):
    prompts = encode(tokenizer)
    read, report = add_teacher_context(
        prompts, tokenizer, SUFFIX, " It is {ground_truth}: {solution}.", 1000
    )
    assert (len(read), report.kept) == (3, 3)
    for i, (ours, theirs) in enumerate(zip(prompts, read, strict=True)):
        shown = f"{ours.source.messages[-1]['content']}{SUFFIX} It is {i}: {'s' * i}."
        expected = tokenizer.encode_prompts([[{"role": "user", "content": shown}]], "")[0]
        np.testing.assert_array_equal(theirs.teacher_tokens, expected)
        np.testing.assert_array_equal(theirs.tokens, ours.tokens)
        assert ours.teacher_tokens is None


def test_those_that_become_too_long_are_left_out_and_named(tokenizer):
    prompts = encode(tokenizer)
    lengths = [
        len(p.teacher_tokens)
        for p in add_teacher_context(prompts, tokenizer, SUFFIX, " {ground_truth}", 1000)[0]
    ]
    read, report = add_teacher_context(prompts, tokenizer, SUFFIX, " {ground_truth}", lengths[1])
    assert [p.source.prompt_id for p in read] == ["math/0", "math/1"]
    assert report.too_long == (("math/2", lengths[2]),)
    with pytest.raises(ValueError, match="none of 3 prompts fits 1 tokens"):
        add_teacher_context(prompts, tokenizer, SUFFIX, " {ground_truth}", 1)


@pytest.mark.parametrize("context", ["{proof}", "{0}", "{"])
def test_a_context_that_does_not_fit_the_rows_names_their_fields(tokenizer, context):
    with pytest.raises(
        ValueError, match=r"does not fit prompt 'math/0'.*fields are \['ground_truth', 'solution'\]"
    ):
        add_teacher_context(encode(tokenizer), tokenizer, SUFFIX, context, 1000)
