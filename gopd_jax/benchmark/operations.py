"""Operations of the measured parts of the learner: the useful ones and those that are run.

In: examples, and what they were packed into. Out: numbers of operations, from the shapes of the
programs by the arithmetic of `learner.flops`. This is where the programs' own ways are known: what
they pad and mask, and what they compute twice.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gopd_jax.kernels.packed_attention import PackedAttention
from gopd_jax.kernels.packed_attention_tpu import block_size
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.learner.flops import (
    TRAINING,
    Flops,
    Work,
    block_pairs,
    dense_pairs,
    flops,
    training_passes,
    useful_work,
)
from gopd_jax.learner.learner import Packed
from gopd_jax.learner.packing import Example
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.logprobs import chunk_tokens
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
    attention: PackedAttention,
    remat: Remat,
) -> Operations:
    """The operations of one run.

    Args:
        model: the architecture of student, teachers and reference.
        examples: of the update.
        packed: where they went.
        parts: of `PARTS`; with "update" there is a reference, which scores as teachers do.
        attention: the kernel of the programs.
        remat: what the train step computes again.
    """
    needed = useful_work([len(e.prompt) for e in examples], [len(e.response) for e in examples])
    segments_MRS = np.asarray(packed.batch.segments[: packed.used])
    trained_MRS = np.asarray(packed.batch.weights[: packed.used]) > 0
    done = executed_work(segments_MRS, trained_MRS, attention)
    by_blocks = block_of(attention, segments_MRS.shape[-1]) > 0
    again = training_passes(
        model,
        block_again=remat != "none",
        # Of attention by blocks, "attention" keeps the result.
        attention_again=remat == "block" or (remat == "attention" and not by_blocks),
        products_again=int(by_blocks),
        head_again=True,
    )
    models = {"score": 2 if "update" in parts else 1}

    def of(work: Work, training) -> dict[str, Flops]:
        scored = sum([flops(model, work)] * models["score"], Flops(0, 0, 0))
        both = {"score": scored, "update": flops(model, work, training)}
        return {part: both[part] for part in parts}

    return Operations(of(needed, TRAINING), of(done, again))


def block_of(attention: PackedAttention, length: int) -> int:
    """Tokens of a block of the attention kernel in rows of `length`; 0 where it runs all pairs."""
    if isinstance(attention, Xla):
        return 0 if length <= max(attention.block, attention.short) else attention.block
    return block_size(length)


def executed_work(
    segments_MRS: np.ndarray, trained_MRS: np.ndarray, attention: PackedAttention
) -> Work:
    """What the programs run for the used micro-batches, on one device.

    Args:
        segments_MRS: of their rows.
        trained_MRS: where a token is predicted.
        attention: the kernel of the programs.
    """
    M, R, S = segments_MRS.shape
    block = block_of(attention, S)
    rows = segments_MRS.reshape(-1, S)
    chunk = chunk_tokens(R * S)
    chunks = -(-trained_MRS.sum(axis=(1, 2)) // chunk)
    return Work(
        tokens=M * R * S,
        pairs=block_pairs(rows, block) if block else dense_pairs(M * R, S, S),
        predictions=int(chunks.sum()) * chunk,
    )
