"""Verification in the background: verdicts by sample, whatever the order in which parts finish."""

from concurrent.futures import Future, ThreadPoolExecutor
import itertools
import json
import threading

import numpy as np
import pytest
from step_cases import make_requests

from gopd_jax.rewards.verifier import Verdict
from gopd_jax.train.verification import BackgroundVerifier, PendingVerdicts
from gopd_jax.types import Rollout, SampleKey

SECONDS = 60  # far more than any wait here takes; only a defect waits so long
KEYS = [SampleKey("p", i) for i in range(6)]


def verdict(text):
    return Verdict(float(len(text)), text)


def rollouts(count=6):
    """Rollouts of one prompt with their texts "t0", "t1", ..."""
    requests = make_requests([3], sample_ids=range(count))
    tokens, logprobs = np.ones(2, np.int32), np.zeros(2, np.float32)
    return [(Rollout(r, tokens, logprobs, "stop"), f"t{r.sample_id}") for r in requests]


# ---- Parts.


@pytest.mark.parametrize("order", itertools.permutations(range(3)))
def test_parts_may_finish_in_any_order(order):
    parts = [Future() for _ in range(3)]
    shuffled = [KEYS[i] for i in (5, 0, 3, 1, 4, 2)]
    for part in order:
        members = KEYS[2 * part : 2 * part + 2]
        parts[part].set_result({key: verdict(f"v{key.sample_id}") for key in members})
    pending = PendingVerdicts(parts, shuffled)
    assert [v.detail for v in pending.result()] == ["v5", "v0", "v3", "v1", "v4", "v2"]
    assert pending.result() == pending.result()


def test_result_waits_for_the_last_part():
    parts = [Future(), Future()]
    with ThreadPoolExecutor(1) as threads:
        result = threads.submit(PendingVerdicts(parts, KEYS[:2]).result)
        parts[1].set_result({KEYS[1]: verdict("b")})
        assert not result.done()
        parts[0].set_result({KEYS[0]: verdict("a")})
        assert [v.detail for v in result.result(SECONDS)] == ["a", "b"]


def test_a_sample_that_is_not_verified_has_no_verdict():
    part = Future()
    part.set_result({KEYS[1]: verdict("b")})
    assert PendingVerdicts([part], KEYS[:3]).result() == [None, verdict("b"), None]
    assert PendingVerdicts([], KEYS[:2]).result() == [None, None]


# ---- The background.


def test_only_selected_samples_are_verified():
    asked = []

    def verify(items):
        asked.append(items)
        return [verdict(text) for _, text, _ in items]

    samples = rollouts()
    keys = [r.request.key for r, _ in samples]
    selected = {keys[0], keys[4], keys[5]}
    with BackgroundVerifier(verify, {"math": "code"}) as background:
        parts = [background.submit(part, selected) for part in (samples[:3], samples[3:])]
        result = PendingVerdicts(parts, keys).result()
    assert [v and v.detail for v in result] == ["t0", None, None, None, "t4", "t5"]
    # The kind is that of the prompt's domain, the ground truth that of the prompt.
    assert asked == [[("code", "t0", "")], [("code", "t4", ""), ("code", "t5", "")]]


def test_submit_does_not_wait_and_leaving_does():
    go = threading.Event()

    def verify(items):
        assert go.wait(SECONDS)
        return [verdict(text) for _, text, _ in items]

    samples = rollouts(1)
    selected = {samples[0][0].request.key}
    with BackgroundVerifier(verify, {"math": "math"}) as background:
        part = background.submit(samples, selected)
        assert not part.done()
        go.set()
    assert part.done()
    assert list(part.result().values()) == [verdict("t0")]


def test_a_failure_reaches_whoever_asks_for_the_verdicts():
    def verify(items):
        raise OSError("no worker could be started")

    samples = rollouts(1)
    selected = {samples[0][0].request.key}
    with BackgroundVerifier(verify, {"math": "math"}) as background:
        pending = PendingVerdicts([background.submit(samples, selected)], list(selected))
        with pytest.raises(OSError, match="no worker"):
            pending.result()


def test_a_domain_without_a_verifier_has_no_verdicts_and_a_function_reads_the_row():
    asked = []

    def verify(items):
        asked.extend(items)
        return [verdict(text) for _, text, _ in items]

    samples = rollouts(2)
    keys = [r.request.key for r, _ in samples]
    for reward, found in (("none", [None, None]), ("mine:f", ["t0", "t1"])):
        with BackgroundVerifier(verify, {"math": reward}) as background:
            pending = PendingVerdicts([background.submit(samples, set(keys))], keys)
            assert [v and v.detail for v in pending.result()] == found
    row = json.loads(asked[0][2])
    assert asked[0][:2] == ("mine:f", "t0") and row["prompt_id"] == "p0"
    assert row["messages"] == [{"role": "user", "content": "?"}] and row["domain"] == "math"
