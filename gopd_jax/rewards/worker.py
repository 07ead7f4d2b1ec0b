"""A worker process: `python -m gopd_jax.rewards.worker KIND TIMEOUT_S MEMORY_MB [PATH...]`.

Comes in, on stdin: messages [response, ground truth]. Goes out, on stdout: first the judge's
guards, then for each message its time limit in seconds and, as a second message, the fields of a
`verifier.Verdict`. For a reward function of the user, whose modules are looked for in PATH, the
first message is {"source": sha256} or {"error": sentence}, and a failed call is [None, sentence].
`worker_handle.py` is the other end. The process ends when stdin closes, which also happens when the
trainer is killed. Imports no JAX.
"""

import os
import signal
import sys
import time

from gopd_jax.rewards import wire
from gopd_jax.rewards.kinds import KINDS
from gopd_jax.rewards.own import OwnJudge, RewardError, is_own
from gopd_jax.rewards.sandbox import seccomp

# Seconds after the time limit at which a worker ends itself. Needed when it hangs in a C call and
# the trainer, which would kill it, is gone.
SELF_DESTRUCT_S = 5.0


def main(kind: str, timeout_s: float, memory_mb: int, *path: str) -> None:
    """Judges answers of one kind until stdin closes."""
    requests, replies, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # what libraries print must not reach the replies
        os.dup2(null, fd)
    if is_own(kind):
        try:
            judge = OwnJudge(kind, memory_mb, path)
        except RewardError as error:
            wire.send(replies, {"error": str(error)})
            return
        wire.send(replies, {"source": judge.source})
    else:
        seccomp.hide_memory()
        judge = KINDS[kind].judge(memory_mb)
        wire.send(replies, judge.guards)
    os.dup2(null, 2)  # errors of the start, up to here, are for the user to see
    while True:
        try:
            response, ground_truth = wire.receive(requests)
        except EOFError:
            return
        try:
            seconds = judge.time_limit(ground_truth, timeout_s)
        except Exception:  # not a valid ground truth: the judge will report it
            seconds = timeout_s
        wire.send(replies, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds + SELF_DESTRUCT_S)
        try:
            verdict = judge(response, ground_truth, time.monotonic() + seconds)
        except RewardError as error:
            verdict = None, str(error)
        except Exception as error:
            verdict = 0.0, f"error: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(replies, verdict)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
