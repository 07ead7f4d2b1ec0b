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
from gopd_jax.learner.flops import (
    FORWARD,
    TRAINING,
    Flops,
    Passes,
    Work,
    block_pairs,
    flops,
    training_passes,
    useful_work,
)
from gopd_jax.learner.packing import Example
from gopd_jax.models.decoder import Decoder
from gopd_jax.models.logprobs import LOGIT_ELEMENTS, chunk_tokens
from gopd_jax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class Cost:
    """What some passes are for, and what they run.

    needed, done: what goes through the model, without and with padding and masked scores.
    useful, executed: their operations, without and with recomputation.
    """

    needed: Work
    done: Work
    useful: Flops
    executed: Flops

    @property
    def filled(self) -> float:
        """Share of the tokens that are not padding."""
        return self.needed.tokens / max(1, self.done.tokens)

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
        )


NOTHING, NO_FLOPS = Work(0, 0, 0), Flops(0, 0, 0)
NO_COST = Cost(NOTHING, NOTHING, NO_FLOPS, NO_FLOPS)


def score_cost(
    decoder: Decoder,
    examples: Iterable[Example],
    segments_RS: np.ndarray,
    wanted_RS: np.ndarray,
    devices: int,
) -> Cost:
    """The cost of the log-probs that one model gives one micro-batch.

    Args:
        decoder: the model.
        examples: those in the micro-batch.
        segments_RS: of its rows.
        wanted_RS: bool, where the log-prob of a target is wanted.
        devices: that the rows are spread over.
    """
    model, needed = decoder.config, _needed(examples)
    done = _work(decoder, segments_RS[None], wanted_RS[None], devices)
    return Cost(needed, done, flops(model, needed, FORWARD), flops(model, done, FORWARD))


def update_cost(
    decoder: Decoder,
    examples: Sequence[Example],
    batches: Sequence[PackedBatch],
    devices: int,
    ruled: float = 0.0,
) -> Cost:
    """The cost of one update.

    Args:
        decoder: the student in training.
        examples: of the update.
        batches: what they were packed into, as numpy arrays; the used micro-batches are run.
        devices: that the rows of a micro-batch are spread over.
        ruled: share of the tokens whose log-prob under the sampling rule is computed as well.
    """
    model, needed = decoder.config, _needed(examples)
    done, executed = NOTHING, NO_FLOPS
    for batch in batches:
        if used := int(batch.used):
            segments_MRS, weights_MRS = batch.segments[:used], batch.weights[:used]
            work = _work(decoder, segments_MRS, weights_MRS > 0, devices)
            passes = _training_passes(decoder, segments_MRS.shape[2], ruled)
            done, executed = done + work, executed + flops(model, work, passes)
    return Cost(needed, done, flops(model, needed, TRAINING), executed)


def _needed(examples: Iterable[Example]) -> Work:
    lengths = [(len(e.prompt), len(e.response)) for e in examples]
    return useful_work(*zip(*lengths, strict=True)) if lengths else NOTHING


def _work(decoder: Decoder, segments_MRS: np.ndarray, wanted_MRS: np.ndarray, devices: int) -> Work:
    sizes = decoder.config.vocab_size, decoder.attention, devices
    return executed_work(segments_MRS, wanted_MRS, *sizes)


def _training_passes(decoder: Decoder, length: int, ruled: float) -> Passes:
    """The passes of a train step on rows of this length."""
    ways, remat = _ways(decoder.attention, length), decoder.remat
    return training_passes(
        decoder.config,
        block_again=remat != "none",
        attention_again=remat in ("block", "offload") or (remat == "attention" and not ways.keeps),
        products_again=ways.products_again,
        head_again=True,
        ruled=ruled,
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
    block = min(vocab_size, LOGIT_ELEMENTS // chunk)
    ids = -(-vocab_size // block) * block
    return round(positions * ids / vocab_size)
