"""Requests of a prompt stream: order, shares, sample ids, and resuming."""

from collections import Counter
import dataclasses
from itertools import islice
import json

from data_cases import encoded
import numpy as np
import pytest

from gopd_jax.data.stream import PromptStream


def stream(
    domains=None,
    prompts_per_step=4,
    samples_per_prompt=1,
    max_response_tokens=32,
    seed=0,
    shares=None,
) -> PromptStream:
    if domains is None:
        domains = {"math": encoded("math", 10), "code": encoded("code", 6)}
    return PromptStream(
        domains, prompts_per_step, samples_per_prompt, max_response_tokens, seed, shares
    )


def drawn(stream: PromptStream, steps: int) -> list[list[tuple[str, int]]]:
    return [[r.key for r in step] for step in islice(stream, steps)]


def ids(stream: PromptStream, steps: int) -> list[str]:
    return [prompt_id for step in drawn(stream, steps) for prompt_id, _ in step]


def test_requests():
    step = next(stream(prompts_per_step=4, samples_per_prompt=3, max_response_tokens=77))
    assert len(step) == 12
    assert [r.sample_id for r in step] == [0, 1, 2] * 4
    assert len({r.key.prompt_id for r in step}) == 4
    assert {r.max_tokens for r in step} == {77}
    for r in step:
        count = int(r.prompt.source.ground_truth) + 1
        np.testing.assert_array_equal(r.prompt.tokens, np.arange(count))


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_every_epoch_visits_each_prompt_once_in_a_new_order(count):
    domains = {"math": encoded("math", count)}
    epochs = np.reshape(ids(stream(domains, prompts_per_step=count), 5), (5, count))
    for epoch in epochs:
        assert sorted(epoch) == sorted(f"math/{i}" for i in range(count))
    if count >= 7:
        assert len({tuple(epoch) for epoch in epochs}) == 5


def test_epochs_of_domains_are_their_own():
    # 60 prompts: 30 of each domain, whatever their sizes.
    seen = ids(stream(prompts_per_step=3), 20)
    for domain, count in (("math", 10), ("code", 6)):
        mine = [prompt_id for prompt_id in seen if prompt_id.startswith(domain)]
        assert len(mine) == 30
        for start in range(0, 30, count):
            epoch = mine[start : start + count]
            assert sorted(epoch) == sorted(f"{domain}/{i}" for i in range(count))


def test_seeds_have_their_own_order():
    one = {"math": encoded("math", 50)}
    orders = {seed: ids(stream(one, prompts_per_step=50, seed=seed), 3) for seed in range(3)}
    assert ids(stream(one, prompts_per_step=50, seed=1), 3) == orders[1]
    # Epochs of all seeds differ: epoch 1 of seed 0 is not epoch 0 of seed 1.
    starts = (0, 50, 100)
    epochs = {tuple(order[start : start + 50]) for order in orders.values() for start in starts}
    assert len(epochs) == 9


def test_domains_have_their_own_order_which_names_decide():
    domains = {name: encoded(name, 50) for name in ("math", "code")}
    both = ids(stream(domains, prompts_per_step=100), 1)
    orders = [
        [i.split("/")[1] for i in both if i.startswith(domain)] for domain in ("math", "code")
    ]
    assert orders[0] != orders[1]
    # The order of the dict does not matter.
    swapped = {name: domains[name] for name in ("code", "math")}
    assert ids(stream(swapped, prompts_per_step=100), 1) == both


def test_golden_order():
    """Pins the order a run resumes in.

    If grain changes its shuffle, or this package its seeds, old runs cannot be resumed exactly: say
    so in the release notes and update the list.
    """
    first_step = ["code/3", "math/2", "code/1", "math/4"]
    assert ids(stream(), 2) == [*first_step, "code/4", "math/1", "code/2", "math/6"]


@pytest.mark.parametrize(
    "shares, prompts_per_step, expected",
    [
        (None, 6, {"code": 2, "math": 2, "tool": 2}),
        ({"math": 0.7, "code": 0.2, "tool": 0.1}, 10, {"code": 2, "math": 7, "tool": 1}),
        ({"math": 57, "code": 25, "tool": 18}, 100, {"code": 25, "math": 57, "tool": 18}),
        ({"math": 2 / 3, "code": 1 / 6, "tool": 1 / 6}, 12, {"code": 2, "math": 8, "tool": 2}),
    ],
)
def test_shares_are_exact_in_every_batch(shares, prompts_per_step, expected):
    domains = {name: encoded(name, size) for name, size in (("math", 11), ("code", 5), ("tool", 3))}
    for step in drawn(stream(domains, prompts_per_step, shares=shares), 5):
        assert Counter(prompt_id.split("/")[0] for prompt_id, _ in step) == expected


def test_shares_that_do_not_divide_hold_over_time():
    mixed = stream(prompts_per_step=5, shares={"math": 7, "code": 3})
    seen = [prompt_id.split("/")[0] for prompt_id in ids(mixed, 30)]
    assert Counter(seen) == {"math": 105, "code": 45}
    for n in range(1, 150):  # at every point, less than one prompt off
        assert abs(Counter(seen[:n])["math"] - n * 7 / 10) < 1


def test_a_prompt_repeated_in_a_step_continues_to_count():
    domains = {"math": encoded("math", 3), "code": encoded("code", 50)}
    steps = drawn(stream(domains, prompts_per_step=20, samples_per_prompt=2), 5)
    for step in steps:
        assert len(set(step)) == len(step) == 40
        for prompt_id, count in Counter(prompt_id for prompt_id, _ in step).items():
            assert [sample for p, sample in step if p == prompt_id] == list(range(count))
    assert max(sample for step in steps for _, sample in step) >= 5


@pytest.mark.parametrize("k", [0, 1, 2, 7, 23])
def test_resume_is_exact(k):
    """Epochs end at steps 3 (code) and 5 (math), within batches."""
    whole = drawn(stream(samples_per_prompt=2), 40)
    first = stream(samples_per_prompt=2)
    drawn(first, k)
    state = json.loads(json.dumps(first.get_state()))
    continued = drawn(first, 40 - k)
    fresh = stream(samples_per_prompt=2)
    drawn(fresh, 5)  # the state replaces its own position
    fresh.set_state(state)
    assert fresh.get_state() == state
    assert drawn(fresh, 40 - k) == whole[k:] == continued


@pytest.mark.parametrize(
    "other, named",
    [
        ({"domains": {"math": encoded("math", 10), "code": encoded("code", 7)}}, "prompts"),
        ({"domains": {"math": encoded("math", 10)}}, "prompts: .*; shares"),
        ({"prompts_per_step": 5}, "prompts_per_step: 5 then, 4 now"),
        ({"samples_per_prompt": 2}, "samples_per_prompt: 2 then, 1 now"),
        ({"seed": 1}, "seed: 1 then, 0 now"),
        (
            {"shares": {"math": 2, "code": 1}},
            "shares: {'code': 1, 'math': 2} then, {'code': 1, 'math': 1} now",
        ),
    ],
)
def test_a_state_of_another_stream_is_refused(other, named):
    mine = stream()
    next(mine)
    before = mine.get_state()
    with pytest.raises(ValueError, match=f"belongs to another prompt stream.* {named}"):
        mine.set_state(stream(**other).get_state())
    assert mine.get_state() == before


def test_reading_ahead_changes_nothing():
    plain, ahead = stream(), stream()
    for _ in range(3):
        before = ahead.get_state()
        ahead.read_ahead()
        assert ahead.get_state() == before
        assert [r.key for r in next(ahead)] == [r.key for r in next(plain)]
    assert ahead.get_state() == plain.get_state()
    ahead.read_ahead()
    ahead.set_state(stream().get_state())  # what was read is of another step
    assert drawn(ahead, 1) == drawn(stream(), 1)


def test_what_was_read_ahead_is_not_read_again():
    class Counting(list):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    mine = stream({"math": Counting(encoded("math", 10))})
    Counting.read = 0
    mine.read_ahead()
    assert Counting.read == 4
    next(mine)
    assert Counting.read == 4
    next(mine)
    assert Counting.read == 8


def test_other_token_ids_are_another_stream():
    prompts = encoded("math", 3)
    state = stream({"math": prompts}).get_state()
    prompts[1] = dataclasses.replace(prompts[1], tokens=prompts[1].tokens + 1)
    with pytest.raises(ValueError, match="another prompt stream"):
        stream({"math": prompts}).set_state(state)


@pytest.mark.parametrize(
    "state", [{}, {"step": -1, "stream": {}}, {"step": "3", "stream": {}}, {"step": 3}]
)
def test_not_a_state(state):
    with pytest.raises(ValueError, match="not a state of a PromptStream"):
        stream().set_state(state)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prompts_per_step": 0}, "prompts_per_step must be at least 1, not 0"),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be at least 1, not 0"),
        ({"max_response_tokens": 0}, "max_response_tokens must be at least 1, not 0"),
        ({"domains": {}}, "at least one"),
        ({"domains": {"math": []}}, "domain 'math' has no prompts"),
        (
            {"domains": {"code": encoded("math", 2)}},
            "prompt 'math/0' given under domain 'code' says its domain is 'math'",
        ),
        (
            {"domains": {"math": encoded("math", 2) * 2}},
            "prompt_id 'math/0' is in domain 'math' and again in 'math'",
        ),
        ({"shares": {"math": 1}}, r"shares are for \['math'\], the domains are \['code', 'math'\]"),
        ({"shares": {"math": 1, "code": 0}}, "shares must be above 0"),
        ({"shares": {"math": 1, "code": float("nan")}}, "shares must be above 0"),
        ({"shares": {"math": 1, "code": 0.000001}}, "no small common measure"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        stream(**arguments)
