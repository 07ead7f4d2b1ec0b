"""Where the wall clock goes: every moment is in exactly one phase."""

import pytest

from gopd_jax.train import clock
from gopd_jax.train.clock import PHASES, Clock


@pytest.fixture
def passing(monkeypatch):
    """A clock that stands still, and a function that lets seconds pass."""
    now = [100.0]
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_phase_within_a_phase_takes_its_seconds(passing):
    laps = Clock()
    passing(1)
    with laps.phase("update"):
        passing(2)
        with laps.phase("verify"):
            passing(4)
        passing(8)
    passing(16)
    with laps.phase("update"):
        passing(32)
    assert laps.lap() == dict.fromkeys(PHASES, 0.0) | {"update": 42.0, "verify": 4.0, "other": 17.0}


def test_a_lap_begins_where_the_last_one_ended(passing):
    laps = Clock()
    with laps.phase("evaluation"):
        passing(1)
        assert laps.lap()["evaluation"] == 1.0
        passing(2)
    passing(4)
    assert laps.lap() == dict.fromkeys(PHASES, 0.0) | {"evaluation": 2.0, "other": 4.0}
    assert sum(laps.lap().values()) == 0.0


def test_an_error_ends_its_phase(passing):
    laps = Clock()
    with pytest.raises(ValueError), laps.phase("rollout"):
        passing(1)
        raise ValueError
    passing(2)
    assert laps.lap() == dict.fromkeys(PHASES, 0.0) | {"rollout": 1.0, "other": 2.0}
