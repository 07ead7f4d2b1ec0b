"""The processes of a run watch each other: when one is gone, the others stop and say which.

A process whose partner is gone would wait for it for ever, or be ended by JAX with a page of C++.
Each writes a sign of life into the store of JAX's coordination service, which process 0 holds, and
reads those of the others. It does not look at devices, so that nothing waits for it.
"""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import json
import os
import socket
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # what Orbax and Flax use too: nothing public gives the store

from gopd_jax.runtime import joining
from gopd_jax.runtime.errors import brief

GONE = 4  # exit status where another process is gone
BEAT = 1.0  # seconds between two signs of life
SILENT = 15.0  # without one for so long, a process is gone
GRACE = 3.0  # the others end by themselves if they have met the same error
LOST = "its connection is closed, or its host is down"
KEYS = "gopd_jax/processes/"
AGAIN = (
    "start the same command again for all of them, it resumes from the last checkpoint (process 0 "
    "is the one that all others need)"
)


class Watch:
    """Watches the other processes in a thread; `stop` ends it."""

    def __init__(self, client: Any, process: int, processes: int):
        self._client, self._process, self._processes = client, process, processes
        self._host, self._beats = socket.gethostname(), 0
        self._ended: str | None = None  # why this process ends; "" when its work is done
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self, reason: str = "") -> None:
        """Tells the others why this process ends, "" when its work is done, and watches no more.

        If it fails, process 0 waits until the others have read it: it holds what they read.
        """
        self._ended = reason
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(Exception):
            self._write()
            if reason and self._process == 0:
                end = time.monotonic() + GRACE + 2 * BEAT
                while time.monotonic() < end and not self._all_ended():
                    time.sleep(BEAT / 4)

    def verdict(self) -> None:
        """Waits as long as it takes to know that another process is gone; then this one ends."""
        self._thread.join(SILENT + GRACE + 2 * BEAT)

    def _all_ended(self) -> bool:
        return sum(e.get("ended") is not None for e in self._read().values()) >= self._processes

    def _write(self) -> None:
        self._beats += 1
        entry = {"beats": self._beats, "host": self._host, "ended": self._ended}
        key = f"{KEYS}{self._process}"
        self._client.key_value_set(key, json.dumps(entry), allow_overwrite=True)

    def _read(self) -> dict[int, dict[str, Any]]:
        """The entries of all processes, by number."""
        found = self._client.key_value_dir_get(KEYS)
        return {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}

    def _run(self) -> None:
        last = {i: (0, time.monotonic()) for i in range(self._processes) if i != self._process}
        known: dict[int, dict[str, Any]] = {}
        answered = time.monotonic()
        while not self._stopped.wait(BEAT):
            try:
                self._write()
                known = self._read()
                answered = time.monotonic()
            except Exception:  # of the store, which process 0 holds
                if self._process and time.monotonic() - answered > 2 * BEAT:
                    self._leave(0, known, LOST)
                continue
            for i, (beats, since) in last.items():
                entry, now = known.get(i, {}), time.monotonic()
                if entry.get("beats", 0) != beats:
                    last[i] = entry["beats"], now
                elif entry.get("ended") == "":
                    continue
                elif reason := entry.get("ended"):
                    if now - since > GRACE:
                        self._leave(i, known, f"it has ended with an error ({reason})")
                elif now - since > SILENT:
                    self._leave(i, known, f"no sign of life for {SILENT:g} s")

    def _leave(self, gone: int, known: dict[int, dict[str, Any]], why: str) -> None:
        """Ends this process with one sentence, unless it is about to end by itself."""
        if self._stopped.wait(BEAT):
            return
        host = known.get(gone, {}).get("host")
        where = f" on host {host}" if host else ""
        sentence = (
            f"process {gone} of {self._processes}{where} is gone: {why}; expected all processes "
            f"to go on. Its own output says more; {AGAIN}"
        )
        # Not through `progress`: the main thread may hold its lock.
        os.write(2, f"\nprocess {self._process}: error: {sentence}\n".encode())
        os._exit(GONE)


class _Joined:
    watch: Watch | None = None


def start(process: int, processes: int) -> None:
    """Begins to watch; after `jax.distributed.initialize`. JAX's own end of that comes last."""
    _Joined.watch = Watch(distributed.global_state.client, process, processes)
    atexit.register(_end)


@contextlib.contextmanager
def telling_the_others() -> Iterator[None]:
    """Within this context, an error of this process is told to the others, which then end too.

    An error of JAX may be that another process is gone: then the watch ends this one as well.
    """
    try:
        yield
    except BaseException as error:
        if _Joined.watch is not None:
            if _is_of_jax(error):
                _Joined.watch.verdict()
            joining.fails()
            text = brief(error) if isinstance(error, Exception) else str(error)
            _Joined.watch.stop(text or type(error).__name__)
        raise


def _end() -> None:
    """At the end of Python, before that of JAX."""
    joining.leave(1)  # after a traceback
    if _Joined.watch is not None:
        _Joined.watch.stop()


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether an error comes from an error of JAX, such as a broken connection."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def silent_partner() -> Iterator[None]:
    """Within this context, JAX's client of the coordination service is made so that it does not end
    the process when another one is gone: that is left to `Watch`, which says it in a sentence.
    """
    make = distributed._jax.get_distributed_runtime_client
    options = {"missed_heartbeat_callback": _ignore}
    distributed._jax.get_distributed_runtime_client = functools.partial(make, **options)
    try:
        yield
    finally:
        distributed._jax.get_distributed_runtime_client = make


def _ignore(*_: object) -> None:
    pass
