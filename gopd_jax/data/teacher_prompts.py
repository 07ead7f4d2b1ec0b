"""Prompts as a teacher with privileged context reads them: the student's prompt with more text.

In: encoded prompts and a text with fields, such as the solution of the row. Out: the same prompts,
each with `teacher_tokens`. In on-policy self-distillation the teacher is the student's own initial
model and reads such prompts. The response tokens are the student's in any case.
"""

from collections.abc import Sequence
import dataclasses

from gopd_jax.data.encode import FilterReport, encode_fitting, identities
from gopd_jax.data.lazy import LazySequence
from gopd_jax.data.messages import Message, add_to_last_user_message, with_suffix
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
        tokenizer: applies the chat template.
        suffix: the prompt suffix of the student, which the teacher reads too.
        context: a text with fields in braces: {ground_truth}, or any other field of the row, such
            as {solution}.
        max_tokens: longest teacher prompt kept; longer ones are left out, never cut.

    Returns:
        The prompts that fit, in order, with their `teacher_tokens`, and what was left out.

    Raises:
        ValueError: a row lacks a field that the context names, or no prompt fits.
    """

    def chat(prompt: Prompt) -> list[Message]:
        return _with_context(prompt, suffix, context)

    rows = LazySequence(prompts, range(len(prompts)), lambda encoded, _: encoded.source)
    indices, kept, report = encode_fitting(rows, chat, tokenizer, max_tokens)
    if not indices:
        raise ValueError(
            f"none of {len(prompts)} prompts fits {max_tokens} tokens with "
            f"teacher_context={context!r}"
        )

    def convert(encoded: EncodedPrompt, i: int) -> EncodedPrompt:
        return dataclasses.replace(encoded, teacher_tokens=kept[i].tokens)

    # A prompt is identified by what the student reads.
    student = list(identities(prompts))
    metadata = [student[i] for i in indices]
    return LazySequence(prompts, indices, convert, metadata), report


def _with_context(prompt: Prompt, suffix: str, context: str) -> list[Message]:
    fields = {**prompt.extra, "ground_truth": prompt.ground_truth}
    try:
        text = context.format_map(fields)
    except (KeyError, IndexError, ValueError) as e:
        raise ValueError(
            f"teacher_context={context!r} does not fit prompt {prompt.prompt_id!r} ({e!r}): its "
            f"fields are {sorted(fields)}"
        ) from e
    return add_to_last_user_message(with_suffix(prompt.messages, suffix), text)
