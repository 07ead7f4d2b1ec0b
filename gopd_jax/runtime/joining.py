"""Which process of a run this one is, and where it finds the others.

In: --coordinator, --processes and --process, or the environment. Out: a `Place`, checked before any
work. Does not import JAX.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import socket
import sys
import time

from gopd_jax.runtime.progress import say

# Option: the variable that says the same, for commands without the option.
OPTIONS = {
    "--coordinator": "GOPD_COORDINATOR",
    "--processes": "GOPD_PROCESSES",
    "--process": "GOPD_PROCESS",
}
DETECT = "GOPD_DISTRIBUTED"  # 1: a TPU slice, Slurm or Open MPI says it
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

    Raises:
        ValueError: GOPD_DISTRIBUTED is neither 0 nor 1.
    """
    value = os.environ.get(DETECT, "") or "0"
    if value not in ("0", "1"):
        raise ValueError(f"{DETECT}={value!r}: expected 1 (the cluster knows the others) or 0")
    return value == "1"


def join_seconds() -> int:
    """Seconds that a process waits for the others at the start.

    Raises:
        ValueError: GOPD_JOIN_SECONDS is no such number.
    """
    value = os.environ.get(WAIT, "") or str(SECONDS)
    if not _is_whole(value) or int(value) < 1:
        raise ValueError(f"{WAIT}={value!r}: expected a whole number of seconds, 1 or more")
    return int(value)


def meet(place: Place, seconds: float) -> None:
    """Waits until process 0 answers; in process 0, checks that its port can be had.

    JAX would end the process with pages of C++.

    Raises:
        ValueError: nobody answers within `seconds`, or another program has the port.
    """
    host, port = place.address
    if place.process == 0:
        try:
            with socket.create_server(("", port)):
                return
        except OSError as e:
            raise ValueError(
                f"--coordinator={place.coordinator}: process 0 cannot listen at port {port} "
                f"({e.strerror or e}); expected a free port"
            ) from e
    end, waited = time.monotonic() + seconds, False
    while True:
        try:
            with socket.create_connection((host, port), timeout=5):
                return
        except OSError as e:
            if time.monotonic() > end:
                raise ValueError(
                    f"--coordinator={place.coordinator}: nobody answers there after "
                    f"{seconds:g} s ({e.strerror or e}); expected process 0 of "
                    f"{place.processes}, started with the same command and --process=0"
                ) from e
        if not waited:
            say(f"waiting up to {seconds:g} s for process 0 at {place.coordinator}")
            waited = True
        time.sleep(0.5)


class _Run:
    failed = False  # this process, in a run of several


def fails() -> None:
    """Notes that this process of several ends with an error, which the others have been told."""
    _Run.failed = True


def leave(status: int) -> int:
    """Returns the exit status of a command, or ends the process: after `fails`, JAX would wait."""
    if _Run.failed:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdecimal()
