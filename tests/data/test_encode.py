"""Prompts as token ids: which are kept, and what identifies them."""

import dataclasses

from data_cases import encoded
import numpy as np
import pytest

from gopd_jax.data.encode import FilterReport, encode_all, identities, in_both
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt, Prompt


def make_prompts(count: int) -> list[Prompt]:
    """Every third prompt is long."""
    texts = ["q7 " * (30 if i % 3 == 0 else 1) for i in range(count)]
    chats = [({"role": "user", "content": text},) for text in texts]
    return [Prompt(f"p/{i}", chat, "math", "1") for i, chat in enumerate(chats)]


def test_encode_all_filters_and_counts(tokenizer_folder):
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    prompts = make_prompts(1100)  # more than one batch of the tokenizer
    lengths = [len(tokenizer.encode_prompt(prompt.messages, " s")) for prompt in prompts[:2]]
    # A prompt exactly at the limit stays.
    kept, report = encode_all(prompts, tokenizer, " s", max_prompt_tokens=lengths[1])
    long = tuple((prompt.prompt_id, lengths[0]) for prompt in prompts[::3])
    assert report == FilterReport(total=1100, kept=1100 - len(long), too_long=long)
    assert [e.source for e in kept] == [prompt for i, prompt in enumerate(prompts) if i % 3]
    for e in (kept[0], kept[len(kept) - 1]):
        np.testing.assert_array_equal(e.tokens, tokenizer.encode_prompt(e.source.messages, " s"))
    message = f"none of 1100 prompts fits max_prompt_tokens=3: the shortest has {lengths[1]} tokens"
    with pytest.raises(ValueError, match=message):
        encode_all(prompts, tokenizer, " s", max_prompt_tokens=3)


def test_a_row_of_another_domain_is_refused(tokenizer_folder):
    tokenizer = ChatTokenizer.load(tokenizer_folder)
    prompt = Prompt("p", ({"role": "user", "content": "?"},), "math", "1", {"domain": "code"})
    with pytest.raises(ValueError, match="'p' says domain 'code', its file is for 'math'"):
        encode_all([prompt], tokenizer, "", 100)


def test_identities_held_in_memory_are_those_of_the_prompts(tokenizer_folder):
    kept, _ = encode_all(make_prompts(6), ChatTokenizer.load(tokenizer_folder), "", 30)
    for prompts in (kept, list(kept), encoded("code", 3)):
        found = list(identities(prompts))
        assert len(found) == len(prompts) > 2
        for identity, prompt in zip(found, prompts, strict=True):
            assert identity[:2] == (prompt.source.prompt_id, prompt.source.domain)
            np.testing.assert_array_equal(identity.tokens, prompt.tokens)


def test_test_prompts_whose_question_is_trained_on_are_found():
    train, test = encoded("math", 6), encoded("math", 9)[4:]
    spaced = {"role": "user", "content": f" {test[0].source.messages[0]['content']}\n"}
    source = dataclasses.replace(test[0].source, prompt_id="other id", messages=(spaced,))
    test[0] = EncodedPrompt(source, test[0].tokens)
    assert in_both(test, train) == ["other id", test[1].source.prompt_id]
    assert in_both(test[2:], train) == []
