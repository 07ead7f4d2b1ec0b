"""Stopping on request: where a signal ends the work, and that one host's signal ends all."""

import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from gopd_jax import cli
from gopd_jax.runtime.errors import Stopped
from gopd_jax.runtime.stopping import stop_point, stop_points

SIGNALS = [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "stopped by Ctrl-C")]


@pytest.mark.parametrize("number, said", SIGNALS)
def test_a_signal_is_answered_at_the_next_stop_point(number, said, capfd):
    done = []
    with pytest.raises(Stopped, match=said) as stopped, stop_points():
        stop_point()
        os.kill(os.getpid(), number)
        done.append("what was begun")
        stop_point()
        done.append("what comes after")
    assert stopped.value.number == number and done == ["what was begun"]
    assert f"{said}: the run ends at the next point" in capfd.readouterr().err


@pytest.mark.parametrize("number, said", SIGNALS)
def test_the_second_signal_ends_it_at_once(number, said):
    done = []
    with pytest.raises(KeyboardInterrupt), stop_points():
        os.kill(os.getpid(), number)
        done.append("what was begun")
        os.kill(os.getpid(), number)
        done.append("more of it")
    assert done == ["what was begun"]


def test_outside_of_stop_points_nothing_is_asked_and_handlers_are_put_back():
    before = [signal.getsignal(number) for number, _ in SIGNALS]
    with pytest.raises(Stopped), stop_points():
        os.kill(os.getpid(), signal.SIGTERM)
        stop_point()
    stop_point()  # a request that was answered is forgotten
    with stop_points():
        stop_point()
    assert [signal.getsignal(number) for number, _ in SIGNALS] == before


def test_other_threads_work_without_signals():
    def work():
        with stop_points():
            stop_point()
        seen.append(True)

    seen = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen


@pytest.mark.parametrize("number, said", SIGNALS)
def test_a_command_without_stop_points_is_ended_where_it_stands(number, said, capsys):
    def command():
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    assert cli.run(command, stopped="; the same command resumes") == 128 + number
    assert capsys.readouterr().err == f"{said}; the same command resumes\n"


def test_a_command_that_says_what_became_of_its_work(capsys):
    def command():
        raise Stopped(signal.SIGTERM, " after step 3")

    assert cli.run(command, stopped="; the same command resumes") == 143
    assert capsys.readouterr().err == "stopped by SIGTERM after step 3\n"


IMPORT = """
import os, sys
from gopd_jax import cli

class Swallowing:
    def __del__(self):  # an exception in here is lost
        os.kill(os.getpid(), int(sys.argv[1]))
        sum(range(100))

def command():
    with cli.importing("; nothing was saved"):
        Swallowing()
    print("it went on")

sys.exit(cli.run(command))
"""


@pytest.mark.parametrize("number, said", SIGNALS)
def test_a_signal_during_imports_is_neither_lost_nor_a_traceback(number, said):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(int(number))], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == f"{said}; nothing was saved\n"


PROGRAM = """
import os, signal, sys, time
import jax
from gopd_jax import cli
from gopd_jax.runtime.stopping import stop_point, stop_points

def work(process, address):
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(address, 2, process)
    with stop_points():
        for step in range(100):
            if process == 1 and step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            print(step, flush=True)
            stop_point()

sys.exit(cli.run(work, int(sys.argv[1]), sys.argv[2]))
"""


def test_the_signal_of_one_host_stops_all_at_the_same_point():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hosts = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(i), address], **pipes)
        for i in range(2)
    ]
    outputs = [host.communicate(timeout=120) for host in hosts]
    for host, (out, err) in zip(hosts, outputs, strict=True):
        assert host.returncode == 143, err
        assert [line for line in out.splitlines() if line.isdigit()] == ["0", "1", "2", "3"]
        assert "stopped by SIGTERM" in err
