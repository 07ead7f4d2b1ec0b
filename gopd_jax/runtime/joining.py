"""Which process of a run this one is, and where it finds the others.

In: --coordinator, --processes and --process, or the environment. Out: a `Place`, checked before any
work. Does not import JAX.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import socket
import sys
import time
from typing import Any

from gopd_jax.runtime.progress import say

# Option: the variable that says the same, for commands without the option.
OPTIONS = {
    "--coordinator": "GOPD_COORDINATOR",
    "--processes": "GOPD_PROCESSES",
    "--process": "GOPD_PROCESS",
}
DETECT = "GOPD_DISTRIBUTED"  # 1: a TPU slice, Slurm or Open MPI says it
# Variables of a cluster that say that there are several processes, and how.
CLUSTERS: dict[str, Callable[[str], bool]] = {
    "SLURM_STEP_NUM_TASKS": lambda value: value not in ("", "1"),
    "OMPI_COMM_WORLD_SIZE": lambda value: value not in ("", "1"),
    "TPU_WORKER_HOSTNAMES": lambda value: "," in value,
}
WAIT, SECONDS = "GOPD_JOIN_SECONDS", 300
EXPECTED = (
    "expected all of --coordinator=HOST:PORT --processes=N --process=I, or of "
    f"{', '.join(OPTIONS.values())}"
)


@dataclasses.dataclass(frozen=True)
class Place:
    """A process among those of a run.

    coordinator: "HOST:PORT" of process 0, at which all of them meet.
    processes: their number.
    process: the number of this one, from 0.
    """

    coordinator: str
    processes: int
    process: int

    @property
    def address(self) -> tuple[str, int]:
        """The coordinator as sockets take it."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


def split_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options of this module in a command line, by name, and its other arguments.

    Raises:
        ValueError: an option without its value.
    """
    found, others = {}, []
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in OPTIONS:
            others.append(name + equals + value)
        elif not equals and (not rest or rest[0].startswith("--")):
            raise ValueError(f"{name} has no value: {EXPECTED}")
        else:
            found[name] = value if equals else rest.pop(0)
    return found, others


def find_place(options: Mapping[str, str]) -> Place | None:
    """The place of this process; None where nothing says that there are others.

    Args:
        options: values by name; the environment says the rest.

    Raises:
        ValueError: some of it is missing, or a value is not what it must be.
    """
    names = {o: o if o in options else OPTIONS[o] for o in OPTIONS}  # as they were given
    given = {o: options.get(o, os.environ.get(OPTIONS[o], "")) for o in OPTIONS}
    if not any(given.values()) and not options:
        return None
    if missing := [option for option, value in given.items() if not value]:
        there = ", ".join(f"{names[o]}={v}" for o, v in given.items() if v)
        raise ValueError(f"{there or 'no value'} without {' and '.join(missing)}: {EXPECTED}")
    coordinator, count, index = given.values()
    said = dict(zip(given, (f"{names[o]}={v!r}" for o, v in given.items()), strict=True))
    host, _, port = coordinator.rpartition(":")
    if not host or not _is_whole(port) or not 1 <= int(port) <= 65535:
        raise ValueError(
            f"{said['--coordinator']}: expected HOST:PORT of process 0, with a port of 1 to 65535"
        )
    if not _is_whole(count) or int(count) < 1:
        raise ValueError(f"{said['--processes']}: expected the number of processes, 1 or more")
    if not _is_whole(index) or int(index) >= int(count):
        raise ValueError(
            f"{said['--process']}: expected the number of this process, 0 to {int(count) - 1}"
        )
    return Place(coordinator, int(count), int(index))


def is_detected() -> bool:
    """Whether the cluster is to be asked for the others.

    GOPD_DISTRIBUTED says it, or else a variable of `CLUSTERS`.

    Raises:
        ValueError: GOPD_DISTRIBUTED is neither 0 nor 1.
    """
    value = os.environ.get(DETECT, "")
    if value not in ("", "0", "1"):
        raise ValueError(f"{DETECT}={value!r}: expected 1 (the cluster knows the others) or 0")
    if value:
        return value == "1"
    said = [name for name, several in CLUSTERS.items() if several(os.environ.get(name, ""))]
    if said:
        say(f"{said[0]} says that there are several processes: joining them ({DETECT}=0: alone)")
    return bool(said)


def join_seconds() -> int:
    """Seconds that a process waits for the others at the start.

    Raises:
        ValueError: GOPD_JOIN_SECONDS is no such number.
    """
    value = os.environ.get(WAIT, "") or str(SECONDS)
    if not _is_whole(value) or int(value) < 1:
        raise ValueError(f"{WAIT}={value!r}: expected a whole number of seconds, 1 or more")
    return int(value)


def meet(place: Place, seconds: float, port: int = 0) -> int:
    """Waits until all processes have met at the coordinator; JAX would end them with pages of C++.

    Args:
        place: of this process.
        seconds: to wait at most.
        port: in process 0, what the others are told.

    Returns:
        The port, in every process.

    Raises:
        ValueError: nobody answers or some do not come within `seconds`, another program has the
            port, or two processes contradict each other.
    """
    if place.process == 0:
        return _await_others(place, seconds, port)
    end, said, reason = time.monotonic() + seconds, False, "nothing"
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection(place.address, timeout=min(5, left)) as connection:
                _send(connection, process=place.process, processes=place.processes)
                reason = f"process 0 is there, but not all of {place.processes}"
                answer = _receive(connection, max(0.1, end - time.monotonic()))
            if "error" in answer:
                raise ValueError(f"--coordinator={place.coordinator}: {answer['error']}")
            return answer["port"]
        except OSError as e:
            reason = reason if isinstance(e, TimeoutError) else e.strerror or str(e)
        if not said:
            say(f"waiting up to {seconds:g} s for process 0 at {place.coordinator}")
            said = True
        time.sleep(min(0.5, max(0.0, end - time.monotonic())))
    raise ValueError(
        f"--coordinator={place.coordinator}: the processes have not met there within {seconds:g} s "
        f"({reason}); expected {place.processes}, each started with its own --process, from 0"
    )


def _await_others(place: Place, seconds: float, port: int) -> int:
    """`meet` of process 0."""
    end, come = time.monotonic() + seconds, {}
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(place))
        while missing := sorted(set(range(1, place.processes)) - set(come)):
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                connection = stack.enter_context(server.accept()[0])
            except TimeoutError as e:
                raise ValueError(
                    f"--coordinator={place.coordinator}: process {missing[0]} of "
                    f"{place.processes} has not come within {seconds:g} s; expected each to be "
                    "started, with its own --process"
                ) from e
            with contextlib.suppress(OSError):  # whoever else tries the port
                hello = _receive(connection, 5)
                process, error = hello.get("process"), ""
                if hello.get("processes") != place.processes:
                    error = f"--processes={hello.get('processes')}, but process 0 has "
                    error += f"--processes={place.processes}: expected the same for all"
                elif process not in missing and not _is_closed(come.get(process)):
                    error = f"two processes have --process={process}: expected each number once"
                if error:
                    _send(connection, error=error)
                else:
                    come[process] = connection
        for connection in come.values():
            with contextlib.suppress(OSError):
                _send(connection, port=port)
    return port


def _listen(place: Place) -> socket.socket:
    """The server of process 0, at its port."""
    port, both = place.address[1], socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as e:
        raise ValueError(
            f"--coordinator={place.coordinator}: process 0 cannot listen at port {port} "
            f"({os.strerror(e.errno)}); expected a free port"
        ) from e


def _send(connection: socket.socket, **message: int | str) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, seconds: float) -> dict[str, Any]:
    """The next message; OSError if there is none in time, or the other side speaks otherwise."""
    connection.settimeout(seconds)
    with connection.makefile() as lines:
        line = lines.readline(1000)
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError) as e:
        raise OSError("it does not answer as process 0 of a run does") from e


def _is_closed(connection: socket.socket | None) -> bool:
    """Whether the other side is gone; it says nothing more while it waits."""
    if connection is None:
        return False
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class _Others:
    """What to do for the other processes when this one fails; set by `watch`."""

    tell: Callable[[BaseException], None] | None = None
    told = False


def when_failing(tell: Callable[[BaseException], None]) -> None:
    """Notes that there are other processes, and how they are told why this one ends."""
    _Others.tell = tell


@contextlib.contextmanager
def telling_the_others() -> Iterator[None]:
    """Within this context, an error of this process is told to the others, which then end too."""
    try:
        yield
    except BaseException as error:
        if _Others.tell is not None:
            _Others.tell(error)
            _Others.told = True
        raise


def leave(status: int) -> int:
    """Returns the exit status; if the others were told of an error, ends the process with it.

    JAX would wait for them.
    """
    if _Others.told:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()
