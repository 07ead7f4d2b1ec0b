"""Samples that share a prompt: groups that are packed as one, so that the prompt is computed once.

In: the examples of a domain. Out: groups that fit into a row, in several ways; `packing.plan`
chooses. A group is a prefix, the prompt without its last token, and a segment for each sample: that
last token, which predicts the first one of the response, and the response. A group of one is an
example as it is.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import Generic, Protocol, TypeVar

import numpy as np

from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.types import SampleKey


class Sample(Protocol):
    """What is looked at here of an example."""

    @property
    def key(self) -> SampleKey: ...

    @property
    def prompt(self) -> np.ndarray: ...

    def __len__(self) -> int: ...


S = TypeVar("S", bound=Sample)


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What tells whether it pays to compute a shared prompt once.

    score: cost of an attention score over that of a token in the rest of the model.
    blocks: for rows of each length, queries and keys of a block of attention; 0 where all scores of
        a row are computed.
    """

    score: float
    blocks: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Group(Generic[S]):
    """Samples of one prompt in a row; the length of a group is its tokens there."""

    members: tuple[S, ...]

    @property
    def prefix(self) -> int:
        """Tokens that its members share; 0 with one member."""
        return len(self.members[0].prompt) - 1 if len(self.members) > 1 else 0

    @property
    def sizes(self) -> list[int]:
        """Tokens of each member besides the prefix."""
        prefix = self.prefix
        return [len(e) - prefix for e in self.members]

    def __len__(self) -> int:
        return self.prefix + sum(self.sizes)

    @property
    def order(self) -> tuple[int, SampleKey]:
        """Sorts groups, the longest first."""
        return -len(self), self.members[0].key

    def attention(self, block: int = 0) -> int:
        """About twice the scores of attention that are computed.

        At both ends of a range of keys, half a block is computed beyond it.
        """
        prefix = self.prefix
        beyond = 2 * (prefix + block) if prefix else 0
        return prefix * (prefix + 2 * block) + sum(n * (n + 2 * block + beyond) for n in self.sizes)


def prompt_of(sample: Sample) -> tuple[str, bytes]:
    """What samples that can share their prompt have in common."""
    return sample.key.prompt_id, sample.prompt.tobytes()


def alone(members: Iterable[S]) -> list[Group[S]]:
    return [Group((e,)) for e in members]


def by_prompt(members: Iterable[S], sharing: Sharing | None) -> list[Group[S]]:
    """The members in groups of one prompt, where that pays, in their order within a group."""
    if sharing is None:
        return alone(members)
    groups = []
    for several in _of_one_prompt(members):
        together = Group(several)
        shares = _pays(len(several), together.prefix, sum(together.sizes), sharing)
        groups += [together] if shares else alone(several)
    return sorted(groups, key=lambda g: g.order)


def _of_one_prompt(members: Iterable[S]) -> Iterable[tuple[S, ...]]:
    found: dict[tuple[str, bytes], list[S]] = {}
    for e in members:
        found.setdefault(prompt_of(e), []).append(e)
    return map(tuple, found.values())


def _pays(count: int, prefix: int, tokens: float, sharing: Sharing) -> bool:
    """Whether members of so many tokens besides the prefix save more than they lose.

    All but one save the prefix, and each has one more range of keys.
    """
    block = sharing.blocks[0]
    saved = (count - 1) * prefix * (1 + sharing.score * (prefix / 2 + block))
    return saved > sharing.score * block * tokens


def ready(
    members: Iterable[S], sharing: Sharing | None, *, samples: int, room: int, full: float
) -> list[Group[S]]:
    """The groups that lose nothing if they are run before other samples are there.

    All samples of their prompt are here, or the others would not fit into the same row, or should
    not share the prompt.

    Args:
        members: of any prompts.
        samples: of one prompt, when all are there.
        room: tokens of a row.
        full: tokens from which on a row counts as full.
    """
    if sharing is None:
        return alone(members)
    complete, found = [], []
    for several in _of_one_prompt(members):
        count, prefix = len(several), len(several[0].prompt) - 1
        tokens = sum(len(e) - prefix for e in several)
        if not _pays(samples, prefix, tokens * samples / count, sharing):
            complete += alone(several)
        elif count >= samples:
            complete.append(Group(several))
        else:
            found += [g for g in pieces([Group(several)], room) if len(g) >= full]
    return sorted(found + filled(complete, room), key=lambda g: g.order)


def pieces(groups: Iterable[Group[S]], room: int) -> list[Group[S]]:
    """The groups, cut into as few as fit into rows of this many tokens.

    Args:
        groups: whose members are each at most as long as a row.
        room: tokens of a row.
    """
    found: list[Group[S]] = []
    for group in groups:
        while len(group) > room or len(group.members) >= MEMBERS:
            part, group = _cut(group, room)
            found.append(part)
        found.append(group)
    return sorted(found, key=lambda g: g.order)


def filled(groups: Iterable[Group[S]], room: int) -> list[Group[S]]:
    """The groups, cut so that they fill rows of this many tokens.

    Row by row, the longest groups that fit come first, and then a part of another one fills what is
    left: its prefix is computed once more, in place of padding.
    """
    rest, found = pieces(groups, room), []
    while rest:
        space, left = room, []
        for group in rest:
            if len(group) <= space:
                found.append(group)
                space -= len(group)
            else:
                left.append(group)
        for i, group in enumerate(left):
            if group.prefix and group.prefix + min(group.sizes) <= space:
                part, left[i] = _cut(group, space)
                found.append(part)
                break
        rest = sorted(left, key=lambda g: g.order)
    return sorted(found, key=lambda g: g.order)


def _cut(group: Group[S], room: int) -> tuple[Group[S], Group[S]]:
    """A part with the members that fit, the first ones preferred, and the other members."""
    space, part, others = room - group.prefix, [], []
    for e, size in zip(group.members, group.sizes, strict=True):
        fits = size <= space and len(part) < MEMBERS - 1
        (part if fits else others).append(e)
        space -= size if fits else 0
    return Group(tuple(part)), Group(tuple(others))


def cost(rows: Sequence[Sequence[Group]], length: int, sharing: Sharing, block: int) -> float:
    """What some rows cost, in tokens."""
    tokens = len(rows) * length
    twice = sum(group.attention(block) for row in rows for group in row)
    return tokens + sharing.score * (twice / 2 if block else tokens * length)
