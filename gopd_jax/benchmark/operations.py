"""Operations of the measured parts of the learner: the useful ones and those that are run.

In: examples, and what they were packed into. Out: numbers of operations, from the shapes of the
programs by the arithmetic of `learner.flops`. This is where the programs' own ways are known: what
they pad and mask, and what they compute twice.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gopd_jax.kernels.block_pairs import block_size
from gopd_jax.kernels.packed_attention import PackedAttention
from gopd_jax.kernels.packed_attention_gpu import BLOCK as GPU_BLOCK
from gopd_jax.kernels.packed_attention_gpu import pallas_gpu
from gopd_jax.kernels.packed_attention_tpu import pallas_tpu
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.learner.flops import (
    TRAINING,
    Flops,
    Passes,
    Work,
    block_pairs,
    flops,
    training_passes,
    useful_work,
)
from gopd_jax.learner.learner import Packed
from gopd_jax.learner.packing import Example
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.logprobs import LOGIT_ELEMENTS, chunk_tokens
from gopd_jax.models.settings import Remat

PARTS = ("score", "update")


@dataclasses.dataclass(frozen=True)
class Operations:
    """Operations of all scoring models together, and of the train step; 0 where there is none."""

    useful: dict[str, Flops]
    executed: dict[str, Flops]

    def figures(self) -> dict[str, Any]:
        """The operations in all, by part, and their ratio."""
        out: dict[str, Any] = {}
        for kind, counts in (("useful", self.useful), ("executed", self.executed)):
            out[f"{kind}_flops"] = sum(counts.values(), Flops(0, 0, 0)).total
            out |= {f"{kind}_flops_{part}": counts[part].total for part in counts}
            for name in ("blocks", "attention", "head"):
                out[f"{kind}_flops_{name}"] = sum(getattr(f, name) for f in counts.values())
        out["executed_over_useful"] = out["executed_flops"] / out["useful_flops"]
        return out

    def speeds(self, seconds: dict[str, Any], peak: float) -> dict[str, float]:
        """The shares of the peak that useful operations reach, whole and by part.

        Args:
            seconds: has "seconds", and "seconds_PART" of each part.
            peak: operations per second of all devices.
        """
        whole = self.figures()["useful_flops"]
        shares = {"mfu": whole / seconds["seconds"] / peak}
        for part, counts in self.useful.items():
            shares[f"mfu_{part}"] = counts.total / seconds[f"seconds_{part}"] / peak
        return shares


def count(
    model: ModelConfig,
    examples: Sequence[Example],
    packed: Packed,
    parts: Sequence[str],
    *,
    remat: Remat,
    attention: PackedAttention,
    devices: int = 1,
) -> Operations:
    """The operations of one run.

    Args:
        model: the architecture of student, teachers and reference.
        examples: of the update.
        packed: where they went.
        parts: of `PARTS`; with "update" there is a reference, which scores as teachers do.
        remat: what the train step computes again.
        attention: the kernel.
        devices: that the rows of a micro-batch are spread over.
    """
    needed = useful_work([len(e.prompt) for e in examples], [len(e.response) for e in examples])
    used = slice(packed.used)
    segments_MRS = np.asarray(packed.batch.segments[used])
    wanted_MRS = np.asarray(packed.batch.weights[used]) > 0
    done = executed_work(segments_MRS, wanted_MRS, model.vocab_size, attention, devices)
    ways = _ways(attention, segments_MRS.shape[2])
    again = training_passes(
        model,
        block_again=remat != "none",
        attention_again=remat == "block" or remat == "attention" and not ways.keeps,
        products_again=ways.products_again,
        head_again=True,
    )
    scorers = 2 if "update" in parts else 1

    def of(work: Work, training: Passes) -> dict[str, Flops]:
        scored = sum([flops(model, work)] * scorers, Flops(0, 0, 0))
        both = {"score": scored, "update": flops(model, work, training)}
        return {part: both[part] for part in parts}

    return Operations(of(needed, TRAINING), of(done, again))


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
