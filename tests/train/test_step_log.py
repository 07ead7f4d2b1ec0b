"""What a step's rollouts are summed up to: the interval of the reward, and answers that end in a loop."""

import numpy as np
import pytest

from gopd_jax.evaluate.statistics import interval
from gopd_jax.train.step_log import clustered_half_width, ends_in_loop
from gopd_jax.types import Rollout


def rollout(tokens, stopped=False):
    tokens = np.array([*tokens, 0] if stopped else tokens, np.int32)
    return Rollout(None, tokens, np.zeros(len(tokens), np.float32), "stop" if stopped else "length")


@pytest.mark.parametrize(
    "tokens, loop",
    [
        ([7] * 16, True),
        ([7] * 15, False),  # too short to tell from a number
        ([1, 2, 3, 4] * 4, True),
        ([9, 8, 1, 2, 3, 4, 5] + [1, 2, 3, 4, 5] * 3, True),
        ([1, 2, 3, 4, 5] * 3 + [1, 2, 3, 4], False),
        ([5, 6] * 20 + [6], False),  # it has come out of the loop
        (list(range(128)) * 4, True),
        (list(range(129)) * 4, False),  # longer than what is looked for
        (range(600), False),
        ([3], False),
        ([0] * 3, False),
    ],
)
def test_loops(tokens, loop):
    """Alone, beside a longer answer, and before a stop token."""
    assert list(ends_in_loop([rollout(tokens)])) == [loop]
    assert list(
        ends_in_loop([rollout(range(1000)), rollout(tokens), rollout(tokens, stopped=True)])
    ) == [False, loop, loop]


def test_interval_of_prompts_with_the_same_number_of_samples_is_that_over_their_means():
    rewards = np.random.default_rng(0).integers(0, 2, (40, 4)).astype(float)
    order = np.random.default_rng(1).permutation(160)
    half = clustered_half_width(
        rewards.ravel()[order], np.repeat(np.arange(40).astype(str), 4)[order]
    )
    assert half == pytest.approx(interval(rewards.mean(1))[1], rel=1e-12)


def test_copies_of_a_sample_make_no_interval_narrower():
    rewards, prompts = np.array([1.0, 0.0, 0.0, 1.0, 1.0]), np.arange(5)
    once = clustered_half_width(rewards, prompts)
    assert clustered_half_width(np.tile(rewards, 3), np.tile(prompts, 3)) == pytest.approx(once)
    assert clustered_half_width(np.tile(rewards, 3), np.arange(15)) < 0.7 * once
