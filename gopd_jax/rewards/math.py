r"""Verified reward of a math answer: Math-Verify on the last \boxed{...} of the response.

Comes in: a response and the right answer (LaTeX or plain, \boxed or not). Goes out: (reward,
detail). Math-Verify's own time limit is a signal.alarm, which cannot interrupt a C call such as
9**9**9**9, so it runs in a forked child here, which is killed and replaced when it hangs.

Math-Verify is imported inside functions: it loads sympy, which takes more than a second, and the
trainer's process needs it only to check ground truths.
"""

import functools
import logging
import os
import re
import signal
import socket

from gopd_jax.rewards import notation, statements, wire
from gopd_jax.rewards.sandbox import seccomp
from gopd_jax.rewards.sandbox.limits import die_with_parent, limit_memory

CHILD_MEMORY_MB = 1024  # at least: sympy's caches grow with the run; a power tower takes gigabytes
# A box, a backslash before a box, an escaped character, or a brace.
_TOKEN = re.compile(r"(\\boxed\s*\{)|\\(?=\\boxed\s*\{)|\\.|[{}]", re.DOTALL)
# Math-Verify warns when its own time limit is off, as it is here.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def last_boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{...} with balanced braces, or None.

    The escaped braces \{ and \} do not count. Takes linear time, because no deadline applies here.
    """
    open_braces: list[int | None] = []  # for each open brace, where the contents of its box begin
    start, end = -1, -1
    for token in _TOKEN.finditer(text):
        if token[1] or token[0] == "{":
            open_braces.append(token.end() if token[1] else None)
        elif token[0] == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and begin > start:
                start, end = begin, token.start()
    return None if start < 0 else text[start:end]


@functools.lru_cache(maxsize=4096)
def parse(answer: str) -> notation.Read:
    """What Math-Verify reads in an answer: sympy objects, then the text itself.

    Raises:
        Exception: any, by Math-Verify or sympy.
    """
    import math_verify  # deferred, see above

    boxed = rf"\boxed{{{notation.plain(answer)}}}"
    config = [
        math_verify.LatexExtractionConfig(boxed_match_priority=0),
        math_verify.ExprExtractionConfig(),
    ]
    return math_verify.parse(boxed, config, parsing_timeout=None, raise_on_error=True)


def _bare(ground_truth: str) -> str:
    """The ground truth without \\boxed and dollar signs."""
    boxed = last_boxed(ground_truth)
    return (ground_truth if boxed is None else boxed).strip().strip("$").strip()


def _equal(truth: notation.Read, answer: notation.Read) -> bool:
    """Math-Verify's judgement of two answers in any of three readings.

    They are compared as they were read, with i as the imaginary unit, and as sets of numbers.
    """
    import math_verify  # deferred, see above

    readings = [lambda *both: both, notation.with_imaginary_unit, notation.as_sets]
    pairs = (read(truth, answer) for read in readings)
    is_equal = any(
        math_verify.verify(*pair, timeout_seconds=None, raise_on_error=False)
        for pair in pairs
        if pair is not None
    )
    return is_equal and not statements.differ_in_six_digits(truth, answer)


def score(answer: str, ground_truth: str) -> tuple[float, str]:
    """Compares two answers in this process, without a time limit. Never raises.

    Args:
        answer: the contents of a box.
        ground_truth: the right answer.

    Returns:
        (reward, detail).
    """
    try:
        truth = _bare(ground_truth)
        right = (
            not notation.differ(answer, truth)
            and _equal(parse(truth), parse(answer))
            and not statements.is_false(answer, parse)
        )
    except MemoryError:
        return 0.0, "memory"
    except Exception as error:
        return 0.0, f"error: {type(error).__name__}"
    return (1.0, "correct") if right else (0.0, "wrong")


def check_ground_truth(ground_truth: str) -> None:
    """Checks that Math-Verify can read a ground truth.

    Raises:
        ValueError: if it reads nothing in it, or does not find it equal to itself.
    """
    if not isinstance(ground_truth, str) or not _bare(ground_truth):
        raise ValueError(
            f"math ground truth {ground_truth!r:.80}: expected an answer such as '\\frac{{1}}{{2}}'"
        )
    reward, detail = score(_bare(ground_truth), ground_truth)
    if not reward:
        raise ValueError(
            f"math ground truth {ground_truth!r:.80}: expected an answer that Math-Verify finds "
            f"equal to itself, got {detail!r}"
        )


class MathJudge:
    """Judges math answers (`kinds.Judge`) and owns the child process that runs Math-Verify.

    Args:
        memory_mb: address space of the child in MiB on top of its present one; at least 1024.
    """

    # Nothing a model wrote runs as code here, so that no missing guard needs a warning.
    guards = {"seccomp": True, "landlock": True, "scratch": True}

    def __init__(self, memory_mb: int):
        self._memory_mb = max(memory_mb, CHILD_MEMORY_MB)
        score("1", "1")  # imports Math-Verify once: a new child costs a fork, not the import
        self._start()

    def _start(self) -> None:
        self._channel, child_end = socket.socketpair()
        parent = os.getpid()
        self._pid = os.fork()  # safe: the worker is single-threaded
        if self._pid == 0:
            try:
                die_with_parent(parent)
                self._channel.close()
                limit_memory(self._memory_mb)
                seccomp.install()  # sympy evaluates text in places
                while True:
                    wire.send(child_end.fileno(), score(*wire.receive(child_end.fileno())))
            finally:
                os._exit(0)
        child_end.close()

    def time_limit(self, ground_truth: str, timeout_s: float) -> float:
        """Seconds an answer may take: always the verifier's own limit."""
        return timeout_s

    def __call__(self, response: str, ground_truth: str, deadline: float) -> tuple[float, str]:
        """Returns (reward, detail) of the last box in the response."""
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
