"""Where a process finds the others: options, the environment, and what is wrong with them."""

import concurrent.futures
import socket

import pytest

from gopd_jax.runtime import joining
from gopd_jax.runtime.joining import Place, find_place, meet, split_options

OPTIONS = {"--coordinator": "10.0.0.1:1234", "--processes": "4", "--process": "3"}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in (*joining.OPTIONS.values(), joining.DETECT, joining.WAIT, *joining.CLUSTERS):
        monkeypatch.delenv(name, raising=False)


def test_nothing_said_is_one_process():
    assert find_place({}) is None
    assert not joining.is_detected()


@pytest.mark.parametrize(
    "name, alone, several",
    [
        ("SLURM_STEP_NUM_TASKS", "1", "16"),
        ("OMPI_COMM_WORLD_SIZE", "1", "2"),
        ("TPU_WORKER_HOSTNAMES", "localhost", "10.0.0.1,10.0.0.2"),
    ],
)
def test_a_cluster_that_tells_of_several_processes_is_asked(
    monkeypatch, capfd, name, alone, several
):
    monkeypatch.setenv(name, alone)
    assert not joining.is_detected()
    monkeypatch.setenv(name, several)
    assert joining.is_detected()
    assert f"{name} says that there are several processes" in "".join(capfd.readouterr())
    monkeypatch.setenv(joining.DETECT, "0")
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outcomes(*places: Place, seconds: float = 10) -> list[int | str]:
    """What `meet` returns or raises in processes that start in this order; process 0 tells 77."""

    def one(place: Place) -> int | str:
        try:
            return meet(place, seconds, 77 if place.process == 0 else 0)
        except ValueError as e:
            return str(e)

    with concurrent.futures.ThreadPoolExecutor(len(places)) as threads:
        return list(threads.map(one, places))


def test_processes_meet_in_any_order():
    at = f"127.0.0.1:{free_port()}"
    assert outcomes(Place(at, 3, 2), Place(at, 3, 0), Place(at, 3, 1)) == [77, 77, 77]


def test_processes_that_contradict_each_other_are_told():
    at = f"127.0.0.1:{free_port()}"

    def one(*place: int) -> int | str:
        return outcomes(Place(at, *place))[0]

    with concurrent.futures.ThreadPoolExecutor() as threads:
        zero = threads.submit(one, 3, 0)
        twice = [threads.submit(one, 3, 1) for _ in range(2)]
        assert "--processes=4, but process 0 has --processes=3: expected the" in one(4, 2)
        concurrent.futures.wait(twice, return_when=concurrent.futures.FIRST_COMPLETED)
        assert one(3, 2) == zero.result() == 77
        found = [future.result() for future in twice]
    (said,) = [x for x in found if x != 77]
    assert "two processes have --process=1: expected each number once" in said


def test_whoever_does_not_come_is_named():
    at = f"127.0.0.1:{free_port()}"
    (said,) = outcomes(Place(at, 3, 0), seconds=0.1)
    assert "process 1 of 3 has not come within 0.1 s; expected each to be started" in said
    (said,) = outcomes(Place(at, 3, 1), seconds=0.1)
    assert "have not met there within 0.1 s (Connection refused); expected 3" in said
    zero, one = outcomes(Place(at, 3, 0), Place(at, 3, 1), seconds=1)
    assert "process 2 of 3 has not come" in zero
    assert "have not met there within 1 s" in one


def test_a_port_that_another_program_has():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (said,) = outcomes(Place(f"127.0.0.1:{port}", 2, 0))
    assert f"process 0 cannot listen at port {port} (Address already in use); expected" in said
