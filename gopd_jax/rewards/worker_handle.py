"""The trainer's end of a worker process: starts it, asks it, and replaces it if it hangs or dies.

Comes in, from `Verifier`: a response and a ground truth. Goes out: the worker's (reward, detail).
Does not parse or run anything that a model wrote; `worker.py` is the process that does.
"""

import functools
import logging
import os
from pathlib import Path
import subprocess
import sys
import time

from gopd_jax.rewards import wire

START_S = 120.0  # seconds a worker may take to import its libraries
GRACE_S = 3.0  # a worker keeps the time limit itself; it is killed this many seconds later
ROOT = Path(__file__).parents[2]  # the folder that holds the package gopd_jax

_log = logging.getLogger(__name__)
_IF_MISSING = {
    "seccomp": "no system-call filter on this machine: only resource limits hold programs",
    "landlock": "no Landlock on this machine (needs Linux 5.13 or newer): programs can read every "
    "file that this user can read",
    "scratch": "no user namespaces, or no Landlock of version 3 (Linux 6.2), on this machine: "
    "programs cannot write any file",
}


@functools.cache  # once, not for each worker
def _warn_once(warning: str) -> None:
    _log.warning(warning)


def warn_of_missing(guards: dict[str, bool]) -> None:
    """Logs a warning for each guard of the sandbox that this machine lacks, once in a process.

    Args:
        guards: `kinds.Judge.guards`.
    """
    for guard, warning in _IF_MISSING.items():
        if not guards[guard]:
            _warn_once(warning)


class WorkerHandle:
    """One worker process of one kind, started when it is first needed.

    Args:
        kind: a key of `kinds.KINDS`.
        timeout_s: seconds one answer may take.
        memory_mb: memory in MiB one answer may use.
    """

    def __init__(self, kind: str, timeout_s: float, memory_mb: int):
        self._arguments = [kind, str(timeout_s), str(memory_mb)]
        self._timeout_s = timeout_s
        self._process: subprocess.Popen | None = None

    def __call__(self, response: str, ground_truth: str) -> tuple[float, str]:
        """Returns the worker's (reward, detail); reward 0 if the worker hangs, or dies twice.

        A worker that dies is replaced and asked again: what killed it may have nothing to do with
        the answer, and a verdict must not depend on that.
        """
        for last in (False, True):
            try:
                process = self._process or self._start()
            except RuntimeError:
                if last:
                    raise
                continue
            try:
                replies = process.stdout.fileno()
                wire.send(process.stdin.fileno(), [response, ground_truth])
                seconds = wire.receive(replies, time.monotonic() + self._timeout_s + GRACE_S)
                reward, detail = wire.receive(replies, time.monotonic() + seconds + GRACE_S)
                return reward, detail
            except TimeoutError:
                self.close()
                return 0.0, "timeout"
            except (EOFError, OSError):
                self.close()
        return 0.0, "error: worker died"

    def close(self) -> None:
        """Kills the process, if it runs; the next call starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # its children see the socket close, or get SIGKILL with it
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _start(self) -> subprocess.Popen:
        environment = {
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",  # a set prints in the same order every time
            "PYTHONNOUSERSITE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gopd_jax.rewards.worker", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the trainer only
        )
        try:
            guards = wire.receive(self._process.stdout.fileno(), time.monotonic() + START_S)
        except (EOFError, TimeoutError) as error:
            self.close()
            raise RuntimeError(
                f"the {self._arguments[0]} worker did not start ({type(error).__name__}): see its "
                "stderr"
            ) from error
        warn_of_missing(guards)
        return self._process
