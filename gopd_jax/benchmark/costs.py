"""The costs of the measured parts of the learner, as figures.

In: a learner and examples, or the costs of a run. Out: numbers of operations by part, shares, and
the shares of the peak that useful operations reach.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gopd_jax.learner.example import Example
from gopd_jax.learner.learner import Learner, Packed
from gopd_jax.learner.operations import NO_COST, Cost, score_cost
from gopd_jax.learner.packing import fill, members_of, plan

Figures = dict[str, Any]


def count(learner: Learner, examples: Sequence[Example], part: str) -> dict[str, Cost]:
    """What one run costs; nothing is run.

    Args:
        learner: whose rows these are.
        examples: of the run.
        part: "score" is one model, "update" has a teacher and a reference, which score.
    """
    decoder, scoring, counted = learner.decoder(learner.student), NO_COST, set()
    planned = plan(examples, learner.buckets, learner.sharing)
    for bucket, rows in zip(learner.buckets, planned, strict=True):
        for start in range(0, len(rows), bucket.rows):
            micro = rows[start : start + bucket.rows]
            arrays, _ = fill(micro, bucket.rows, bucket.length, ())
            scoring += score_cost(
                decoder,
                members_of(micro),
                arrays["segments"],
                arrays["weights"] > 0,
                learner.devices,
                counted,
            )
    if part == "score":
        return {"score": scoring}
    return {"score": scoring + scoring, "update": learner.pack(examples).cost}


def figures(costs: Mapping[str, Cost]) -> Figures:
    """The operations in all, by part, and their ratio."""
    out: Figures = {}
    whole = sum(costs.values(), NO_COST)
    for kind in ("useful", "executed"):
        out[f"{kind}_flops"] = getattr(whole, kind).total
        out |= {f"{kind}_flops_{part}": getattr(cost, kind).total for part, cost in costs.items()}
        for name in ("blocks", "attention", "head"):
            out[f"{kind}_flops_{name}"] = getattr(getattr(whole, kind), name)
    out["executed_over_useful"] = out["executed_flops"] / out["useful_flops"]
    out["attention_useful"] = whole.attention_useful
    for part, cost in costs.items():
        out[f"attention_share_{part}"] = cost.executed.attention / cost.executed.total
    return out


def speeds(costs: Mapping[str, Cost], seconds: Mapping[str, Any], peak: float) -> Figures:
    """The shares of the peak that useful operations reach, whole and by part.

    Args:
        costs: by part.
        seconds: has "seconds", and "seconds_PART" of each part.
        peak: operations per second of all devices.
    """
    whole = sum(cost.useful.total for cost in costs.values())
    shares = {"mfu": whole / seconds["seconds"] / peak}
    for part, cost in costs.items():
        shares[f"mfu_{part}"] = cost.useful.total / seconds[f"seconds_{part}"] / peak
    return shares


def rows_of(packed: Packed) -> Figures:
    """What the packed rows of an update hold."""
    used = [np.asarray(b.segments[:n]) for b, n in zip(packed.batches, packed.used, strict=True)]
    lengths = [b.tokens.shape[2] for b in packed.batches]
    tokens = sum(segments.size for segments in used)
    responses = sum(len(e.response) for e in packed.examples.values())
    return {
        "micro_batches": sum(packed.used),
        "rows": {length: s.shape[0] * s.shape[1] for length, s in zip(lengths, used, strict=True)},
        "rows_empty": sum(int((s.max(axis=2) == 0).sum()) for s in used if s.size),
        "row_tokens": tokens,
        "filled_share": packed.cost.filled,
        "response_share": responses / tokens,
    }
