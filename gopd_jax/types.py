"""Records that the stages hand to each other, and the shape legend of the project.

Flow: Prompt -> EncodedPrompt -> Request -> Rollout -> PackedBatch -> (TrainState, metrics).

Shape legend, used in array names (`hidden_RSD`), einsum strings and docstrings:

    B rollouts (or decode slots)     T tokens of one sequence      G samples per prompt
    M micro-batches of one update    R packed rows per micro-batch S length of a packed row
    L layers   D width   N query heads   K key/value heads   H head size   F mlp width
    V vocabulary   E experts

Host records are frozen dataclasses of numpy arrays; device records are `flax.struct` dataclasses of
jax arrays.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

from flax import struct
import jax
import numpy as np

Tree = Any  # a pytree: nested containers of arrays, of their shapes, or of their shardings
Params = Tree  # a nested dict: the parameters of one model
FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One row of a data set, before it meets a tokenizer.

    prompt_id: unique within a run; it seeds the samples of this prompt.
    messages: a chat; each message is a dict with "role" and "content", or what `data.conversations`
        allows besides.
    domain: chooses the teacher and the verifier.
    ground_truth: what the domain's verifier reads: an answer for math, a JSON test specification
        for code.
    extra: the other fields of the row, carried along untouched.
    tools: JSON schemas for the chat template, or None.
    template_kwargs: further variables of the chat template, which override those of the run.
    """

    prompt_id: str
    messages: tuple[dict[str, Any], ...]
    domain: str
    ground_truth: str
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as token ids.

    source: the row that it was made from.
    tokens: int32 [T], chat template applied, generation prompt included, no padding.
    teacher_tokens: int32, what a teacher with `teacher_context` reads in place of `tokens`; None
        where the teacher reads the same prompt as the student.
    """

    source: Prompt
    tokens: np.ndarray
    teacher_tokens: np.ndarray | None = None


class SampleKey(NamedTuple):
    """Who a sample is: unique within a step, ordered, and the seed of the sample's draws."""

    prompt_id: str
    sample_id: int


@dataclasses.dataclass(frozen=True)
class Request:
    """One sample to draw.

    sample_id: tells the samples of one prompt apart.
    max_tokens: length limit of the response.
    """

    prompt: EncodedPrompt
    sample_id: int
    max_tokens: int

    @property
    def key(self) -> SampleKey:
        return SampleKey(self.prompt.source.prompt_id, self.sample_id)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """One finished sample.

    tokens: int32 [T], the response, with the stop token where one was drawn.
    behaviour_logprobs: float32 [T], nats, of exactly the distribution each token was drawn from.
    finish_reason: "stop" (a stop id was drawn) or "length" (`max_tokens` was reached: truncated).
    sums: float64 [2], what is measured of a mixture (`rollout.mixture.MEASURES`), added up over the
        response; None for a sample of one model.
    """

    request: Request
    tokens: np.ndarray
    behaviour_logprobs: np.ndarray
    finish_reason: FinishReason
    sums: np.ndarray | None = None

    @property
    def truncated(self) -> bool:
        return self.finish_reason == "length"


@struct.dataclass
class PackedBatch:
    """Rollouts of one update, packed into fixed rows; every field is [M, R, S] unless stated.

    Several examples (prompt + response) share a row, and a micro-batch holds one domain. Index s of
    a per-token field stands for the prediction made at s: of the token at s + 1 of the same
    segment, which is given in `targets`. Padding holds 0 in every field.

    Samples of one prompt may share it: the prompt without its last token is a segment, and each
    sample one that begins with that token.

    used: int32 scalar; the first `used` micro-batches hold something, the others are skipped.
    domains: int32 [M, R], the domain of each row.
    tokens: int32 ids that the model reads.
    positions: int32, from 0 within each example.
    segments: int32, ascending along a row; they tell its examples apart, see `SegmentMask`.
    targets: int32 ids whose log-prob is taken; 0 where nothing is predicted.
    weights: float32, the share of each token in the loss; carries aggregation, masks and truncation
        rules, and is 0 outside responses.
    reward_scale: float32, lambda of the teacher that scored the token.
    advantages: float32, the advantage from outside, added to that of G-OPD: the group-normalised
        reward for GRPO, 1 for SFT, 0 for G-OPD.
    behaviour_logprobs: float32, nats, or None for no importance weight (SFT).
    old_logprobs: float32, nats, of the student at the start of this rollout batch; None with one
        update per batch, when the ratio is exactly 1.
    teacher_logprobs: float32, nats, or None for no implicit reward (GRPO, SFT).
    reference_logprobs: float32, nats, 0 in micro-batches on which the reference was not run because
        it has no influence there; None where it is not needed at all.
    kl_coefficients: float32, weight of the KL to the reference in the loss; None for none.
    teacher_hidden, reference_hidden: [M, R, S, D] in the compute dtype, their hidden states after
        the final norm, in place of the log-probs where an estimator reads the whole vocabulary. D
        is the largest of the teachers', filled up with 0.
    """

    used: jax.Array
    domains: jax.Array
    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    targets: jax.Array
    weights: jax.Array
    reward_scale: jax.Array
    advantages: jax.Array
    behaviour_logprobs: jax.Array | None = None
    old_logprobs: jax.Array | None = None
    teacher_logprobs: jax.Array | None = None
    reference_logprobs: jax.Array | None = None
    kl_coefficients: jax.Array | None = None
    teacher_hidden: jax.Array | None = None
    reference_hidden: jax.Array | None = None


@struct.dataclass
class TrainState:
    """What a train step consumes and returns, and what a checkpoint holds.

    step: int32 scalar, updates done.
    params: the student's parameters, float32.
    opt_state: optax state.
    teacher: parameters of a teacher that follows the student, float32; None without one.
    """

    step: jax.Array
    params: Params
    opt_state: Tree
    teacher: Params | None = None
