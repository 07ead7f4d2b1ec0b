"""Schedules, and which shaping needs what."""

import numpy as np
import pytest

from gopd_jax.objective.shaping_settings import ShapingSettings, ramp


def test_a_ramp_begins_at_its_start_ends_at_its_end_and_is_a_line():
    values = [ramp(2.0, 1.0, 4, step) for step in range(1, 8)]
    np.testing.assert_allclose(values, [2.0, 1.75, 1.5, 1.25, 1.0, 1.0, 1.0])
    assert [ramp(2.0, 1.3, 0, step) for step in (1, 2)] == [1.3, 1.3]


def test_lambda_goes_to_that_of_each_teacher():
    shaping = ShapingSettings(reward_scale_start=0.5, reward_scale_steps=2)
    scales = {"math": 1.25, "code": 1.5}
    assert shaping.reward_scales(scales, 1) == {"math": 0.5, "code": 0.5}
    assert shaping.reward_scales(scales, 2) == {"math": 0.875, "code": 1.0}
    assert shaping.reward_scales(scales, 3) == scales
    off = ShapingSettings(reward_scale_start=0.5)
    assert all(off.reward_scales(scales, step) == scales for step in (1, 2, 50))


def test_weight_of_the_kl_to_the_reference():
    assert ShapingSettings(kl_coefficient=0.1).kl_at(7) == 0.1
    falling = ShapingSettings(kl_coefficient=0.1, kl_coefficient_steps=10)
    assert [falling.kl_at(s) for s in (1, 6, 11, 99)] == pytest.approx([0.1, 0.05, 0, 0])
    rising = ShapingSettings(kl_coefficient_end=0.2, kl_coefficient_steps=2)
    assert rising.trust_region and rising.kl_at(1) == 0 and rising.kl_at(3) == 0.2
    assert not ShapingSettings(kl_coefficient_end=0.2).trust_region


@pytest.mark.parametrize(
    "settings, everywhere",
    [
        ({}, False),
        ({"reward_scale_start": 1.5, "reward_scale_steps": 5}, True),
        ({"reward_scale_start": 1.0, "reward_scale_steps": 5}, False),
        ({"reward_scale_start": 1.5}, False),
        ({"kl_coefficient": 0.1}, True),
        ({"keep_states": 0.1}, True),
        ({"gate_tau": 1.0, "box_cox": 1.0, "advantage_clip": 1.0}, False),
    ],
)
def test_what_reads_the_reference_where_lambda_is_1(settings, everywhere):
    assert ShapingSettings(**settings).reference_everywhere == everywhere
