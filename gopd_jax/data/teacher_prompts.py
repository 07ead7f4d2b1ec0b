"""Prompts as a teacher with privileged context reads them: the student's prompt with, say, the solution added.

In: encoded prompts and a text with fields. Out: the same prompts, each with `teacher_tokens`; on-policy self-distillation is a
teacher that is the student's own start and sees more. The response tokens are the student's either way.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from gopd_jax.data.prompts import ENCODE_BATCH, FilterReport
from gopd_jax.data.tokenizer import ChatTokenizer, add_to_last_user_message, with_suffix
from gopd_jax.types import EncodedPrompt, Prompt


class TeacherPrompts(Sequence[EncodedPrompt]):
    """The kept prompts in order, each with the ids that its teacher reads."""

    def __init__(
        self,
        prompts: Sequence[EncodedPrompt],
        indices: Sequence[int],
        teacher_tokens: Sequence[np.ndarray],
    ):
        self._prompts, self._indices, self._teacher_tokens = prompts, indices, teacher_tokens

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> EncodedPrompt:
        encoded = self._prompts[self._indices[index]]
        return dataclasses.replace(encoded, teacher_tokens=self._teacher_tokens[index])


def add_teacher_context(
    prompts: Sequence[EncodedPrompt],
    tokenizer: ChatTokenizer,
    suffix: str,
    context: str,
    max_tokens: int,
) -> tuple[TeacherPrompts, FilterReport]:
    """Encodes every prompt once more, with `context` after the last user message, and leaves out those that become too long.

    Args:
      suffix: the prompt suffix of the student, which the teacher sees too.
      context: a text with fields in braces: {ground_truth}, or any other field of the row, such as {solution}.
      max_tokens: longest teacher prompt kept.

    Raises:
      ValueError: a row without a field that the context names, or no prompt is left.
    """
    indices, tokens, too_long = [], [], []
    for start in range(0, len(prompts), ENCODE_BATCH):
        batch = [prompts[i].source for i in range(start, min(start + ENCODE_BATCH, len(prompts)))]
        chats = [_with_context(prompt, suffix, context) for prompt in batch]
        for i, ids in enumerate(tokenizer.encode_prompts(chats, "")):
            if len(ids) > max_tokens:
                too_long.append((batch[i].prompt_id, len(ids)))
            else:
                indices.append(start + i)
                tokens.append(ids)
    if not indices:
        raise ValueError(
            f"none of {len(prompts)} prompts fits {max_tokens} tokens with teacher_context={context!r}"
        )
    return TeacherPrompts(prompts, indices, tokens), FilterReport(
        len(prompts), len(indices), tuple(too_long)
    )


def _with_context(prompt: Prompt, suffix: str, context: str) -> list[dict[str, str]]:
    fields = {**prompt.extra, "ground_truth": prompt.ground_truth}
    try:
        text = context.format_map(fields)
    except (KeyError, IndexError, ValueError) as e:
        raise ValueError(
            f"teacher_context={context!r} does not fit prompt {prompt.prompt_id!r} ({e!r}): its fields are {sorted(fields)}"
        ) from e
    return add_to_last_user_message(with_suffix(prompt.messages, suffix), text)
