"""Stopping on request: SIGTERM and Ctrl-C, on any host.

Before the first and after the last stop point, a request ends the command where it stands. Between
them (`stop_points`), it is answered at the next `stop_point`: a place which every host reaches and
at which nothing is half done. A second request is not waited for.
"""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils
import numpy as np

from gopd_jax.runtime.errors import Stopped
from gopd_jax.runtime.progress import fitted

BEGUN = ": the run ends at the next point where nothing is half done; once more ends it at once"

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_within = False  # stop_points
_requested = 0  # number of the signal that was received within them


@contextlib.contextmanager
def stop_points() -> Iterator[None]:
    """Within this context, SIGTERM and SIGINT of any host are answered at the next `stop_point`.

    The previous handlers are put back at the end. Outside of the main thread, which alone receives
    signals, nothing changes.
    """
    global _within, _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = {number: signal.signal(number, _on_signal) for number in _SIGNALS}
    _within, _requested = True, 0
    try:
        yield
    finally:
        _within, _requested = False, 0
        for number, handler in old.items():
            signal.signal(number, handler)


def stop_point() -> None:
    """A place at which the work can be left, reached by every host equally often.

    Raises:
        Stopped: within `stop_points`, and some host has received SIGTERM or SIGINT.
    """
    if _within and (number := _requested_anywhere()):
        raise Stopped(number)


def _requested_anywhere() -> int:
    if jax.process_count() == 1:
        return _requested
    return int(multihost_utils.process_allgather(np.int32(_requested)).max())


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested
    if _requested:  # the second: whoever asks twice does not want to wait
        raise KeyboardInterrupt
    _requested = number
    # Not through `progress`, whose lock and buffer the signal may have interrupted.
    os.write(2, f"\n{fitted(str(Stopped(number, BEGUN)))}\n".encode())
