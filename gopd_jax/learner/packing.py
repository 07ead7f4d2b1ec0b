"""Packing: examples of any length into the fixed rows of one compiled step.

In: examples (prompt + response) with their per-token numbers. Out: a `PackedBatch` of numpy arrays
for each length of rows, and where each example went.

Rows have one of a few lengths, each of which is compiled once: long ones, and shorter ones for what
is left over in the end. The plan is a function of the examples alone, so that every host makes the
same one. Samples of one prompt may share it; see `groups`.
"""

import bisect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import types

import numpy as np
from numpy.typing import DTypeLike

from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.learner.example import HIDDEN, PER_TOKEN, Example, RowSlice
from gopd_jax.learner.groups import Group, Sharing, alone, by_prompt, cost, filled, pieces
from gopd_jax.types import PackedBatch, SampleKey

# Tokens of a micro-batch on one device, and of a row, if no example is longer. On CPU more make
# nothing faster, and they need memory for activations. Where samples share a prompt, one row has
# them all, so that fewer prompts are cut.
TOKENS = 2048
ROW = 1024
# Rows of the second length are so many times shorter: fewer lengths leave more padding, and each
# one has to be compiled. Rows of less than `LEAST` tokens are not worth that.
SHORTER = 4
LEAST = 256
MOSTLY_PADDING = 0.1  # share of tokens below which a batch is hardly more than padding


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """What the rows of one update are made for.

    examples: of one update. longest: tokens of the longest possible example.
    rows: of a micro-batch; 0 takes those that hold `TOKENS` on each device.
    row_length: tokens of a row; 0 takes `ROW`, or `TOKENS` for several samples of a prompt and
        `rows` 0, or more or fewer where the examples need them.
    samples: of one prompt that may share it, at most; with 1, no prompt is shared.
    """

    examples: int
    longest: int
    rows: int = 0
    row_length: int = 0
    samples: int = 1


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Micro-batches with rows of one length.

    micro_batches: M, as many as any examples may need.
    rows: R of each.
    length: S.
    """

    micro_batches: int
    rows: int
    length: int


Row = list[Group[Example]]
Hidden = tuple[int, DTypeLike]  # width and dtype of hidden states
NOTHING: Mapping[str, Hidden] = types.MappingProxyType({})


# ---- The shapes.


def make_buckets(
    shape: BatchShape, domains: int, devices: int, for_each: int = 1, multiple: int = 1
) -> tuple[Bucket, ...]:
    """The lengths of rows, the longest first, with room for any examples.

    Args:
        shape: of the batches.
        domains: number of domains; the last micro-batches of each may be partly empty.
        devices: number of devices, or of groups of them, that rows are spread over.
        for_each: number of devices of such a group, which hold a row together.
        multiple: lengths of rows are multiples of this number.

    Raises:
        ValueError: a row is shorter than the longest example, or the devices do not divide the
            rows or their length.
    """
    if shape.row_length and shape.longest > shape.row_length:
        raise ValueError(
            f"row_length={shape.row_length}: expected at least {shape.longest}, the tokens of the "
            "longest example (prompt + response)"
        )
    if shape.rows % devices:
        raise ValueError(
            f"config.learner.rows_per_micro_batch={shape.rows}: expected a multiple of "
            f"{devices}, the devices on the data, fsdp and expert axes"
        )
    if shape.row_length % multiple:
        raise ValueError(
            f"row_length={shape.row_length}: expected a multiple of {multiple}, for the devices on "
            "the context and tensor axes split each row"
        )
    all_tokens = shape.examples * shape.longest
    usual = TOKENS if shape.samples > 1 and not shape.rows else ROW
    length = shape.row_length or max(shape.longest, min(usual, -(-all_tokens // devices)))
    length += -length % multiple
    most = min(for_each * TOKENS // length, all_tokens // (length * devices))
    rows = shape.rows or devices * max(1, most)
    in_micro_batch = rows * (length // shape.longest)
    # Best fit opens a row only when every other row of the domain holds at least
    # length // longest examples.
    long = Bucket(-(-shape.examples // in_micro_batch) + domains - 1, rows, length)
    short = -(-length // SHORTER)
    short += -short % multiple
    if short < LEAST:
        return (long,)
    return long, Bucket((SHORTER - 1) * domains, rows, short)


def padding_hint(filled: float, buckets: Sequence[Bucket]) -> str:
    """A warning if nearly all of a batch is padding, which costs as much as tokens; else "".

    Args:
        filled: share of its tokens that are not padding.
        buckets: that it was packed into.
    """
    if filled >= MOSTLY_PADDING:
        return ""
    sizes = " or ".join(f"{b.rows} rows of {b.length:,} tokens" for b in buckets)
    return (
        f"warning: {1 - filled:.0%} of what the first update computes is padding, in micro-batches "
        f"of {sizes}: a smaller data.max_prompt_tokens, learner.row_length or "
        "learner.rows_per_micro_batch makes it faster"
    )


# ---- The plan.


def plan(
    examples: Sequence[Example], buckets: Sequence[Bucket], sharing: Sharing | None = None
) -> list[list[Row]]:
    """The rows of each bucket, whole micro-batches of them; the last ones may be empty.

    Domain by domain, for a micro-batch holds one domain only: best fit, the longest example first,
    into as few long rows as possible; then the last micro-batch of long rows is replaced by the
    fewest micro-batches of short rows that hold what remains. The rows of a micro-batch run side by
    side, so rows whose attention costs about the same stand together.

    Samples of one prompt share it where that makes the rows cheaper: in groups that are cut to fit
    into a row, or to fill it.

    Args:
        examples: of one update.
        buckets: the rows that there are.
        sharing: what tells whether sharing pays; None shares nothing.

    Raises:
        ValueError: an example is longer than a row.
    """
    planned: list[list[Row]] = [[] for _ in buckets]
    for domain in sorted({e.domain for e in examples}):
        members = sorted(
            (e for e in examples if e.domain == domain), key=lambda e: (-len(e), e.key)
        )
        for rows, found in zip(planned, _plan_domain(members, buckets, sharing), strict=True):
            rows += found
    return planned


def check_fits(example: Example, bucket: Bucket) -> None:
    """Raises a ValueError if an example is longer than a row."""
    if len(example) > bucket.length:
        raise ValueError(
            f"the example of sample {tuple(example.key)} has {len(example)} tokens: expected at "
            f"most row_length={bucket.length}"
        )


def _plan_domain(
    members: Sequence[Example], buckets: Sequence[Bucket], sharing: Sharing | None
) -> list[list[Row]]:
    long = buckets[0]
    check_fits(members[0], long)
    plans = [_plan_groups(alone(members), buckets)]
    groups = by_prompt(members, sharing)
    if len(groups) == len(members):
        return plans[0]
    plans += [_plan_groups(cut(groups, long.length), buckets) for cut in (pieces, filled)]
    # The step is compiled for as many micro-batches as examples without company need.
    most = len(plans[0][0]) + long.rows * any(map(bool, plans[0][1:]))
    plans = [rows for rows in plans if len(rows[0]) <= most]

    def cost_of(planned: list[list[Row]]) -> float:
        of_buckets = zip(planned, buckets, sharing.blocks, strict=True)
        return sum(cost(rows, b.length, sharing, block) for rows, b, block in of_buckets)

    return min(plans, key=cost_of)


def _plan_groups(members: Sequence[Group[Example]], buckets: Sequence[Bucket]) -> list[list[Row]]:
    """The rows of groups that each fit into a long one, the longest first."""
    long = buckets[0]
    # Of any two rows that best fit opens, the groups would not fit into one.
    most = min(len(members), 2 * -(-sum(map(len, members)) // long.length))
    opened = sum(map(bool, best_fit(members, [long.length] * most)))
    needed = -(-opened // long.rows)
    tries = [(needed, *(0 for _ in buckets[1:]))]
    if len(buckets) > 1:
        tries = [(needed - 1, n) for n in range(SHORTER)] + tries
    for counts in tries:
        sizes = [b.rows * n for b, n in zip(buckets, counts, strict=True)]
        lengths = [b.length for b, n in zip(buckets, sizes, strict=True) for _ in range(n)]
        if (rows := best_fit(members, lengths)) is not None:
            break
    bounds = itertools.pairwise(itertools.accumulate([0, *sizes]))
    return [sorted(rows[a:b], key=_attention, reverse=True) for a, b in bounds]


def best_fit(members: Iterable[Group[Example]], lengths: Sequence[int]) -> list[Row] | None:
    """Puts each group into the row with the least space that is left for it.

    Args:
        members: in the order in which they are placed.
        lengths: tokens of each row.

    Returns:
        The groups of each row; None if there is no place for one.
    """
    rows: list[Row] = [[] for _ in lengths]
    space = sorted((length, row) for row, length in enumerate(lengths))  # that is left, and where
    for group in members:
        if (at := bisect.bisect_left(space, (len(group), 0))) == len(space):
            return None
        free, row = space.pop(at)
        rows[row].append(group)
        bisect.insort(space, (free - len(group), row))
    return rows


def _attention(row: Row) -> int:
    """What attention costs in a row, up to a factor."""
    return sum(group.attention() for group in row)


# ---- The arrays.


def pack(
    examples: Sequence[Example],
    buckets: Sequence[Bucket],
    logprobs: Collection[str] | None = None,
    sharing: Sharing | None = None,
    hidden: Mapping[str, Hidden] = NOTHING,
) -> tuple[tuple[PackedBatch, ...], dict[SampleKey, RowSlice]]:
    """Packs the examples of one update.

    Args:
        examples: of one update.
        buckets: the rows that there are.
        logprobs: which of `PER_TOKEN` the batches have, 0 where an example has none; None takes
            those that some example has.
        sharing: see `plan`.
        hidden: which of `HIDDEN` the batches have, with their width and dtype.

    Returns:
        A batch for each bucket, as numpy arrays, and where each example went.

    Raises:
        ValueError: an example is longer than a row, or there are too few micro-batches.
    """
    if logprobs is None:
        logprobs = [n for n in PER_TOKEN if any(getattr(e, n) is not None for e in examples)]
    batches: list[PackedBatch] = []
    slices: dict[SampleKey, RowSlice] = {}
    planned = plan(examples, buckets, sharing)
    for index, (bucket, rows) in enumerate(zip(buckets, planned, strict=True)):
        M, R, S = bucket.micro_batches, bucket.rows, bucket.length
        if (used := len(rows) // R) > M:
            raise ValueError(
                f"rows of {S} tokens need {used} micro-batches of {R} rows, but the step is "
                f"compiled for {M}"
            )
        arrays, starts = fill(rows, M * R, S, logprobs, hidden)
        for key, (row, start) in starts.items():
            slices[key] = RowSlice(index, row // R, row % R, start)
        domains_MR = np.zeros((M, R), np.int32)
        for micro in range(used):
            domains_MR[micro] = next((e.domain for e in members_of(rows[micro * R :])), 0)
        stacked = {name: x.reshape(M, R, *x.shape[1:]) for name, x in arrays.items()}
        batches.append(PackedBatch(used=np.int32(used), domains=domains_MR, **stacked))
    return tuple(batches), slices


def members_of(rows: Iterable[Row]) -> Iterator[Example]:
    """The examples of some rows, in order."""
    return (e for row in rows for group in row for e in group.members)


def fill(
    rows: Sequence[Row],
    count: int,
    length: int,
    logprobs: Collection[str],
    hidden: Mapping[str, Hidden] = NOTHING,
) -> tuple[dict[str, np.ndarray], dict[SampleKey, tuple[int, int]]]:
    """The per-token arrays of `PackedBatch`, [count, length], and row and start of each example."""
    integers, floats = ("tokens", "positions", "segments", "targets"), ("weights", "reward_scale")
    arrays = {name: np.zeros((count, length), np.int32) for name in integers}
    for name in (*floats, "advantages", *logprobs):
        arrays[name] = np.zeros((count, length), np.float32)
    for name, (width, dtype) in hidden.items():
        arrays[name] = np.zeros((count, length, width), dtype)
    starts: dict[SampleKey, tuple[int, int]] = {}
    for index, row in enumerate(rows):
        start = 0
        for number, group in enumerate(row, start=1):
            prefix = group.prefix
            shared = index, slice(start, start + prefix)
            arrays["tokens"][shared] = group.members[0].prompt[:prefix]
            arrays["positions"][shared] = np.arange(prefix)
            arrays["segments"][shared] = number * MEMBERS
            for member, example in enumerate(group.members, start=1):
                own = index, slice(start + prefix, start + len(example))
                whole = np.concatenate([example.prompt, example.response])
                arrays["tokens"][own] = whole[prefix:]
                arrays["positions"][own] = np.arange(prefix, len(example))
                arrays["segments"][own] = number * MEMBERS + (member if prefix else 0)
                _fill_response(arrays, index, start, example, [*logprobs, *hidden])
                starts[example.key] = index, start
                start += len(example) - prefix
            start += prefix
    return arrays, starts


def _fill_response(
    arrays: dict[str, np.ndarray],
    row: int,
    start: int,
    example: Example,
    given: Collection[str],
) -> None:
    """The numbers of an example's response tokens; see `RowSlice` for where they stand."""
    first = start + len(example.prompt) - 1
    response = row, slice(first, first + len(example.response))
    arrays["targets"][response] = example.response
    arrays["weights"][response] = example.weight
    arrays["reward_scale"][response] = example.reward_scale
    arrays["advantages"][response] = example.advantage
    for name in given:
        if (values := getattr(example, name)) is not None:
            if name in HIDDEN:  # a narrower one is filled up with 0
                arrays[name][(*response, slice(values.shape[1]))] = values
            else:
                arrays[name][response] = values
