"""The processes of a run watch each other: when one is gone, the others stop and say which.

A process whose partner is gone would wait for it for ever, or be ended by JAX with a page of C++.
Each writes a sign of life into the store of JAX's coordination service, which process 0 holds, and
reads those of the others. It does not look at devices, so that nothing waits for it.
"""

import atexit
from collections.abc import Iterator
import contextlib
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
from gopd_jax.runtime.store import Store

GONE = 4  # exit status where another process is gone
BEAT = 1.0  # seconds between two signs of life
SILENT = 15.0  # without one for so long, a process is gone
GRACE = 3.0  # the others end by themselves if they have met the same error
KEYS = "gopd_jax/processes/"


class Watch:
    """Watches the other processes in threads; `stop` ends them."""

    def __init__(self, client: Any, process: int, processes: int):
        self._client, self._process, self._processes = client, process, processes
        self._host, self._beats = socket.gethostname(), 0
        self._ended: str | None = None  # why this process ends; "" when its work is done
        self._known: dict[int, dict[str, Any]] = {}  # what the others have last written
        self._answered = time.monotonic()  # when the store has last answered
        self._stopped = threading.Event()
        # Two, because a call to the store of a host that is lost does not return.
        self._talking = threading.Thread(target=self._talk, name="signs of life", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._talking.start()
        self._watching.start()

    def stop(self, reason: str = "") -> None:
        """Tells the others why this process ends, "" when its work is done, and watches no more."""
        if self._stopped.is_set():
            return
        self._ended = reason
        self._stopped.set()
        self._talking.join(BEAT)
        with contextlib.suppress(Exception):
            self._write()

    def verdict(self) -> None:
        """Waits as long as it takes to know that another process is gone; then this one ends."""
        self._watching.join(SILENT + GRACE + 3 * BEAT)

    def _write(self) -> None:
        self._beats += 1
        entry = {"beats": self._beats, "host": self._host, "ended": self._ended}
        key = f"{KEYS}{self._process}"
        self._client.key_value_set(key, json.dumps(entry), allow_overwrite=True)

    def _talk(self) -> None:
        waiting = True
        while waiting:
            with contextlib.suppress(Exception):  # no answer is for `_watch` to see
                self._write()
                found = self._client.key_value_dir_get(KEYS)
                by_number = {int(k.rpartition("/")[2]): json.loads(v) for k, v in found}
                self._known, self._answered = by_number, time.monotonic()
            waiting = not self._stopped.wait(BEAT)

    def _watch(self) -> None:
        others = [i for i in range(self._processes) if i != self._process]
        changed, before = {}, 0.0
        while not self._stopped.wait(BEAT):
            now = time.monotonic()
            if now - before > 3 * BEAT:  # this process was held up itself: begin anew
                changed, self._answered = dict.fromkeys(others, (0, now)), now
            before = now
            if now - self._answered > SILENT:
                self._leave(0, "no answer of its host")
            for i, (beats, since) in changed.items():
                entry = self._known.get(i, {})
                if entry.get("beats", 0) != beats:
                    changed[i] = entry["beats"], now
                elif reason := entry.get("ended"):
                    if now - since > GRACE:
                        self._leave(i, f"it has ended ({reason})")
                elif reason is None and now - since > SILENT:
                    self._leave(i, f"no sign of life for {SILENT:g} s")

    def _leave(self, gone: int, why: str) -> None:
        """Ends this process with one sentence, unless it is about to end by itself."""
        if self._stopped.wait(BEAT):
            return
        host = self._known.get(gone, {}).get("host")
        where = f" on host {host}" if host else ""
        sentence = (
            f"process {gone} of {self._processes}{where} is gone ({why}; its own output may say "
            "more): expected all to stay. Start the same command again for all of them, it resumes "
            "from the last checkpoint"
        )
        # Not through `progress`: the main thread may hold its lock.
        os.write(2, f"\nprocess {self._process}: error: {sentence}\n".encode())
        os._exit(GONE)


class _Joined:
    watch: Watch | None = None


def start(process: int, processes: int) -> None:
    """Begins to watch; after `jax.distributed.initialize`. JAX's own end of that comes last."""
    _Joined.watch = Watch(distributed.global_state.client, process, processes)
    joining.when_failing(_tell)
    atexit.register(_end)


def _tell(error: BaseException) -> None:
    """Tells the others why this process ends.

    An error of JAX may be that another process is gone: then the watch ends this one.
    """
    if _is_of_jax(error):
        _Joined.watch.verdict()
    text = brief(error) if isinstance(error, Exception) else str(error)
    _Joined.watch.stop(text or type(error).__name__)


def _end() -> None:
    """At the end of Python, before that of JAX."""
    joining.leave(1)  # after a traceback
    _Joined.watch.stop()


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether an error comes from an error of JAX, such as a broken connection."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def service_of(store: Store | None) -> Iterator[None]:
    """Within this context JAX's process 0 takes `store` as its coordination service, if given."""
    make = distributed._jax.get_distributed_runtime_service
    if store is not None:
        distributed._jax.get_distributed_runtime_service = lambda *_, **__: store
    try:
        yield
    finally:
        distributed._jax.get_distributed_runtime_service = make
