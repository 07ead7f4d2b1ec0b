"""Operations of the measured parts of the learner: the useful ones and those that are run.

In: examples, and what they were packed into. Out: numbers of operations, from the shapes of the
programs by the arithmetic of `learner.flops`. This is where the programs' own ways are known: what
they pad and mask, and what they compute twice.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from gopd_jax.kernels.packed_attention import QUERY_CHUNK
from gopd_jax.learner.flops import (
    TRAINING,
    Flops,
    Work,
    dense_pairs,
    flops,
    training_passes,
    useful_work,
)
from gopd_jax.learner.learner import Packed
from gopd_jax.learner.packing import Example
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.heads import chunk_length

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
    remat: bool,
) -> Operations:
    """The operations of one run.

    Args:
        model: the architecture of student, teachers and reference.
        examples: of the update.
        packed: where they went.
        parts: of `PARTS`; with "update" there is a reference, which scores as teachers do.
        remat: the train step recomputes each block.
    """
    needed = useful_work([len(e.prompt) for e in examples], [len(e.response) for e in examples])
    segments_NS = np.asarray(packed.batch.segments[: packed.used])
    segments_NS = segments_NS.reshape(-1, segments_NS.shape[-1])
    done = executed_work(segments_NS, packed.batch.tokens.shape[1], model.vocab_size)
    again = training_passes(
        model,
        block_again=remat,
        attention_again=remat,
        products_again=int(segments_NS.shape[1] > QUERY_CHUNK),
        head_again=True,
    )
    models = {"score": 2 if "update" in parts else 1}

    def of(work: Work, training) -> dict[str, Flops]:
        scored = sum([flops(model, work)] * models["score"], Flops(0, 0, 0))
        both = {"score": scored, "update": flops(model, work, training)}
        return {part: both[part] for part in parts}

    return Operations(of(needed, TRAINING), of(done, again))


def executed_work(segments_NS: np.ndarray, rows: int, vocab_size: int) -> Work:
    """What the programs run for the used micro-batches.

    Args:
        segments_NS: of their rows.
        rows: of a micro-batch on one device.
        vocab_size: V.
    """
    count, length = segments_NS.shape
    chunk = chunk_length(rows, length, vocab_size)
    return Work(
        tokens=count * length,
        pairs=dense_pairs(count, length, QUERY_CHUNK),
        predictions=count * -(-length // chunk) * chunk,
    )
