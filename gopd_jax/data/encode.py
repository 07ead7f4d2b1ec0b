"""Prompts -> token ids, without the prompts that are too long.

In: the prompts of one domain. Out: the same prompts with their token ids, and a report of those
left out. Token ids, prompt ids and domains stay in memory; everything else is read from the data
set when it is asked for. Does not shuffle.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from gopd_jax.data.lazy import LazySequence
from gopd_jax.data.messages import Chat, Message, Messages, with_suffix
from gopd_jax.data.select import question_hash
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.runtime.processes import shared
from gopd_jax.types import EncodedPrompt, Prompt

ENCODE_BATCH = 512  # chats per tokenizer call


class Identity(NamedTuple):
    """What identifies an encoded prompt: its id, domain, int32 token ids and `question_hash`."""

    prompt_id: str
    domain: str
    tokens: np.ndarray
    question: int


@dataclasses.dataclass(frozen=True)
class FilterReport:
    """What the length limit left out.

    total: number of prompts before.
    kept: number of prompts after.
    too_long: (prompt id, tokens) of each prompt over the limit.
    """

    total: int
    kept: int
    too_long: tuple[tuple[str, int], ...]


def encode_all(
    prompts: Sequence[Prompt], tokenizer: ChatTokenizer, suffix: str, max_prompt_tokens: int
) -> tuple[Sequence[EncodedPrompt], FilterReport]:
    """Tokenizes every prompt and leaves out those that are too long; none is cut.

    Args:
        prompts: the data set of one domain.
        tokenizer: applies the chat template.
        suffix: appended to the last user message.
        max_prompt_tokens: longest prompt kept, chat template and generation prompt included.

    Returns:
        The prompts that fit, in order, and what was left out.

    Raises:
        ValueError: a row names another domain than the one it was loaded for, the chat template
            drops a part of a prompt, or no prompt fits.
    """

    def chat(prompt: Prompt) -> list[Message]:
        if prompt.extra.get("domain", prompt.domain) != prompt.domain:
            raise ValueError(
                f"prompt {prompt.prompt_id!r} says domain {prompt.extra['domain']!r}, its file is "
                f"for {prompt.domain!r}; split the file by domain, or its teacher would be the "
                "wrong one"
            )
        return with_suffix(prompt.messages, suffix)

    indices, kept, report = encode_fitting(prompts, chat, tokenizer, max_prompt_tokens)
    if not indices:
        shortest = min((length for _, length in report.too_long), default=0)
        raise ValueError(
            f"none of {len(prompts)} prompts fits max_prompt_tokens={max_prompt_tokens}: the "
            f"shortest has {shortest} tokens"
        )

    def convert(prompt: Prompt, i: int) -> EncodedPrompt:
        return EncodedPrompt(prompt, kept[i].tokens)

    return LazySequence(prompts, indices, convert, metadata=kept), report


def encode_fitting(
    prompts: Sequence[Prompt],
    chat: Callable[[Prompt], Messages],
    tokenizer: ChatTokenizer,
    max_tokens: int,
) -> tuple[list[int], list[Identity], FilterReport]:
    """Encodes one chat per prompt and keeps those of at most `max_tokens` tokens.

    Each host encodes its share of the data set.

    Args:
        prompts: the data set.
        chat: function of a prompt that returns the messages to encode.
        tokenizer: applies the chat template.
        max_tokens: longest chat kept.

    Returns:
        The indices of the prompts that fit, their identities with the encoded tokens, and what was
        left out.

    Raises:
        ValueError: the template refuses a chat or drops a part of it.
    """

    def encode(starts: Sequence[int]) -> Iterator[list[Identity]]:
        for start in starts:
            batch = [prompts[i] for i in range(start, min(start + ENCODE_BATCH, len(prompts)))]
            tokens = tokenizer.encode_chats([chat_of(prompt, chat(prompt)) for prompt in batch])
            yield list(map(_identity, batch, tokens))

    indices, kept, too_long = [], [], []
    batches = shared(encode, range(0, len(prompts), ENCODE_BATCH))
    for i, identity in enumerate(itertools.chain.from_iterable(batches)):
        if len(identity.tokens) > max_tokens:
            too_long.append((identity.prompt_id, len(identity.tokens)))
        else:
            indices.append(i)
            kept.append(identity)
    return indices, kept, FilterReport(len(prompts), len(indices), tuple(too_long))


def chat_of(prompt: Prompt, messages: Messages) -> Chat:
    """What the chat template is given for a prompt whose messages became `messages`."""
    name = f"prompt {prompt.prompt_id!r}"
    return Chat(messages, prompt.tools, prompt.template_kwargs, name)


def identities(prompts: Sequence[EncodedPrompt]) -> Iterator[Identity]:
    """The identity of each prompt, in order.

    They come from memory if `prompts` holds them: reading 16,000 rows from disk takes seconds.
    """
    if isinstance(prompts, LazySequence) and prompts.metadata is not None:
        yield from prompts.metadata
    else:
        for prompt in prompts:
            yield _identity(prompt.source, prompt.tokens)


def _identity(prompt: Prompt, tokens: np.ndarray) -> Identity:
    return Identity(prompt.prompt_id, prompt.domain, tokens, question_hash(prompt))


def in_both(test: Sequence[EncodedPrompt], train: Sequence[EncodedPrompt]) -> list[str]:
    """Ids of the test prompts whose question, ignoring white space, is also trained on."""
    trained = {identity.question for identity in identities(train)}
    return [identity.prompt_id for identity in identities(test) if identity.question in trained]
