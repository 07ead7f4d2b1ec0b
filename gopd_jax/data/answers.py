"""The answers that a data set gives, which SFT learns from without a teacher.

In: encoded prompts whose rows have a "response". Out: the responses as token ids. Does not apply
the chat template.
"""

from collections.abc import Sequence

import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.types import EncodedPrompt


def given_answers_of(
    tokenizer: ChatTokenizer, prompts: Sequence[EncodedPrompt]
) -> list[np.ndarray]:
    """Encodes the text in each row's "response", followed by the tokenizer's end of turn.

    Args:
        tokenizer: of the student.
        prompts: the prompts to answer.

    Returns:
        int32 token ids [T] of each answer.

    Raises:
        ValueError: a row without a response, named by its prompt id.
    """
    answers = []
    for encoded in prompts:
        prompt = encoded.source
        text = prompt.extra.get("response")
        if not isinstance(text, str):
            raise ValueError(
                f"prompt {prompt.prompt_id!r} of domain {prompt.domain!r}: expected a string in "
                'its "response", because the domain has no teacher; method sft learns from one of '
                "the two"
            )
        ids = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
        answers.append(np.array([*ids, tokenizer.tokenizer.eos_token_id], np.int32))
    return answers
