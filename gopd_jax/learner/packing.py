"""Packing: examples of any length into the fixed [M, R, S] rows of one compiled step.

In: examples (prompt + response) with their per-token numbers. Out: a `PackedBatch` of numpy arrays,
and where each example went.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from gopd_jax.types import PackedBatch, SampleKey

# Tokens of a micro-batch on one device. On CPU more make nothing faster; they need memory for
# activations, and leave more rows of the last micro-batch empty.
TOKENS = 2048
MOSTLY_PADDING = 0.1  # share of tokens below which a batch is hardly more than padding


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt and response to learn from.

    key: whose sample it is; orders the examples, so that packing does not depend on the order in
        which rollouts arrive.
    domain: index of its domain.
    prompt, response: int32 ids.
    weight: loss weight of each response token.
    reward_scale: lambda of its teacher.
    advantage: the advantage from outside, the same for all tokens.
    behaviour_logprobs: float32 [T], nats, or None for no importance weight.
    teacher_prompt: int32 ids that the teacher reads in place of the prompt, or None.
    """

    key: SampleKey
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
class RowSlice:
    """Where an example went: micro-batch, row, and column of its first token."""

    micro: int
    row: int
    start: int

    def predictions(self, prompt_tokens: int, response_tokens: int) -> tuple[int, int, slice]:
        """Index into [M, R, S] of the places at which the response tokens are predicted."""
        begin = self.start + prompt_tokens - 1
        return self.micro, self.row, slice(begin, begin + response_tokens)


def rows_of_micro_batch(rows: int, row_length: int, devices: int) -> int:
    """Rows of a micro-batch; where none are given, those that hold `TOKENS` on each device.

    Args:
        rows: as given; 0 leaves it to this function.
        row_length: tokens of a row.
        devices: number of devices that rows are spread over.
    """
    return rows or devices * max(1, TOKENS // row_length)


def micro_batches_needed(
    examples: int, longest: int, rows: int, row_length: int, domains: int
) -> int:
    """Number of micro-batches the step is compiled for: enough for any lengths.

    First-fit opens a row only when every other row of the domain holds at least
    row_length // longest examples.

    Args:
        examples: of one update.
        longest: tokens of the longest possible example.
        rows: rows of a micro-batch.
        row_length: tokens of a row.
        domains: number of domains; the last micro-batch of each may be partly empty.

    Raises:
        ValueError: a row is shorter than the longest example.
    """
    if longest > row_length:
        raise ValueError(
            f"row_length={row_length}: expected at least {longest}, the tokens of the longest "
            "example (prompt + response)"
        )
    in_micro_batch = rows * (row_length // longest)
    return -(-examples // in_micro_batch) + domains - 1


def padding_hint(filled: float, rows: int, row_length: int) -> str:
    """A warning if nearly all of a batch is padding, which costs as much as tokens; else "".

    Args:
        filled: share of its tokens that are not padding.
        rows, row_length: R and S of the batch.
    """
    if filled >= MOSTLY_PADDING:
        return ""
    return (
        f"warning: {1 - filled:.0%} of what the first update computes is padding, in micro-batches "
        f"of {rows} rows of {row_length:,} tokens: a smaller data.max_prompt_tokens, "
        "learner.row_length or learner.rows_per_micro_batch makes it faster"
    )


def pack(
    examples: Sequence[Example], micro_batches: int, rows: int, row_length: int
) -> tuple[PackedBatch, dict[SampleKey, RowSlice], float]:
    """First-fit-decreasing packing, domain by domain: a micro-batch holds rows of one domain only.

    Args:
        examples: of one update.
        micro_batches, rows, row_length: M, R and S of the batch.

    Returns:
        The batch, as numpy arrays, with behaviour log-probs None when the examples have none; where
        each example went; and the share of tokens in the used micro-batches that are not padding.

    Raises:
        ValueError: an example is longer than a row, or more than `micro_batches` are needed.
    """
    placed, row_domains = _first_fit(examples, rows, row_length)
    used = -(-len(row_domains) // rows)
    if used > micro_batches:
        raise ValueError(
            f"{len(row_domains)} rows of {row_length} tokens need {used} micro-batches of {rows} "
            f"rows, but the step is compiled for {micro_batches}"
        )

    shape = (micro_batches * rows, row_length)
    integers = ("tokens", "positions", "segments", "targets")
    floats = ("weights", "reward_scale", "advantages", "behaviour_logprobs")
    arrays = {name: np.zeros(shape, np.int32) for name in integers}
    arrays |= {name: np.zeros(shape, np.float32) for name in floats}
    domains = np.zeros(shape[0], np.int32)
    domains[: len(row_domains)] = row_domains
    slices, segments_in_row = {}, np.zeros(shape[0], np.int32)
    for example, row, start in placed:
        segments_in_row[row] += 1
        whole = slice(start, start + len(example))
        arrays["tokens"][row, whole] = np.concatenate([example.prompt, example.response])
        arrays["positions"][row, whole] = np.arange(len(example))
        arrays["segments"][row, whole] = segments_in_row[row]
        slices[example.key] = where = RowSlice(row // rows, row % rows, start)
        response = where.predictions(len(example.prompt), len(example.response))[2]
        arrays["targets"][row, response] = example.response
        arrays["weights"][row, response] = example.weight
        arrays["reward_scale"][row, response] = example.reward_scale
        arrays["advantages"][row, response] = example.advantage
        if example.behaviour_logprobs is not None:
            arrays["behaviour_logprobs"][row, response] = example.behaviour_logprobs
    if examples and examples[0].behaviour_logprobs is None:
        del arrays["behaviour_logprobs"]
    stacked = {k: v.reshape(micro_batches, rows, row_length) for k, v in arrays.items()}
    batch = PackedBatch(
        used=np.int32(used), domains=domains.reshape(micro_batches, rows), **stacked
    )
    filled = sum(map(len, examples)) / max(1, used * rows * row_length)
    return batch, slices, filled


def _first_fit(
    examples: Sequence[Example], rows: int, row_length: int
) -> tuple[list[tuple[Example, int, int]], list[int]]:
    """Example, global row and start of each example, and the domain of each row."""
    placed: list[tuple[Example, int, int]] = []
    row_domains: list[int] = []
    for domain in sorted({e.domain for e in examples}):
        if row_domains:  # the next domain begins with a micro-batch of its own
            row_domains += [row_domains[-1]] * (-len(row_domains) % rows)
        first, free = len(row_domains), np.zeros(0, np.int64)
        members = (e for e in examples if e.domain == domain)
        for e in sorted(members, key=lambda e: (-len(e), e.key)):
            if len(e) > row_length:
                raise ValueError(
                    f"the example of sample {tuple(e.key)} has {len(e)} tokens: expected at most "
                    f"row_length={row_length}"
                )
            fits = np.flatnonzero(free >= len(e))
            if not len(fits):
                free, fits = np.append(free, row_length), np.array([len(free)])
                row_domains.append(domain)
            placed.append((e, first + int(fits[0]), row_length - int(free[fits[0]])))
            free[fits[0]] -= len(e)
    return placed, row_domains


def as_teachers_read(examples: Sequence[Example]) -> list[Example]:
    """The examples whose teacher reads a prompt of its own, with that prompt."""
    own = (e for e in examples if e.teacher_prompt is not None)
    return [dataclasses.replace(e, prompt=e.teacher_prompt) for e in own]


def gather_index(
    examples: Sequence[Example],
    student: Mapping[SampleKey, RowSlice],
    teacher: Mapping[SampleKey, RowSlice],
    shape: tuple[int, int, int],
) -> np.ndarray:
    """Where, in the batch packed for the teacher, each token of the student's batch was predicted.

    Args:
        examples: of one update.
        student, teacher: where the examples went in the two batches.
        shape: [M, R, S] of both.

    Returns:
        int32 [M, R, S]: a flat index into the teacher's [M, R, S], or -1 where the teacher's batch
        has no such token.
    """
    index = np.full(shape, -1, np.int32)
    for e in examples:
        if e.teacher_prompt is None:
            continue
        micro, row, columns = teacher[e.key].predictions(len(e.teacher_prompt), len(e.response))
        first = np.ravel_multi_index((micro, row, columns.start), shape)
        here = student[e.key].predictions(len(e.prompt), len(e.response))
        index[here] = first + np.arange(len(e.response))
    return index
