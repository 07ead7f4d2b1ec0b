"""Lengths that are made up, and the schedule of the slots."""

import numpy as np
import pytest

from gopd_jax.plan.chips import CHIPS, Slice
from gopd_jax.plan.work import Assumed, Load, response_lengths, schedule


def test_lengths_have_the_mean_and_the_limit():
    lengths = response_lengths(1024, 4096, 16384)
    assert lengths.mean() == pytest.approx(4096, rel=0.01)
    assert lengths.max() == 16384 and lengths.min() >= 1
    assert (response_lengths(8, 20, 16) == 16).all()


def test_a_schedule_draws_every_token():
    lengths = response_lengths(100, 300, 2000)
    found = schedule(lengths, slots=16, widths=[16, 4])
    assert sum(count * active for count, _, active, _, _ in found) == lengths.sum()
    assert all(active <= width for _, width, active, _, _ in found)
    assert {width for _, width, *_ in found} == {16, 4}
    assert max(longest for *_, longest in found) <= 2000
    # No fewer steps than all tokens need, and no more than one slot after the other.
    steps = sum(count for count, *_ in found)
    assert lengths.sum() / 16 <= steps <= lengths.sum() / 16 + lengths.max()


def test_equal_lengths_draw_in_whole_rounds():
    found = schedule(np.full(32, 100), slots=16, widths=[16])
    assert sum(count for count, *_ in found) == 200
    assert [filled for *_, filled, _ in found] == [16 * 50, 16 * 50]


def test_the_slowest_of_three_decides():
    where = Slice("tpu7x:2x2x1", CHIPS["tpu7x"], 4, ())
    flops, memory, network = 2307e12, 7380e9, 600e9  # a second of one chip, which is two devices
    nothing = Load("part", 1, 0, 0, 0)
    assert nothing.floor(where) == 0
    load = Load("part", 1, flops / 2, memory / 4, network / 8)
    assert load.floor(where) == pytest.approx(1)
    assert load.seconds(where, Assumed(1, 1, 0.5, 1, 1)) == pytest.approx(2)
    assert load.seconds(where, Assumed(1, 1, 1, 0.1, 1)) == pytest.approx(5)
    assert load.seconds(where, Assumed(1, 1, 1, 1, 0.05)) == pytest.approx(5)
