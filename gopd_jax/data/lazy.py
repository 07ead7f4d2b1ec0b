"""A lazy view of a random-access sequence.

In: a sequence such as a data set on disk, and the indices of some of its items. Out: a sequence of
these items, each read and converted when it is asked for, so that a data set of any size costs
little memory. Does not cache.
"""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

S = TypeVar("S")
T = TypeVar("T")


class LazySequence(Sequence[T], Generic[S, T]):
    """Some items of `source`, read on access.

    Args:
        source: the sequence that items are read from.
        indices: index in `source` of each item, in the order of the view.
        convert: function of an item of `source` and its index in this view, which returns the item
            of the view; None returns the item of `source` as it is.
        metadata: facts about each item that are known without reading it, or None.
    """

    def __init__(
        self,
        source: Sequence[S],
        indices: Sequence[int],
        convert: Callable[[S, int], T] | None = None,
        metadata: Sequence[Any] | None = None,
    ):
        self._source, self._indices, self._convert = source, indices, convert
        self.metadata = metadata

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> T:
        item = self._source[self._indices[index]]
        return item if self._convert is None else self._convert(item, index)
