"""Where a process finds the others: options, the environment, and what is wrong with them."""

import socket

import pytest

from gopd_jax.runtime import joining
from gopd_jax.runtime.joining import Place, find_place, meet, split_options

OPTIONS = {"--coordinator": "10.0.0.1:1234", "--processes": "4", "--process": "3"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (*joining.OPTIONS.values(), joining.DETECT, joining.WAIT):
        monkeypatch.delenv(name, raising=False)


def test_nothing_said_is_one_process():
    assert find_place({}) is None
    assert not joining.is_detected()


def test_options_and_variables_say_the_same(monkeypatch):
    place = Place("10.0.0.1:1234", 4, 3)
    assert find_place(OPTIONS) == place
    for option, value in OPTIONS.items():
        monkeypatch.setenv(joining.OPTIONS[option], value)
    assert find_place({}) == place
    assert find_place({"--process": "0"}) == Place("10.0.0.1:1234", 4, 0)  # an option comes first
    assert Place("[::1]:80", 1, 0).address == ("::1", 80)


def test_options_are_taken_out_of_a_command_line():
    line = ["--config=math", "--process=1", "--coordinator", "a:1", "--processes=2", "--json"]
    given = {"--process": "1", "--coordinator": "a:1", "--processes": "2"}
    assert split_options(line) == (given, ["--config=math", "--json"])
    with pytest.raises(ValueError, match="--process has no value: expected all of"):
        split_options(["--process", "--json"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"--process": None}, "--processes=4 without --process: expected all of --coordinator"),
        ({"--process": "4"}, "--process='4': expected the number of this process, 0 to 3"),
        ({"--process": "-1"}, "--process='-1': expected"),
        ({"--processes": "0"}, "--processes='0': expected the number of processes, 1 or more"),
        ({"--processes": "two"}, "--processes='two': expected"),
        ({"--coordinator": "10.0.0.1"}, "--coordinator='10.0.0.1': expected HOST:PORT"),
        ({"--coordinator": ":1234"}, "expected HOST:PORT"),
        ({"--coordinator": "a:http"}, "with a port of 1 to 65535"),
        ({"--coordinator": "a:70000"}, "with a port of 1 to 65535"),
    ],
)
def test_what_is_wrong_is_one_sentence(change, message):
    options = {k: v for k, v in (OPTIONS | change).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        find_place(options)


def test_an_error_names_the_variable_that_is_wrong(monkeypatch):
    monkeypatch.setenv("GOPD_PROCESSES", "many")
    options = {k: v for k, v in OPTIONS.items() if k != "--processes"}
    with pytest.raises(ValueError, match="GOPD_PROCESSES='many': expected"):
        find_place(options)
    monkeypatch.setenv("GOPD_DISTRIBUTED", "yes")
    with pytest.raises(ValueError, match="GOPD_DISTRIBUTED='yes': expected 1"):
        joining.is_detected()
    monkeypatch.setenv("GOPD_JOIN_SECONDS", "soon")
    with pytest.raises(ValueError, match="GOPD_JOIN_SECONDS='soon': expected a whole number"):
        joining.join_seconds()


def test_processes_meet_at_the_port_of_the_first():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        meet(Place(f"127.0.0.1:{port}", 2, 1), 1)
        with pytest.raises(ValueError, match=f"process 0 cannot listen at port {port}"):
            meet(Place(f"127.0.0.1:{port}", 2, 0), 1)
    with pytest.raises(ValueError, match="nobody answers there after 0 s .*process=0"):
        meet(Place(f"127.0.0.1:{port}", 2, 1), 0)
