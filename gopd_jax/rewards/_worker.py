"""A worker process of `Verifier`: `python -m gopd_jax.rewards._worker KIND TIMEOUT_S MEMORY_MB`.

Comes in on stdin: [response, ground truth] messages; goes out on stdout: the seconds that this one may take, and then [reward,
detail]. Ends when stdin closes, which is
also what happens when the trainer is killed. Imports no jax.
"""

import os
import signal
import sys
import time

from gopd_jax.rewards import wire
from gopd_jax.rewards.sandbox import seccomp
from gopd_jax.rewards.verifier import KINDS

SELF_DESTRUCT_S = (
    5.0  # after the time limit: for a worker that hangs in C while nobody is left to kill it
)


def main(kind: str, timeout_s: float, memory_mb: int) -> None:
    requests, replies, null = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):  # stray prints of libraries must not reach the replies
        os.dup2(null, fd)
    seccomp.hide_memory()
    judge = KINDS[kind].Judge(memory_mb)
    wire.send(replies, judge.guards)
    os.dup2(null, 2)  # an error before this line is the reader's to see
    while True:
        try:
            response, ground_truth = wire.receive(requests)
        except EOFError:
            return
        try:
            seconds = judge.seconds(ground_truth, timeout_s)
        except Exception:  # no ground truth: the judge will say so
            seconds = timeout_s
        wire.send(replies, seconds)
        signal.setitimer(signal.ITIMER_REAL, seconds + SELF_DESTRUCT_S)
        try:
            verdict = judge(response, ground_truth, time.monotonic() + seconds)
        except Exception as error:
            verdict = 0.0, f"error: {type(error).__name__}"
        signal.setitimer(signal.ITIMER_REAL, 0)
        wire.send(replies, verdict)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
