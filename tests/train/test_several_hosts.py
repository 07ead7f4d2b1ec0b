"""The train command as two processes is the same run as one process with as many devices."""

import json
import os
import re
import signal
import time

from host_cases import TRAIN, check_same, finish, free_port, start, start_several, train
import pytest
from same_run import differences

QUIET = re.compile(r"\[Gloo\] |waiting up to .* for process 0")  # what process 1 may say


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """The folder of a run of two processes, and what they said."""
    workdir = tmp_path_factory.mktemp("hosts") / "two"
    return workdir, finish(start_several(workdir, 2))


@pytest.mark.slow
def test_two_processes_are_the_run_of_one(two_processes, tmp_path):
    two, (said_by_0, said_by_1) = two_processes
    one = tmp_path / "one"
    finish([start(train(one), 4)])
    assert "4 cpu, mesh data 1 x fsdp 4" in said_by_0
    assert [line for line in said_by_1.splitlines() if not QUIET.match(line)] == []
    check_same(one, two)
    files = [sorted(p.name for p in folder.iterdir()) for folder in (one, two)]
    assert files[0] == files[1]
    (begun,) = json.loads((two / "run.json").read_text())["starts"]
    assert begun["processes"] == 2


@pytest.mark.slow
def test_four_processes_are_the_run_of_one(tmp_path):
    one, four = tmp_path / "one", tmp_path / "four"
    finish([start(train(one), 8)])
    finish(start_several(four, 4))
    check_same(one, four)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_others_end_when_one_is_killed_and_the_restart_goes_on(two_processes, tmp_path, killed):
    workdir = tmp_path / "run"
    processes = start_several(workdir, 2)
    metrics = workdir / "metrics.jsonl"
    end = time.monotonic() + 240
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 1:
        assert time.monotonic() < end and processes[0].poll() is None
        time.sleep(0.05)
    processes[killed].send_signal(signal.SIGKILL)
    other = processes[1 - killed]
    said, _ = other.communicate(timeout=30)
    assert other.returncode == 4, said
    (sentence,) = re.findall(f"^process {1 - killed}: error: .*", said, re.MULTILINE)
    assert f"process {killed} of 2 on host " in sentence and "is gone" in sentence
    assert "Traceback" not in said and "absl::Status" not in said, said
    processes[killed].communicate()
    if killed == 0:
        finish(start_several(workdir, 2))
        assert differences(workdir, two_processes[0], {3}) == []
    else:  # also with another number of processes
        finish(start_several(workdir, 4, 1))
        check_same(two_processes[0], workdir)


@pytest.mark.slow
def test_another_command_for_one_process_is_refused(tmp_path):
    at = f"127.0.0.1:{free_port()}"
    meet = [f"--coordinator={at}", "--processes=2"]
    commands = [train(tmp_path), [*train(tmp_path), "--config.seed=5"]]
    processes = [start([*c, *meet, f"--process={i}"], 1) for i, c in enumerate(commands)]
    said = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [2, 2], said
    assert "process 0: error: process 1 is given another run" in said[0]
    assert "seed: 0 -> 5; expected the same command" in said[1]
    assert not (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_nobody_at_the_coordinator_is_one_sentence(tmp_path):
    for process, other in ((1, "the processes have not met"), (0, "process 1 of 2 has not come")):
        at = f"127.0.0.1:{free_port()}"
        options = [f"--coordinator={at}", "--processes=2", f"--process={process}"]
        command = [*TRAIN, "--config=math", f"--workdir={tmp_path}", *options]
        started = start(command, 1, GOPD_JOIN_SECONDS="1")
        said, _ = started.communicate(timeout=60)
        *_, last = said.splitlines()
        assert last.startswith(f"error: --coordinator={at}: {other}"), said
        assert started.returncode == 2 and len(said.splitlines()) <= 2, said
    assert os.listdir(tmp_path) == []
