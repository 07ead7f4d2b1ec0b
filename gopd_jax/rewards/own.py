"""A reward function of the user, "package.module:function", called in a worker process.

Comes in: an answer and the row of its prompt as JSON. Goes out: the fields of a `Verdict`. There is
no sandbox, because the function is the user's own code: `worker_handle.py` keeps the time limit, a
resource limit the memory. A function that fails is an error and never a reward of 0. Imports
neither JAX nor pydantic.
"""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import difflib
import hashlib
import importlib
import json
import math
import numbers
import os
from pathlib import Path
import re
import sys
import traceback
from types import ModuleType
from typing import Any

from gopd_jax.rewards.sandbox.limits import limit_memory
from gopd_jax.runtime.errors import brief

SPELLING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")  # package.module:function
# A named number becomes the metric reward_NAME; these names are taken.
TAKEN = ("half_width", "high", "low", "stopped")
EXPECTED = (
    'a number in [0, 1], or a dict of finite numbers with such a number as its "reward" and maybe '
    'a text as its "feedback"'
)
DETAIL = "judged"


class RewardError(ValueError):
    """A reward function of the user that cannot be used, or that has failed for an answer."""


def is_own(reward: str) -> bool:
    """Whether a reward names a function of the user, and not a kind of `kinds.KINDS`."""
    return ":" in reward


class OwnJudge:
    """Calls one reward function, in the worker process that it was imported in.

    Args:
        reward: "package.module:function".
        memory_mb: address space in MiB that calls may use on top of what the import took.
        path: folders that modules are looked for in, before those of this process.

    Raises:
        RewardError: the module cannot be imported, or has no such function.
    """

    def __init__(self, reward: str, memory_mb: int, path: Sequence[str]):
        self._reward = reward
        name, _, function = reward.partition(":")
        sys.path[:] = dict.fromkeys([*path, *sys.path])
        try:
            module = importlib.import_module(name)
        except BaseException as error:  # whatever the module does when it is imported
            raise RewardError(
                f"reward {reward!r}: {name!r} cannot be imported ({_described(error)}"
                f"{_raised_at(error)}); expected a module in {os.getcwd()!r}, on PYTHONPATH, or "
                "installed"
            ) from error
        self._function = _function(module, function, reward)
        self.source = _source(module, reward)
        limit_memory(memory_mb)

    def time_limit(self, ground_truth: str, timeout_s: float) -> float:
        """Seconds an answer may take: always the verifier's own limit."""
        return timeout_s

    def __call__(
        self, response: str, ground_truth: str, deadline: float
    ) -> tuple[float, str, dict[str, float], str]:
        """Calls the function.

        Args:
            response: the answer.
            ground_truth: the row of the prompt as JSON.
            deadline: kept by the process that waits for the result.

        Returns:
            Reward, detail, the further numbers that the function has named, and its feedback.

        Raises:
            RewardError: the function has raised an exception or returned anything else than it may.
        """
        record = json.loads(ground_truth)
        of_what = f"prompt {record['prompt_id']!r} and the answer {brief(repr(response), 60)}"
        try:
            value = self._function(record, response)
            reward, metrics, feedback = checked(value)
        except MemoryError:
            return 0.0, "memory", {}, ""
        except _Unexpected as error:
            raise RewardError(
                f"reward {self._reward!r} returned {error} for {of_what}"
                f"{_defined(self._function)}: expected {EXPECTED}"
            ) from None
        except BaseException as error:  # sys.exit() too
            raise RewardError(
                f"reward {self._reward!r} raised {_described(error)} for {of_what}"
                f"{_raised_at(error)}: expected {EXPECTED}"
            ) from error
        return reward, DETAIL, metrics, feedback


class _Unexpected(Exception):
    """What a function returned that it may not; str() says what."""


def checked(value: Any) -> tuple[float, dict[str, float], str]:
    """The reward, the further named numbers and the feedback that a reward function returned."""
    named = dict(value) if isinstance(value, Mapping) else {"reward": value}
    feedback = named.pop("feedback", "")
    if not isinstance(feedback, str):
        raise _Unexpected(f"{brief(repr(feedback))} as its 'feedback'")
    if "reward" not in named:
        raise _Unexpected(f'{brief(repr(value))} without a "reward"')
    numbers_by_name = {}
    for name, number in named.items():
        where = f" as its {name!r}" if isinstance(value, Mapping) else ""
        if not isinstance(number, numbers.Real) or not math.isfinite(number):
            raise _Unexpected(f"{brief(repr(number))}{where}")
        if not isinstance(name, str) or not name.isidentifier() or name in TAKEN:
            taken = f"a name other than {', '.join(TAKEN)}"
            raise _Unexpected(f"a number named {name!r} (not {taken}, made of letters, digits, _)")
        numbers_by_name[name] = float(number)
    reward = numbers_by_name.pop("reward")
    if not 0 <= reward <= 1:
        raise _Unexpected(f"{reward!r}{' as its reward' if isinstance(value, Mapping) else ''}")
    return reward, numbers_by_name, feedback


def _function(module: ModuleType, name: str, reward: str) -> Callable[[Any, str], Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function
    known = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    nearest = f"; nearest: {near[0]!r}" if near else ""
    is_what = "nothing" if function is None else f"of type {type(function).__name__}"
    raise RewardError(
        f"reward {reward!r}: {name!r} is {is_what} in {module.__name__} ({_file(module)}), "
        f"expected a function(record, answer){nearest}"
    )


def _source(module: ModuleType, reward: str) -> str:
    """sha256 hex of the module's file."""
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(_file(module)).read_bytes()).hexdigest()
    raise RewardError(
        f"reward {reward!r}: {module.__name__} has no file that can be read, expected a module "
        "whose source tells whether a resumed run has the same reward"
    )


def _file(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "no file"


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {brief(error)}" if str(error) else type(error).__name__


def _raised_at(error: BaseException) -> str:
    """ " at FILE:LINE", the innermost place outside of Python's import machinery and this file."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "frozen" not in f.filename]
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    outside = [f for f in frames if f.filename not in (__file__, importlib.__file__)]
    return f" at {outside[-1].filename}:{outside[-1].lineno}" if outside else ""


def _defined(function: Callable) -> str:
    code = getattr(function, "__code__", None)
    return f" at {code.co_filename}:{code.co_firstlineno}" if code else ""
