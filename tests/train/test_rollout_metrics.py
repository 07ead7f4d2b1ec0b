"""Numbers of a step's rollouts: the interval of the reward, endings that loop, values by domain."""

import dataclasses

import numpy as np
import pytest
from step_cases import make_requests

from gopd_jax.evaluate.statistics import clustered
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.train.rollout_metrics import ends_in_loop, rollout_metrics
from gopd_jax.types import Rollout


def rollout(tokens, stopped=False, request=None):
    tokens = np.array([*tokens, 0] if stopped else tokens, np.int32)
    logprobs = np.zeros(len(tokens), np.float32)
    return Rollout(request, tokens, logprobs, "stop" if stopped else "length")


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
        (list(range(129)) * 4, False),  # longer than the periods that are searched
        (range(600), False),
        ([3], False),
        ([0] * 3, False),
    ],
)
def test_loops(tokens, loop):
    """Alone, beside a longer answer, and before a stop token."""
    assert list(ends_in_loop([rollout(tokens)])) == [loop]
    several = [rollout(range(1000)), rollout(tokens), rollout(tokens, stopped=True)]
    assert list(ends_in_loop(several)) == [False, loop, loop]


def in_domain(request, domain):
    source = dataclasses.replace(request.prompt.source, domain=domain)
    return dataclasses.replace(request, prompt=dataclasses.replace(request.prompt, source=source))


def test_metrics_over_all_domains_and_for_each():
    """Two prompts of math with two samples each, one of code; one rollout is not verified."""
    requests = make_requests([3, 3, 3], sample_ids=(0, 1))
    requests = [in_domain(r, "math" if i < 4 else "code") for i, r in enumerate(requests)]
    texts = [range(4), range(9), [7] * 20, range(2), range(3), range(6)]
    stopped = [True, True, False, True, True, False]
    rollouts = [rollout(*part) for part in zip(texts, stopped, requests, strict=True)]
    verdicts = [None if r is None else Verdict(r, "") for r in (1.0, 0.0, None, 1.0, 1.0, 0.0)]
    values = rollout_metrics(rollouts, verdicts, ["math", "code", "chess"])
    rewards, prompts = np.array([1.0, 0, 1, 1, 0]), np.array([0, 0, 1, 2, 2])
    expected = {
        "reward": 3 / 5,
        "reward/math": 2 / 3,
        "reward/code": 1 / 2,
    }
    for suffix, part in (("", slice(None)), ("/math", slice(3)), ("/code", slice(3, 5))):
        interval = clustered(rewards[part], prompts[part])
        expected[f"reward_low{suffix}"] = interval.low
        expected[f"reward_high{suffix}"] = interval.high
    lengths = np.array([5, 10, 20, 3, 4, 6])
    for suffix, part in (("", slice(None)), ("/math", slice(4)), ("/code", slice(4, 6))):
        expected[f"response_length{suffix}"] = lengths[part].mean()
        expected[f"truncated{suffix}"] = 1 - np.mean(stopped[part])
        expected[f"repetition_rate{suffix}"] = np.mean([0, 0, 1, 0, 0, 0][part])
    expected |= {"verified": 5, "response_length_max": 20, "truncated_count": 2}
    expected["rollout_tokens"] = lengths.sum()
    assert values == pytest.approx(expected)


def test_what_a_reward_function_names_is_averaged_by_domain():
    requests = make_requests([3], sample_ids=range(5))
    requests = [in_domain(r, "sums" if i < 4 else "chat") for i, r in enumerate(requests)]
    rollouts = [rollout(range(4), True, request) for request in requests]
    verdicts = [
        Verdict(0.25, "judged", {"words": 2.0, "polite": 1.0}),
        Verdict(0.75, "judged", {"words": 4.0}),
        Verdict(0.0, "timeout"),
        Verdict(0.0, "memory"),
        None,
    ]
    values = rollout_metrics(rollouts, verdicts, ["sums", "chat"])
    assert values["reward/sums"] == values["reward"] == 0.25 and values["verified"] == 4
    assert values["reward_words/sums"] == 3 and values["reward_polite/sums"] == 1
    assert values["reward_stopped/sums"] == 2
    assert not [name for name in values if name.startswith("reward") and name.endswith("chat")]
