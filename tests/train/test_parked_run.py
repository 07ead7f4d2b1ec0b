"""The phases of a step share the memory, and what waits in the host's memory changes no number."""

import contextlib

import jax
from loop_cases import small
import pytest

from gopd_jax import tiny
from gopd_jax.learner import scoring
from gopd_jax.models.config import load_config
from gopd_jax.train.clock import Clock
from gopd_jax.train.run import run
from gopd_jax.train.verification import BackgroundVerifier

SHORT = {"steps": 2, "eval.prompts": 8, "eval.cache": False, "learner.score_early": False}
PARKED = {"learner.park_frozen": True, "learner.park_optimizer": True}
SLACK = 120_000  # bytes of what an update returns of each token, of keys and counters


@pytest.fixture
def held(monkeypatch):
    """Bytes of live arrays by kind of memory, at several places of a step."""
    before = jax.live_arrays()
    ids, found = {id(x) for x in before}, {}

    def look(place):
        now = dict.fromkeys(("device", "pinned_host"), 0)
        for x in jax.live_arrays():
            if id(x) not in ids:
                now[x.sharding.memory_kind] += x.nbytes
        found.setdefault(place, []).append(now)

    phase, submit, bring = Clock.phase, BackgroundVerifier.submit, scoring.bring

    @contextlib.contextmanager
    def watched_phase(clock, name):
        look(name)
        with phase(clock, name):
            yield

    def watched_submit(*args):
        look("drawing")
        return submit(*args)

    def watched_bring(params):
        look("before a model comes")
        return bring(params)

    monkeypatch.setattr(Clock, "phase", watched_phase)
    monkeypatch.setattr(BackgroundVerifier, "submit", watched_submit)
    monkeypatch.setattr(scoring, "bring", watched_bring)
    return found


@pytest.mark.slow  # learner/test_parking.py is fast
def test_what_is_alive_in_each_phase_of_a_parked_run(held, tmp_path):
    config = small(**SHORT, **PARKED)
    model = load_config(tiny.model("base"))
    params = 4 * model.num_params
    assert params > 3 * SLACK
    run(config, str(tmp_path / "parked"))

    device = {place: [x["device"] for x in all] for place, all in held.items()}
    # The student alone, when scoring begins and whenever a frozen model comes: teacher, reference.
    assert len(device["score"]) == 2 and len(device["before a model comes"]) == 4
    assert all(params <= there < params + SLACK for there in device["score"]), device
    # With the rows to be scored, and no other frozen model.
    assert all(params <= there < 1.6 * params for there in device["before a model comes"]), device
    # The update adds its batch; the student is there twice when it draws, and the cache besides.
    cache = 2 * model.layers * model.kv_heads * model.head_size * 4 * config.rollout.slots
    assert all(params < there < 2 * params for there in device["update"]), device
    assert all(2 * params + 30 * cache < there for there in device["drawing"][:1]), device
    # Two moments, teacher and reference, from beginning to end.
    places = ("rollout", "score", "update", "drawing")
    host = {x["pinned_host"] for place in places for x in held[place]}
    assert len(host) == 1 and 4 * params <= host.pop() < 4 * params + SLACK


@pytest.mark.slow
def test_without_parking_the_cache_is_gone_when_scoring_begins(held, tmp_path):
    """Teacher and reference are on the device, with the student and its moments, and no more."""
    run(small(**SHORT | {"steps": 1, "eval.teachers": False}), str(tmp_path / "run"))
    params = 4 * load_config(tiny.model("base")).num_params
    (there,) = held["score"]
    assert 5 * params <= there["device"] < 5 * params + SLACK and there["pinned_host"] == 0


ON_EIGHT = """
import json, sys
from pathlib import Path
import numpy as np
from loop_cases import small
from gopd_jax.train.run import run

SHORT = {"steps": 2, "eval.prompts": 8, "eval.cache": False, "eval.teachers": False}
SHORT |= {"mesh.fsdp": 4, "mesh.tensor": 2}
parked = {"learner.park_frozen": True, "learner.park_optimizer": True}
found = []
for changes in ({}, parked, parked | {"rollout.layout": "gathered"}):
    workdir = Path(sys.argv[1]) / str(len(found))
    run(small(**SHORT, **changes), str(workdir))
    start = json.loads((workdir / "run.json").read_text())["starts"][-1]
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found.append([(r["loss"], r["grad_norm"], r["sampler_gap"], r["reward"]) for r in records])
    print(start["kernels"]["decode weights"])
assert found[0] == found[1] and len(found[0]) == 2, found
np.testing.assert_allclose(found[0], found[2], rtol=1e-5, atol=1e-6)  # logits are rounded otherwise
"""


@pytest.mark.slow
def test_on_eight_devices_a_parked_run_with_gathered_weights_is_the_plain_one(
    run_on_fake_devices, tmp_path
):
    said = run_on_fake_devices(
        "import sys; sys.path.insert(0, 'tests/train')\n" + ON_EIGHT, tmp_path
    )
    assert "gathered: requested" in said
