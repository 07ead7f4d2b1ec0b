"""The trainer's end of a worker process: starts it, asks it, and replaces it if it hangs or dies.

Comes in, from `Verifier`: a response and a ground truth. Goes out: the fields of a `Verdict`. Does
not parse or run anything that a model wrote; `worker.py` is the process that does.
"""

import functools
import json
import logging
import os
from pathlib import Path
import subprocess
import sys
import time

from gopd_jax.rewards import wire
from gopd_jax.rewards.own import RewardError, is_own

START_S = 120.0  # seconds a worker may take to import its libraries
GRACE_S = 3.0  # a worker keeps the time limit itself; it is killed this many seconds later
ROOT = Path(__file__).parents[2]  # the folder that holds the package gopd_jax

Judgement = tuple[float, str, dict[str, float], str]  # the fields of `verifier.Verdict`

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
        kind: a key of `kinds.KINDS`, or "package.module:function".
        timeout_s: seconds one answer may take.
        memory_mb: memory in MiB one answer may use.
    """

    def __init__(self, kind: str, timeout_s: float, memory_mb: int):
        self._arguments = [kind, str(timeout_s), str(memory_mb)]
        self._timeout_s = timeout_s
        self._is_own, self._source = is_own(kind), ""
        # Nobody in the worker keeps the time limit of a function: it is killed at once.
        self._grace_s = 0.0 if self._is_own else GRACE_S
        self._process: subprocess.Popen | None = None

    def source(self) -> str:
        """sha256 hex of the module of a reward function, which the worker has imported.

        Raises:
            RewardError: there is no such module or function.
        """
        try:
            _ = self._process or self._start()
        except RuntimeError as error:
            raise RewardError(str(error)) from error
        return self._source

    def __call__(self, response: str, ground_truth: str) -> Judgement:
        """Returns what the worker says; reward 0 if it hangs, or dies twice.

        A worker that dies is replaced and asked again: what killed it may have nothing to do with
        the answer, and a verdict must not depend on that.

        Raises:
            RewardError: a reward function of the user has failed, or has ended its process twice.
        """
        for last in (False, True):
            try:
                process = self._process or self._start()
            except RuntimeError as error:
                if not last:
                    continue
                if self._is_own:
                    raise RewardError(str(error)) from error
                raise
            try:
                replies = process.stdout.fileno()
                wire.send(process.stdin.fileno(), [response, ground_truth])
                seconds = wire.receive(replies, time.monotonic() + self._timeout_s + GRACE_S)
                reply = wire.receive(replies, time.monotonic() + seconds + self._grace_s)
                return _judged(*reply)
            except TimeoutError:
                self.close()
                return 0.0, "timeout", {}, ""
            except (EOFError, OSError):
                self.close()
        if self._is_own:
            raise RewardError(
                f"reward {self._arguments[0]!r} ended its process, or ran out of memory in a "
                f"library, for prompt {json.loads(ground_truth)['prompt_id']!r}: expected it "
                "to return"
            )
        return 0.0, "error: worker died", {}, ""

    def close(self) -> None:
        """Kills the process, if it runs; the next call starts another one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # its children see the socket close, or get SIGKILL with it
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def _start(self) -> subprocess.Popen:
        environment, path = _environment(), []
        if self._is_own:  # the user's code finds what it finds in the trainer
            given = os.environ.get("PYTHONPATH", "")
            environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), given)))
            path = [os.getcwd(), *filter(None, sys.path)]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gopd_jax.rewards.worker", *self._arguments, *path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the trainer only
        )
        try:
            started = wire.receive(self._process.stdout.fileno(), time.monotonic() + START_S)
        except (EOFError, TimeoutError) as error:
            self.close()
            raise RuntimeError(
                f"the {self._arguments[0]} worker did not start within {START_S:g} s "
                f"({type(error).__name__}): see its stderr"
            ) from error
        if not self._is_own:
            warn_of_missing(started)
        elif "error" in started:
            self.close()
            raise RewardError(started["error"])
        else:
            self._source = started["source"]
        return self._process


def _environment() -> dict[str, str]:
    """The environment of a worker that runs what a model wrote."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # a set prints in the same order every time
        "PYTHONNOUSERSITE": "1",
    }


def _judged(
    reward: float | None,
    detail: str,
    metrics: dict[str, float] | None = None,
    feedback: str = "",
) -> Judgement:
    """A worker's answer; RewardError where a reward function has failed."""
    if reward is None:
        raise RewardError(detail)
    return reward, detail, metrics or {}, feedback
