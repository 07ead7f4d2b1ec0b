"""Prompts of a teacher with privileged context: what it reads, what is left out or refused."""

import dataclasses

import numpy as np
import pytest

from gopd_jax.data import encode
from gopd_jax.data.encode import encode_all, identities
from gopd_jax.data.teacher_prompts import add_teacher_context, show_answers
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
    fields = r"\['feedback', 'ground_truth', 'solution', 'student_answer'\]"
    message = rf"does not fit prompt 'math/0'.*fields are {fields}"
    with pytest.raises(ValueError, match=message):
        add_teacher_context(prompts, tokenizer, SUFFIX, context, 1000)


SHOWN = " You said {student_answer}: {feedback}."


def shown(answers, feedback):
    return [{"student_answer": a, "feedback": f} for a, f in zip(answers, feedback, strict=True)]


def test_each_answer_has_a_prompt_of_its_own(tokenizer, prompts):
    """Two answers to one prompt, one of which looks like a field."""
    read, _ = add_teacher_context(prompts, tokenizer, SUFFIX, SHOWN, 1000)
    texts = shown(["one", "{one}", "two"], ["wrong", "", "correct"])
    of_answers = [read[0], read[0], read[2]]
    found, cut = show_answers(of_answers, texts, tokenizer, SUFFIX, SHOWN, 1000)
    assert cut == [False] * 3
    for prompt, ours, said in zip(found, of_answers, texts, strict=True):
        asked = ours.source.messages[-1]["content"]
        told = f"{asked}{SUFFIX} You said {said['student_answer']}: {said['feedback']}."
        expected = tokenizer.encode_prompts([[{"role": "user", "content": told}]], "")[0]
        np.testing.assert_array_equal(prompt.teacher_tokens, expected)
        np.testing.assert_array_equal(prompt.tokens, ours.tokens)


@pytest.mark.parametrize("limit", [0, 3, 10, 25])
def test_the_longest_text_loses_its_end_until_the_prompt_fits(tokenizer, prompts, limit):
    read, _ = add_teacher_context(prompts, tokenizer, SUFFIX, SHOWN, 1000)
    least = len(read[0].teacher_tokens)
    texts = shown(["0123456789" * 2, "ok"], ["much is wrong here", "\u00e9\U0001f600" * 9])
    found, cut = show_answers([read[0], read[0]], texts, tokenizer, SUFFIX, SHOWN, least + limit)
    assert cut == [True, True]
    for prompt, said in zip(found, texts, strict=True):
        assert least <= len(prompt.teacher_tokens) <= least + limit
        told = tokenizer.decode(prompt.teacher_tokens)
        answer, feedback = told.split(" You said ")[1].rsplit(".", 1)[0].split(": ")
        assert said["student_answer"].startswith(answer)
        assert said["feedback"].startswith(feedback.rstrip("\ufffd"))
    assert texts[0]["student_answer"] == "0123456789" * 2  # what was given stays


def test_what_is_shown_of_an_answer_cannot_be_a_field_of_the_row(tokenizer, prompts):
    rows = [dataclasses.replace(p, source=with_field(p.source)) for p in prompts]
    message = "prompt 'math/0' has a field 'feedback' of its own; expected another name"
    with pytest.raises(ValueError, match=message):
        add_teacher_context(rows, tokenizer, SUFFIX, SHOWN, 1000)
    add_teacher_context(rows, tokenizer, SUFFIX, " {student_answer}", 1000)  # it is not named


def with_field(prompt):
    return dataclasses.replace(prompt, extra=prompt.extra | {"feedback": "good"})


def test_a_text_gets_shorter_whatever_its_tokens_are(tokenizer):
    assert tokenizer.shortened("abcdef", 0) == "abcde"
    assert tokenizer.shortened("", 3) == ""
    assert tokenizer.shortened("abc", 99) == ""


def test_braces_that_are_doubled_are_braces(tokenizer, prompts):
    """So that a row may have a field of the name."""
    rows = [dataclasses.replace(p, source=with_field(p.source)) for p in prompts]
    read, _ = add_teacher_context(rows, tokenizer, SUFFIX, " {{feedback}}", 1000)
    assert " {feedback}" in tokenizer.decode(read[0].teacher_tokens)
