"""Logs that survive a kill and a resume."""

import json
import time

from full_disk import full_at
import pytest

from gopd_jax.runtime import metrics
from gopd_jax.runtime.metrics import JsonLines, RunLog
from gopd_jax.runtime.trackers import Trackers


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write(path, last_step, *steps, close=True):
    lines = JsonLines(path, last_step)
    for step in steps:
        lines.write({"step": step, "text": "a\u2028b\n"})
    if close:
        lines.close()


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_are_on_disk_before_close(path):
    write(path, 0, 1, 2, close=False)
    assert steps_of(path) == [1, 2]


def test_reopening_keeps_the_lines_up_to_the_step_of_the_checkpoint(path):
    write(path, 0, 1, 1, 2, 3, 4)
    lines = JsonLines(path, 2)
    assert [r["step"] for r in lines.records()] == [1, 1, 2]
    assert lines.records()[0]["text"] == "a\u2028b\n"
    lines.write({"step": 3})
    lines.close()
    assert steps_of(path) == [1, 1, 2, 3]
    write(path, 0)
    assert path.read_text() == ""


def test_a_kill_at_any_byte_of_the_last_line(path):
    write(path, 0, 1, 2)
    whole = path.read_text()
    first = whole.index("\n") + 1
    for end in range(first, len(whole) + 1):
        path.write_text(whole[:end])
        write(path, 2, 3)
        complete = end >= len(whole) - 1
        assert steps_of(path) == ([1, 2, 3] if complete else [1, 3]), whole[:end]
        assert steps_of(path) == [r["step"] for r in JsonLines(path, 9).records()]


class Bucket:
    """In place of `etils.epath`: paths of an object store lie in a local folder."""

    def __init__(self, folder):
        self.folder = folder

    def Path(self, path):
        return self.folder / str(path).removeprefix("gs://")


def test_object_stores_get_the_whole_file_at_each_flush(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "epath", Bucket(tmp_path))
    path = tmp_path / "run" / "metrics.jsonl"
    lines = JsonLines("gs://run/metrics.jsonl", 0)
    lines.write({"step": 1})
    assert path.read_text() == ""
    lines.flush()
    assert steps_of(path) == [1]
    lines.write({"step": 2})
    lines.close()
    assert steps_of(path) == [1, 2]
    assert [r["step"] for r in JsonLines("gs://run/metrics.jsonl", 1).records()] == [1]
    assert steps_of(path) == [1]


def test_the_logs_of_a_run(tmp_path):
    """Lists are numbers by position: they go to metrics.jsonl alone, not to TensorBoard."""
    log = RunLog(str(tmp_path), 0, Trackers(str(tmp_path), ["tensorboard"]))
    log.metrics(1, {"reward": 0.5, "tokens_by_position": [3.0, 1.0]})
    log.sample(1, {"response": "42"})
    log.flush()
    log.metrics(2, {"reward": 0.75})
    log.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records == [
        {"step": 1, "reward": 0.5, "tokens_by_position": [3.0, 1.0]},
        {"step": 2, "reward": 0.75},
    ]
    assert json.loads((tmp_path / "samples.jsonl").read_text()) == {"step": 1, "response": "42"}
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"reward" in events.read_bytes() and b"tokens_by_position" not in events.read_bytes()


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(path):
    write(path, 0, 1, 2)
    before = path.read_bytes()
    lines = JsonLines(path, 2)
    expected = "metrics.jsonl cannot be written .File too large.; what it held is kept"
    with full_at(len(before) + 5), pytest.raises(OSError, match=expected):
        lines.write({"step": 3})
    assert path.read_bytes() == before
    lines.write({"step": 3})  # there is room again
    lines.close()
    assert steps_of(path) == [1, 2, 3]


def test_tensorboard_on_a_full_disk_ends_the_run(tmp_path):
    """And does not wait for a thread that has ended."""
    log = RunLog(str(tmp_path), 0, Trackers(str(tmp_path), ["tensorboard"]))
    with full_at(2000), pytest.raises(OSError, match="cannot be written .File too large"):
        for step in range(1, 1000):
            log.metrics(step, {"reward": 0.5})
            log.flush()
    assert steps_of(tmp_path / "metrics.jsonl") == list(range(1, step + 1))


def test_two_starts_within_a_second_keep_both_files_of_events(tmp_path, monkeypatch):
    """A clock that was set back must not make a start overwrite the events of another."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    for start in range(3):
        log = RunLog(str(tmp_path), start, Trackers(str(tmp_path), ["tensorboard"]))
        log.metrics(start + 1, {f"reward_{start}": 0.5})
        log.close()
    events = b"".join(p.read_bytes() for p in (tmp_path / "tensorboard").iterdir())
    assert all(f"reward_{start}".encode() in events for start in range(3))
