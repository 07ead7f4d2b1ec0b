"""One prompt and response to learn from, and where packing puts it. Plain data of the host."""

import dataclasses

import numpy as np

from gopd_jax.types import SampleKey

LOGPROBS = ("behaviour_logprobs", "old_logprobs", "teacher_logprobs", "reference_logprobs")
PER_TOKEN = (*LOGPROBS, "kl_coefficients")  # what a batch may have or not
HIDDEN = ("teacher_hidden", "reference_hidden")


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt and response to learn from.

    key: whose sample it is; orders the examples, so that packing does not depend on the order in
        which rollouts arrive.
    domain: index of its domain.
    prompt, response: int32 ids.
    weight: loss weight of each response token, one number or float [T].
    reward_scale: lambda of its teacher.
    advantage: the advantage from outside, one number or float [T].
    behaviour_logprobs, old_logprobs, teacher_logprobs, reference_logprobs: float32 [T], nats, or
        None; as in `PackedBatch`.
    kl_coefficients: weight of the KL to the reference, or None for none.
    teacher_prompt: int32 ids that the teacher reads in place of the prompt, or None.
    teacher_hidden, reference_hidden: [T, D] hidden states, or None; as in `PackedBatch`.
    """

    key: SampleKey
    domain: int
    prompt: np.ndarray
    response: np.ndarray
    weight: float | np.ndarray
    reward_scale: float = 1.0
    advantage: float | np.ndarray = 0.0
    behaviour_logprobs: np.ndarray | None = None
    old_logprobs: np.ndarray | None = None
    teacher_logprobs: np.ndarray | None = None
    reference_logprobs: np.ndarray | None = None
    kl_coefficients: float | None = None
    teacher_prompt: np.ndarray | None = None
    teacher_hidden: np.ndarray | None = None
    reference_hidden: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclasses.dataclass(frozen=True)
class RowSlice:
    """Where an example went: bucket, micro-batch and row in it, and column of its first token.

    Where its prompt is shared, that is the column in which it would begin without the other
    samples: its response, and the last token of its prompt, count from there.
    """

    bucket: int
    micro: int
    row: int
    start: int

    def predictions(self, prompt_tokens: int, response_tokens: int) -> tuple[int, int, slice]:
        """Index into the bucket's [M, R, S] of where the response tokens are predicted."""
        begin = self.start + prompt_tokens - 1
        return self.micro, self.row, slice(begin, begin + response_tokens)
