"""Prompts of a teacher with privileged context: what it reads, what is left out or refused."""

import numpy as np
import pytest

from gopd_jax.data import encode
from gopd_jax.data.encode import encode_all, identities
from gopd_jax.data.teacher_prompts import add_teacher_context
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import Prompt

SUFFIX = " Be brief."


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return ChatTokenizer.load(str(tokenizer_folder))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(encode, "ENCODE_BATCH", 2)


@pytest.fixture
def prompts(tokenizer):
    chats = [({"role": "user", "content": "two" * (i + 1)},) for i in range(3)]
    rows = [
        Prompt(f"math/{i}", chat, "math", str(i), {"solution": "s" * i})
        for i, chat in enumerate(chats)
    ]
    return encode_all(rows, tokenizer, SUFFIX, 1000)[0]


def test_the_context_follows_the_suffix_and_the_students_tokens_stay(tokenizer, prompts):
    context = " It is {ground_truth}: {solution}."
    read, report = add_teacher_context(prompts, tokenizer, SUFFIX, context, 1000)
    assert (len(read), report.kept) == (3, 3)
    for i, (ours, theirs) in enumerate(zip(prompts, read, strict=True)):
        shown = f"{ours.source.messages[-1]['content']}{SUFFIX} It is {i}: {'s' * i}."
        expected = tokenizer.encode_prompts([[{"role": "user", "content": shown}]], "")[0]
        np.testing.assert_array_equal(theirs.teacher_tokens, expected)
        np.testing.assert_array_equal(theirs.tokens, ours.tokens)
        assert ours.teacher_tokens is None


def test_prompts_that_become_too_long_are_left_out_and_named(tokenizer, prompts):
    context = " {ground_truth}"
    whole, _ = add_teacher_context(prompts, tokenizer, SUFFIX, context, 1000)
    lengths = [len(prompt.teacher_tokens) for prompt in whole]
    read, report = add_teacher_context(prompts, tokenizer, SUFFIX, context, lengths[1])
    assert [p.source.prompt_id for p in read] == ["math/0", "math/1"]
    assert report.too_long == (("math/2", lengths[2]),)
    with pytest.raises(ValueError, match="none of 3 prompts fits 1 tokens"):
        add_teacher_context(prompts, tokenizer, SUFFIX, context, 1)


def test_what_the_student_reads_identifies_a_prompt(tokenizer, prompts):
    read, _ = add_teacher_context(prompts, tokenizer, SUFFIX, " {ground_truth}", 1000)
    for ours, theirs in zip(identities(prompts), identities(read), strict=True):
        assert ours[:2] == theirs[:2]
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("context", ["{proof}", "{0}", "{"])
def test_a_context_that_does_not_fit_the_rows_names_their_fields(tokenizer, prompts, context):
    message = r"does not fit prompt 'math/0'.*fields are \['ground_truth', 'solution'\]"
    with pytest.raises(ValueError, match=message):
        add_teacher_context(prompts, tokenizer, SUFFIX, context, 1000)
