"""What scoring and updates cost: the work that is needed, and the work that is run.

In: examples, and the rows that they were packed into. Out: counts and numbers of operations, from
the shapes of the programs by the arithmetic of `flops`. This is where the programs' own ways are
known: what they pad and mask, and what they compute twice.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np

from gopd_jax.kernels.block_pairs import block_size
from gopd_jax.kernels.packed_attention import PackedAttention
from gopd_jax.kernels.packed_attention_gpu import BLOCK as GPU_BLOCK
from gopd_jax.kernels.packed_attention_gpu import pallas_gpu
from gopd_jax.kernels.packed_attention_tpu import pallas_tpu
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.learner.example import Example
from gopd_jax.learner.flops import (
    FORWARD,
    Flops,
    Passes,
    Work,
    block_elements,
    block_pairs,
    flops,
    needed_passes,
    training_passes,
    useful_work,
)
from gopd_jax.learner.groups import Sharing, prompt_of
from gopd_jax.learner.packing import Bucket
from gopd_jax.models.decoder import Decoder
from gopd_jax.models.head_blocks import chunk_tokens, vocabulary_blocks
from gopd_jax.types import PackedBatch

Prompts = set[tuple[str, bytes]]  # see `prompt_of`


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some passes are for, and what they run.

    A prompt is needed once for all of its samples.

    needed, done: what goes through the model, without and with padding, prompts that are computed
        again, and masked scores.
    useful, executed: their operations, without and with recomputation.
    tokens: those in `done` that are not padding.
    """

    needed: Work
    done: Work
    useful: Flops
    executed: Flops
    tokens: int

    @property
    def filled(self) -> float:
        """Share of the tokens that are not padding."""
        return self.tokens / max(1, self.done.tokens)

    @property
    def attention_useful(self) -> float:
        """Share of the attention scores that are needed."""
        return self.needed.pairs / max(1, self.done.pairs)

    @property
    def flops_useful(self) -> float:
        """Share of the operations that are useful."""
        return self.useful.total / max(1.0, self.executed.total)

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.needed + other.needed,
            self.done + other.done,
            self.useful + other.useful,
            self.executed + other.executed,
            self.tokens + other.tokens,
        )


WITHOUT_HEAD = Passes(head=0.0)
NOTHING, NO_FLOPS = Work(0, 0, 0), Flops(0, 0, 0)
NO_COST = Cost(NOTHING, NOTHING, NO_FLOPS, NO_FLOPS, 0)


def score_cost(
    decoder: Decoder,
    examples: Iterable[Example],
    segments_RS: np.ndarray,
    wanted_RS: np.ndarray,
    devices: int,
    counted: Prompts | None = None,
    passes: Passes = FORWARD,
) -> Cost:
    """The cost of the log-probs that one model gives one micro-batch.

    Args:
        decoder: the model.
        examples: those in the micro-batch.
        segments_RS: of its rows.
        wanted_RS: bool, where the log-prob of a target is wanted.
        devices: that the rows are spread over.
        counted: the prompts that are needed by examples of other micro-batches, too, and were
            counted with them; those of this one are added.
        passes: of the model; `WITHOUT_HEAD` where its hidden states are wanted.
    """
    model, needed = decoder.config, _needed(examples, set() if counted is None else counted)
    done, tokens = _work(decoder, segments_RS[None], wanted_RS[None], devices), _real(segments_RS)
    return Cost(needed, done, flops(model, needed, passes), flops(model, done, passes), tokens)


def update_cost(
    decoder: Decoder,
    examples: Sequence[Example],
    batches: Sequence[PackedBatch],
    devices: int,
    ruled: float = 0.0,
    adapter: float = 0.0,
    others: tuple[float, float] = (0.0, 0.0),
) -> Cost:
    """The cost of one update.

    Args:
        decoder: the student in training.
        examples: of the update.
        batches: what they were packed into, as numpy arrays; the used micro-batches are run.
        devices: that the rows of a micro-batch are spread over.
        ruled: share of the tokens whose log-prob under the sampling rule is computed as well.
        adapter: see `flops.training_passes`.
        others: passes through the heads of frozen models, in those through the student's: the
            needed ones, and those that are run.
    """
    model, needed = decoder.config, _needed(examples, set())
    done, executed, tokens = NOTHING, NO_FLOPS, 0
    for batch in batches:
        if used := int(batch.used):
            segments_MRS, weights_MRS = batch.segments[:used], batch.weights[:used]
            work = _work(decoder, segments_MRS, weights_MRS > 0, devices)
            passes = _training_passes(decoder, segments_MRS.shape[2], ruled, adapter)
            passes = dataclasses.replace(passes, head=passes.head + others[1])
            done, executed = done + work, executed + flops(model, work, passes)
            tokens += _real(segments_MRS)
    passes = needed_passes(adapter)
    useful = flops(model, needed, dataclasses.replace(passes, head=passes.head + others[0]))
    return Cost(needed, done, useful, executed, tokens)


def sharing_of(decoder: Decoder, buckets: Sequence[Bucket]) -> Sharing:
    """What tells whether it pays that samples share their prompt."""
    config = decoder.config
    score = 2 * config.heads * config.head_size / block_elements(config)
    return Sharing(score, tuple(_ways(decoder.attention, b.length).block for b in buckets))


def _needed(examples: Iterable[Example], counted: Prompts) -> Work:
    """What the examples need besides the prompts that were counted; it adds theirs."""
    rows = []
    for e in examples:
        name = prompt_of(e)
        rows.append((len(e.prompt), len(e.response), name in counted))
        counted.add(name)
    return useful_work(*zip(*rows, strict=True)) if rows else NOTHING


def _real(segments: np.ndarray) -> int:
    return int(np.count_nonzero(segments))


def _work(decoder: Decoder, segments_MRS: np.ndarray, wanted_MRS: np.ndarray, devices: int) -> Work:
    sizes = decoder.config.vocab_size, decoder.attention, devices
    return executed_work(segments_MRS, wanted_MRS, *sizes)


def _training_passes(decoder: Decoder, length: int, ruled: float, adapter: float) -> Passes:
    """The passes of a train step on rows of this length."""
    ways, remat = _ways(decoder.attention, length), decoder.remat
    return training_passes(
        decoder.config,
        block_again=remat != "none",
        attention_again=remat in ("block", "offload") or (remat == "attention" and not ways.keeps),
        products_again=ways.products_again,
        head_again=True,
        ruled=ruled,
        adapter=adapter,
    )


def executed_work(
    segments_MRS: np.ndarray,
    wanted_MRS: np.ndarray,
    vocab_size: int,
    attention: PackedAttention,
    devices: int = 1,
) -> Work:
    """What the programs run for the used micro-batches.

    Args:
        segments_MRS: of their rows.
        wanted_MRS: bool, where the log-prob of a target is wanted.
        vocab_size: V.
        attention: the kernel.
        devices: that the rows of a micro-batch are spread over.
    """
    M, R, S = segments_MRS.shape
    rows = segments_MRS.reshape(M * R, S)
    block = _ways(attention, S).block
    pairs = block_pairs(rows, block) if block else rows.shape[0] * S * S
    wanted = wanted_MRS.reshape(M * devices, -1)  # the tokens of each device
    return Work(rows.size, pairs, _predictions(wanted, vocab_size))


@dataclasses.dataclass(frozen=True)
class _Ways:
    """What an attention kernel does.

    block: queries and keys of a block; 0 computes all scores of a row.
    products_again: see `training_passes`.
    keeps: its output is kept where the rest of a block is computed again.
    """

    block: int = 0
    products_again: int = 0
    keeps: bool = False


def _ways(attention: PackedAttention, length: int) -> _Ways:
    """What a kernel does with rows of this length."""
    if isinstance(attention, Xla) and length > max(attention.block, attention.short):
        return _Ways(attention.block, products_again=1, keeps=True)
    if attention is pallas_tpu:  # two backward kernels compute scores and their gradients
        return _Ways(block_size(length), products_again=3, keeps=True)
    if attention is pallas_gpu:  # in the same way; float32 and long heads have smaller blocks
        return _Ways(GPU_BLOCK, products_again=3, keeps=True)
    return _Ways()


def _predictions(wanted: np.ndarray, vocab_size: int) -> int:
    """Positions whose logits are computed: whole chunks of tokens.

    A last block of the vocabulary that overlaps the one before counts as more positions.
    """
    chunk = chunk_tokens(wanted.shape[1])
    positions = int((-(-wanted.sum(axis=1) // chunk) * chunk).sum())
    size, blocks = vocabulary_blocks(chunk, vocab_size)
    return round(positions * size * blocks / vocab_size)
