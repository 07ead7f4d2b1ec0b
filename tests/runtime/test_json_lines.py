"""Logs that survive a kill and a resume."""

import json

import pytest

from gopd_jax.runtime.metrics import JsonLines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def _write(path, last_step, *steps, close=True):
    lines = JsonLines(path, last_step)
    for step in steps:
        lines.write({"step": step, "text": "a\u2028b\n"})
    if close:
        lines.close()


def _steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_are_on_disk_before_close(path):
    _write(path, 0, 1, 2, close=False)
    assert _steps(path) == [1, 2]


def test_reopening_keeps_the_lines_up_to_the_step_of_the_checkpoint(path):
    _write(path, 0, 1, 1, 2, 3, 4)
    lines = JsonLines(path, 2)
    assert [r["step"] for r in lines.records()] == [1, 1, 2]
    assert lines.records()[0]["text"] == "a\u2028b\n"
    lines.write({"step": 3})
    lines.close()
    assert _steps(path) == [1, 1, 2, 3]
    _write(path, 0)
    assert path.read_text() == ""


def test_a_kill_at_any_byte_of_the_last_line(path):
    _write(path, 0, 1, 2)
    whole = path.read_text()
    first = whole.index("\n") + 1
    for end in range(first, len(whole) + 1):
        path.write_text(whole[:end])
        _write(path, 2, 3)
        complete = end >= len(whole) - 1
        assert _steps(path) == ([1, 2, 3] if complete else [1, 3]), whole[:end]
        assert _steps(path) == [r["step"] for r in JsonLines(path, 9).records()]


def test_object_stores_get_the_whole_file_at_each_flush(path, monkeypatch):
    lines = JsonLines(path, 0)
    lines._file.close()
    lines._file = None  # what a path with :// gives
    lines.write({"step": 1})
    assert path.read_text() == ""
    lines.flush()
    lines.write({"step": 2})
    lines.close()
    assert _steps(path) == [1, 2]
