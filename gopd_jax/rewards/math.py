r"""Verified reward of a math answer: Math-Verify on the last \boxed{...} of the response.

Comes in: a response and the right answer (LaTeX or plain, \boxed or not). Goes out: (reward, detail). Math-Verify's own time
limit is a signal.alarm, which cannot stop a C call such as 9**9**9**9; here it runs in a forked child that is killed and
replaced. Math-Verify is imported inside functions: the trainer's process needs it only to check ground truths.
"""

import functools
import logging
import os
import re
import signal
import socket
from typing import Any

from gopd_jax.rewards import notation, wire
from gopd_jax.rewards.sandbox import process as sandbox
from gopd_jax.rewards.sandbox import seccomp

CHILD_MEMORY_MB = 1024  # sympy's caches grow with the run; a power tower takes gigabytes
logging.getLogger("math_verify").setLevel(
    logging.ERROR
)  # it warns that we keep the time limit ourselves
_BOX = re.compile(r"\\boxed\s*\{")


def last_boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{...} with balanced braces (\{ and \} do not count), or None."""
    for box in reversed(list(_BOX.finditer(text))):
        depth = 1
        for brace in re.finditer(r"\\.|[{}]", text[box.end() :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace.group(), 0)
            if depth == 0:
                return text[box.end() : box.end() + brace.start()]
    return None


@functools.lru_cache(maxsize=4096)
def parse(answer: str) -> list[Any]:
    """What Math-Verify reads in an answer: sympy objects, then the text itself; may raise anything."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return parse(
        rf"\boxed{{{notation.plain(answer)}}}", config, parsing_timeout=None, raise_on_error=True
    )


def _bare(ground_truth: str) -> str:
    boxed = last_boxed(ground_truth)
    return (ground_truth if boxed is None else boxed).strip().strip("$").strip()


def _equal(truth: list[Any], answer: list[Any]) -> bool:
    """Math-Verify's judgement of two answers, as they were read, with i as the imaginary unit, or as sets of numbers."""
    from math_verify import verify

    readings = [lambda *both: both, notation.with_imaginary_unit, notation.as_sets]
    pairs = (read(truth, answer) for read in readings)
    return any(
        verify(*pair, timeout_seconds=None, raise_on_error=False)
        for pair in pairs
        if pair is not None
    )


def score(answer: str, ground_truth: str) -> tuple[float, str]:
    """Compare two answers, in this process and without a time limit. Never raises."""
    try:
        right = not notation.differ(answer, _bare(ground_truth)) and _equal(
            parse(_bare(ground_truth)), parse(answer)
        )
    except MemoryError:
        return 0.0, "memory"
    except Exception as error:
        return 0.0, f"error: {type(error).__name__}"
    return (1.0, "correct") if right else (0.0, "wrong")


def check_ground_truth(ground_truth: str) -> None:
    """Raises ValueError if Math-Verify reads nothing in it, or does not find it equal to itself."""
    if not isinstance(ground_truth, str) or not _bare(ground_truth):
        raise ValueError(
            f"math ground truth {ground_truth!r:.80}: wanted an answer such as '\\frac{{1}}{{2}}'"
        )
    reward, detail = score(_bare(ground_truth), ground_truth)
    if not reward:
        raise ValueError(
            f"math ground truth {ground_truth!r:.80}: Math-Verify does not find it equal to itself ({detail})"
        )


class Judge:
    """Called with (response, ground_truth, deadline), returns (reward, detail). Owns the child that runs Math-Verify."""

    guards = {
        "seccomp": True,
        "landlock": True,
        "scratch": True,
    }  # no code of the model runs here, so nothing to warn of

    def __init__(self, memory_mb: int):
        self._memory_mb = max(memory_mb, CHILD_MEMORY_MB)
        score("1", "1")  # imports Math-Verify once: a new child costs a fork, not the import
        self._start()

    def _start(self) -> None:
        self._channel, child_end = socket.socketpair()
        parent = os.getpid()
        self._pid = os.fork()  # this process is the worker: one thread
        if self._pid == 0:
            try:
                sandbox.die_with_parent(parent)
                self._channel.close()
                sandbox.limit_memory(self._memory_mb)
                seccomp.install()  # sympy evaluates text in places
                while True:
                    wire.send(child_end.fileno(), score(*wire.receive(child_end.fileno())))
            finally:
                os._exit(0)
        child_end.close()

    def seconds(self, ground_truth: str, timeout_s: float) -> float:
        return timeout_s

    def __call__(self, response: str, ground_truth: str, deadline: float) -> tuple[float, str]:
        answer = last_boxed(response)
        if answer is None or not answer.strip():
            return 0.0, "no answer"
        try:
            wire.send(self._channel.fileno(), [answer, ground_truth])
            reward, detail = wire.receive(self._channel.fileno(), deadline)
            return reward, detail
        except TimeoutError:
            detail = "timeout"
        except (EOFError, OSError):
            detail = "error: verifier died"
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._channel.close()
        self._start()
        return 0.0, detail
