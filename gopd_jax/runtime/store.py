"""JAX's coordination service in a process of its own, beside process 0 of a run.

Within process 0 it would end with it, and JAX ends whatever loses the service at once, with a page
of C++. So it outlives process 0 for as long as the others need to find out and say it.
"""

import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import time

OUTLIVES = 30.0  # seconds
END = "end\n"


class Store:
    """The service, started; stands in for JAX's own object.

    Args:
        processes: that meet at it.
        heartbeat_seconds: without a sign of life for so long, a process is gone.
        shutdown_seconds: at the end, it waits for all processes for so long.

    Raises:
        ValueError: it cannot be started.
    """

    def __init__(self, processes: int, heartbeat_seconds: int, shutdown_seconds: int):
        given = map(str, (processes, heartbeat_seconds, shutdown_seconds))
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__)), *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is not for it
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        port = self._process.stdout.readline()
        if not port:
            raise ValueError("the coordination service of JAX cannot be started: expected a port")
        self.port = int(port)

    def shutdown(self) -> None:
        """Ends it; all processes have left it."""
        try:
            self._process.stdin.write(END)
            self._process.stdin.close()
        except OSError:  # it has ended
            return


def _serve(processes: int, heartbeat_seconds: int, shutdown_seconds: int) -> None:
    from jaxlib import _jax  # what jax.distributed takes; JAX itself takes a second to import

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    service = _jax.get_distributed_runtime_service(
        f"[::]:{port}",
        processes,
        heartbeat_timeout=heartbeat_seconds,
        shutdown_timeout=shutdown_seconds,
    )
    print(port, flush=True)
    if sys.stdin.readline() == END:
        service.shutdown()
    else:  # process 0 is gone
        time.sleep(OUTLIVES)
    os._exit(0)


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
