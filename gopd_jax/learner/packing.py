"""Packing: sequences of any length into the fixed [M, R, S] rows of one compiled step.

In: sequences (prompt + response) with their per-token numbers. Out: a PackedBatch of numpy arrays and where each sequence went.
"""

from collections.abc import Sequence as Seq
import dataclasses

import numpy as np

from gopd_jax.types import PackedBatch


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One prompt and response to learn from.

    domain: index of its domain. weight: loss weight of each response token. reward_scale: lambda of its teacher.
    advantage: from outside, one number for all tokens. behaviour_logprobs: float32 [T], or None.
    name: total order among sequences, so that packing does not depend on the order of arrival.
    teacher_prompt: what the teacher reads in place of the prompt, or None.
    """

    name: tuple
    domain: int
    prompt: np.ndarray
    response: np.ndarray
    weight: float
    reward_scale: float = 1.0
    advantage: float = 0.0
    behaviour_logprobs: np.ndarray | None = None
    teacher_prompt: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a sequence went: token t of its response is predicted at [micro, row, start + len(prompt) - 1 + t]."""

    micro: int
    row: int
    start: int


def micro_batches_needed(
    sequences: int, longest: int, rows: int, row_length: int, domains: int
) -> int:
    """Micro-batches that hold any such batch, whatever the lengths: the M that one compile is made for.

    First-fit opens a row only when every other row of the domain holds at least row_length // longest sequences.

    Raises:
        ValueError: a row that does not hold the longest sequence.
    """
    if longest > row_length:
        raise ValueError(
            f"row_length={row_length} is shorter than the longest sequence, {longest} tokens (prompt + response): raise it"
        )
    in_micro_batch = rows * (row_length // longest)
    return (
        -(-sequences // in_micro_batch) + domains - 1
    )  # the last micro-batch of each domain may be partly empty


def pack(
    sequences: Seq[Sequence], micro_batches: int, rows: int, row_length: int
) -> tuple[PackedBatch, dict[tuple, Place], float]:
    """First-fit-decreasing packing, domain by domain: a micro-batch holds rows of one domain only.

    Returns:
        the batch (numpy arrays; behaviour log-probs None when the sequences have none), the place of each sequence by its
        name, and the share of tokens in the used micro-batches that are not padding.

    Raises:
        ValueError: a sequence longer than a row, or more rows than `micro_batches` hold.
    """
    placed: list[tuple[Sequence, int, int]] = []  # sequence, global row, start
    row_domains: list[int] = []
    for domain in sorted({s.domain for s in sequences}):
        row_domains += [row_domains[-1]] * (-len(row_domains) % rows) if row_domains else []
        first, free = len(row_domains), np.zeros(0, np.int64)
        for s in sorted(
            (s for s in sequences if s.domain == domain), key=lambda s: (-len(s), s.name)
        ):
            fits = np.flatnonzero(free >= len(s))
            if len(s) > row_length:
                raise ValueError(
                    f"sequence {s.name} has {len(s)} tokens, more than row_length={row_length}"
                )
            if not len(fits):
                free, fits = np.append(free, row_length), np.array([len(free)])
                row_domains.append(domain)
            placed.append((s, first + int(fits[0]), row_length - int(free[fits[0]])))
            free[fits[0]] -= len(s)
    used = -(-len(row_domains) // rows)
    if used > micro_batches:
        raise ValueError(
            f"{len(row_domains)} rows of {row_length} tokens need {used} micro-batches of {rows} rows, not {micro_batches}"
        )

    shape = (micro_batches * rows, row_length)
    integers = {
        k: np.zeros(shape, np.int32) for k in ("tokens", "positions", "segments", "targets")
    }
    floats = {
        k: np.zeros(shape, np.float32)
        for k in ("weights", "reward_scale", "advantages", "behaviour_logprobs")
    }
    domains = np.zeros(shape[0], np.int32)
    domains[: len(row_domains)] = row_domains
    places, segments_in_row = {}, np.zeros(shape[0], np.int32)
    for s, row, start in placed:
        segments_in_row[row] += 1
        whole = slice(start, start + len(s))
        tokens = np.concatenate([s.prompt, s.response])
        integers["tokens"][row, whole] = tokens
        integers["positions"][row, whole] = np.arange(len(s))
        integers["segments"][row, whole] = segments_in_row[row]
        response = slice(start + len(s.prompt) - 1, start + len(s) - 1)
        integers["targets"][row, response] = s.response
        floats["weights"][row, response] = s.weight
        floats["reward_scale"][row, response] = s.reward_scale
        floats["advantages"][row, response] = s.advantage
        if s.behaviour_logprobs is not None:
            floats["behaviour_logprobs"][row, response] = s.behaviour_logprobs
        places[s.name] = Place(row // rows, row % rows, start)
    if sequences and sequences[0].behaviour_logprobs is None:
        del floats["behaviour_logprobs"]
    arrays = {k: v.reshape(micro_batches, rows, row_length) for k, v in (integers | floats).items()}
    batch = PackedBatch(used=np.int32(used), domains=domains.reshape(micro_batches, rows), **arrays)
    filled = sum(map(len, sequences)) / max(1, used * rows * row_length)
    return batch, places, filled


def as_teachers_read(sequences: Seq[Sequence]) -> list[Sequence]:
    """The sequences that have a prompt of their own for the teacher, with that prompt."""
    return [
        dataclasses.replace(s, prompt=s.teacher_prompt)
        for s in sequences
        if s.teacher_prompt is not None
    ]


def gather_index(
    sequences: Seq[Sequence],
    places: dict[tuple, Place],
    teacher_places: dict[tuple, Place],
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Where, in a batch packed for the teacher, each token of the student's batch was predicted.

    Returns:
        int32 [M, R, S]: a flat index into the teacher's [M, R, S], -1 where the teacher's batch has no such token.
    """
    index = np.full(shape, -1, np.int32)
    for s in sequences:
        if s.teacher_prompt is None:
            continue
        ours, theirs = places[s.name], teacher_places[s.name]
        begin, begin_there = (
            ours.start + len(s.prompt) - 1,
            theirs.start + len(s.teacher_prompt) - 1,
        )
        first = np.ravel_multi_index((theirs.micro, theirs.row, begin_there), shape)
        index[ours.micro, ours.row, begin : begin + len(s.response)] = first + np.arange(
            len(s.response)
        )
    return index
