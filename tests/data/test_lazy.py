"""A lazy view reads an item when it is asked for, and no earlier."""

from collections.abc import Sequence

import pytest

from gopd_jax.data.lazy import LazySequence


class Recorder(Sequence):
    """Ten times its indices; remembers what was read."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.read.append(index)
        return 10 * index


def test_items_are_read_on_access_and_converted():
    source = Recorder()
    view = LazySequence(source, [5, 2, 7], lambda item, i: (item, i), metadata="abc")
    assert len(view) == 3 and source.read == []
    assert view[1] == (20, 1) and source.read == [2]
    assert list(view) == [(50, 0), (20, 1), (70, 2)]
    assert list(view.metadata) == ["a", "b", "c"]


def test_without_a_conversion_items_are_those_of_the_source():
    view = LazySequence(Recorder(), [5, 2])
    assert list(view) == [50, 20] and view[-1] == 20 and view.metadata is None
    with pytest.raises(IndexError):
        view[2]
