"""run.json: what is written is read back, and folders of other formats are refused."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from gopd_jax.runtime.run_folder import FORMAT, holds_run, one_process, read_run, write_run

RUN = {"config": {"seed": 3}, "fingerprints": {"weights": {"student": "ab"}}, "starts": []}


def test_round_trip(tmp_path):
    workdir = tmp_path / "new" / "folder"
    write_run(str(workdir), RUN)
    assert read_run(str(workdir)) == RUN | {"format": FORMAT}
    again = read_run(str(workdir)) | {"starts": [{"git_commit": "c"}]}
    write_run(str(workdir), again)
    assert read_run(str(workdir)) == again
    assert [p.name for p in workdir.iterdir()] == ["run.json"]


@pytest.mark.parametrize("exists", [True, False], ids=["an empty folder", "no folder"])
def test_a_folder_without_a_run_is_refused(tmp_path, exists):
    workdir = tmp_path if exists else tmp_path / "gone"
    message = "holds no run: expected a folder written by gopd_jax.train, but .*run.json does not"
    with pytest.raises(ValueError, match=message):
        read_run(str(workdir))


COMMIT = "0123456789abcdef"
STARTS = [{"git_commit": None}, {"git_commit": COMMIT}]


@pytest.mark.parametrize(
    "written, found, commit",
    [
        ({"starts": STARTS}, 1, f" (commit {COMMIT[:12]})"),  # the first format did not say so
        ({"starts": [{"git_commit": None}]}, 1, ""),
        ({"format": FORMAT + 1, "starts": STARTS}, FORMAT + 1, f" (commit {COMMIT[:12]})"),
        ({"format": FORMAT + 1}, FORMAT + 1, ""),
    ],
)
def test_another_format_is_refused_with_both_formats(tmp_path, written, found, commit):
    (tmp_path / "run.json").write_text(json.dumps(RUN | {"starts": []} | written))
    with pytest.raises(ValueError) as error:
        read_run(str(tmp_path))
    assert str(error.value) == (
        f"{str(tmp_path)!r} is a run folder of format {found}, this version of gopd_jax reads "
        f"format {FORMAT}: use the version that wrote it{commit}, or another folder"
    )


DAMAGED = {
    "cut short": '{"format": 2, "config": {',
    "empty": "",
    "not text": b"\xff\xfe\x00",
    "not an object": "[1, 2]",
    "no config": json.dumps({"format": FORMAT, "fingerprints": {}, "starts": []}),
    "other starts": json.dumps(RUN | {"format": FORMAT, "starts": 3}),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_run_json_is_one_sentence(tmp_path, content):
    path = tmp_path / "run.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match="run.json is damaged: expected a ") as error:
        read_run(str(tmp_path))
    assert "\n" not in str(error.value)


def test_checkpoints_without_run_json_are_not_a_new_run(tmp_path):
    assert not holds_run(str(tmp_path / "gone"))
    (tmp_path / "checkpoints").mkdir()
    assert not holds_run(str(tmp_path))
    (tmp_path / "checkpoints/20").mkdir()
    with pytest.raises(ValueError, match=r"no run.json, but checkpoints \(20\): expected both"):
        holds_run(str(tmp_path))
    write_run(str(tmp_path), RUN)
    assert holds_run(str(tmp_path))


HOLDER = """
import sys, time
from gopd_jax.runtime.run_folder import one_process

with one_process(sys.argv[1]):
    print("holds it", flush=True)
    time.sleep(600)
"""


def test_one_process_works_in_a_folder(tmp_path):
    """The lock ends with its process, also by a kill; nothing has to be cleaned up."""
    workdir = str(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, workdir], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "holds it\n"
    expected = rf"process {holder.pid} of .* is training there; expected a folder that no other"
    with pytest.raises(ValueError, match=expected), one_process(workdir):
        raise AssertionError("two at once")
    holder.kill()
    holder.wait()
    with one_process(workdir), pytest.raises(ValueError, match=f"process {os.getpid()} of"):
        with one_process(workdir):  # in one process, too
            raise AssertionError("two at once")
    with one_process(workdir):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with one_process(str(tmp_path)):
        assert "has no locks (No locks available): start one training" in capsys.readouterr().err
