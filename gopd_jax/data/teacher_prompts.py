"""Prompts as a teacher reads them that is shown more, or has a chat template of its own.

In: encoded prompts, the teacher's tokenizer, and a text with fields, such as the solution of the
row. Out: the same prompts, each with `teacher_tokens`. In on-policy self-distillation the teacher
is the student's own initial model and reads such prompts. The response tokens are the student's in
any case. Where the text shows the student's answer or the feedback on it, a prompt is encoded for
each answer.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from gopd_jax.data.encode import FilterReport, chat_of, encode_fitting, identities
from gopd_jax.data.lazy import LazySequence
from gopd_jax.data.messages import Message, add_to_last_user_message, with_suffix
from gopd_jax.data.settings import OF_ANSWERS, shown_of_answers
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt, Prompt


def add_teacher_context(
    prompts: Sequence[EncodedPrompt],
    tokenizer: ChatTokenizer,
    suffix: str,
    context: str,
    max_tokens: int,
) -> tuple[Sequence[EncodedPrompt], FilterReport]:
    """Encodes every prompt once more, with `context` at the end of the last user message.

    Args:
        prompts: the student's prompts.
        tokenizer: applies the chat template that the teacher reads.
        suffix: the prompt suffix of the student, which the teacher reads too.
        context: a text with fields in braces: {ground_truth}, or any other field of the row, such
            as {solution}. `OF_ANSWERS` are empty here. "" adds nothing.
        max_tokens: longest teacher prompt kept; longer ones are left out, never cut.

    Returns:
        The prompts that fit, in order, with their `teacher_tokens`, and what was left out.

    Raises:
        ValueError: a row lacks a field that the context names, or no prompt fits.
    """

    def chat(prompt: Prompt) -> list[Message]:
        return _with_context(prompt, suffix, context, dict.fromkeys(OF_ANSWERS, ""))

    rows = LazySequence(prompts, range(len(prompts)), lambda encoded, _: encoded.source)
    indices, kept, report = encode_fitting(rows, chat, tokenizer, max_tokens)
    if not indices:
        raise ValueError(
            f"none of {len(prompts)} prompts fits {max_tokens} tokens as its teacher reads it, "
            f"with teacher_context={context!r} and the chat template of {tokenizer.path!r}"
        )

    def convert(encoded: EncodedPrompt, i: int) -> EncodedPrompt:
        return dataclasses.replace(encoded, teacher_tokens=kept[i].tokens)

    # A prompt is identified by what the student reads.
    student = list(identities(prompts))
    metadata = [student[i] for i in indices]
    return LazySequence(prompts, indices, convert, metadata), report


def as_asked(prompts: Sequence[EncodedPrompt]) -> Sequence[EncodedPrompt]:
    """The prompts with what the teacher reads in place of what the student reads.

    For a teacher that answers them. A prompt without `teacher_tokens` stays as it is.
    """

    def convert(encoded: EncodedPrompt, _: int) -> EncodedPrompt:
        own = encoded.teacher_tokens
        return encoded if own is None else dataclasses.replace(encoded, tokens=own)

    return LazySequence(prompts, range(len(prompts)), convert)


def show_answers(
    prompts: Sequence[EncodedPrompt],
    shown: Sequence[Mapping[str, str]],
    tokenizer: ChatTokenizer,
    suffix: str,
    context: str,
    max_tokens: int,
) -> tuple[list[EncodedPrompt], list[bool]]:
    """Encodes what the teacher of each answer reads.

    Args:
        prompts: of each answer, from `add_teacher_context`.
        shown: of each answer, the texts of those of `OF_ANSWERS` that the context names.
        tokenizer, suffix, context: as for `add_teacher_context`.
        max_tokens: where a prompt is longer, the longest of its shown texts loses its end until it
            fits.

    Returns:
        The prompts with their `teacher_tokens`, and whether a text of each was cut.
    """
    texts = [dict(of_answer) for of_answer in shown]
    out, cut, left = list(prompts), [False] * len(prompts), list(range(len(prompts)))
    while left:
        sources = [prompts[i].source for i in left]
        chats = [
            chat_of(prompt, _with_context(prompt, suffix, context, texts[i]))
            for i, prompt in zip(left, sources, strict=True)
        ]
        # `add_teacher_context` has checked the template with this context.
        encoded, over = tokenizer.encode_chats(chats, check=False), []
        for i, tokens in zip(left, encoded, strict=True):
            longest = max(texts[i], key=lambda name: len(texts[i][name]))
            if len(tokens) <= max_tokens or not texts[i][longest]:
                out[i] = dataclasses.replace(prompts[i], teacher_tokens=tokens)
                continue
            excess = len(tokens) - max_tokens
            texts[i][longest] = tokenizer.shortened(texts[i][longest], excess)
            cut[i] = True
            over.append(i)
        left = over
    return out, cut


def _with_context(
    prompt: Prompt, suffix: str, context: str, of_answer: Mapping[str, str]
) -> list[Message]:
    fields = {**prompt.extra, "ground_truth": prompt.ground_truth}
    if taken := [name for name in shown_of_answers(context) if name in prompt.extra]:
        raise ValueError(
            f"teacher_context={context!r}: prompt {prompt.prompt_id!r} has a field {taken[0]!r} of "
            "its own; expected another name for it, since here it stands for the student's answer"
        )
    fields |= of_answer
    try:
        text = context.format_map(fields)
    except (KeyError, IndexError, ValueError) as e:
        raise ValueError(
            f"teacher_context={context!r} does not fit prompt {prompt.prompt_id!r} ({e!r}): its "
            f"fields are {sorted(fields)}"
        ) from e
    return add_to_last_user_message(with_suffix(prompt.messages, suffix), text)
