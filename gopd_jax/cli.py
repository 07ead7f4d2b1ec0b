"""What every command has in common: its parser, its number options, its exit status.

In: a command's options and the function that does the work. Out: an exit status, and one line on
stderr for whatever the person at the terminal can put right. Imports neither JAX nor transformers:
a command imports the rooms it needs after its options are parsed, so that `--help` answers at once.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import json
import math
import os
from pathlib import Path
import signal
import sys
import threading
import types
from typing import Any, NoReturn

import pydantic

from gopd_jax.rewards.own import SPELLING
from gopd_jax.runtime.errors import NonFiniteError, Stopped
from gopd_jax.runtime.joining import leave, telling_the_others
from gopd_jax.runtime.progress import fitted, say, say_error, tell
from gopd_jax.runtime.schema import one_line

DONE, BAD_INPUT, NON_FINITE, SIGNALLED = 0, 2, 3, 128
JSON_HELP = "print the result as JSON on stdout, one object a line; the rest goes to stderr"
VERBOSE_HELP = "say which kernels are chosen and what is compiled"


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks and whose errors are one line.

    Options cannot be abbreviated. An error ends the process with exit status 2. Every command has
    --json.

    Args:
        renamed: earlier names of options, and what is given in their place.
        details: the command has --verbose.
        parts: it has parts with options of their own, --json and --verbose among them.
        kwargs: of `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        renamed: Mapping[str, str] = types.MappingProxyType({}),
        details: bool = False,
        parts: bool = False,
        **kwargs: Any,
    ):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)
        self._renamed = renamed
        if parts:
            return
        self.add_argument("--json", action="store_true", help=JSON_HELP)
        if details:
            self.add_argument("--verbose", action="store_true", help=VERBOSE_HELP)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        for argument in sys.argv[1:] if args is None else args:
            name, equals, _ = argument.partition("=")
            if name in self._renamed:
                self.error(f"{name} is not an option any more: expected {self._renamed[name]}")
            if name == "--json" and equals:
                self.error(f"{argument}: expected --json alone, which prints to stdout")
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "json"):
            tell(details=getattr(found, "verbose", False), as_json=found.json)
            for name in {"json", "verbose"} & set(vars(found)):
                delattr(found, name)
        return found, rest

    def format_help(self) -> str:
        return as_started(super().format_help())

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {' '.join(message.split())}; see --help\n")


def as_started(text: str) -> str:
    """The text with commands spelled `gopd NAME` if this process was started that way."""
    is_gopd = Path(sys.argv[0]).name == "gopd"
    return text.replace("python -m gopd_jax.", "gopd ") if is_gopd else text


def integer(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """The argparse type of an integer in [least, most]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            expected = f"expected an integer in [{least}, {most}]"
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")
        return value

    return parse


def rising(least: int) -> Callable[[str], list[int]]:
    """The argparse type of rising integers with commas between them, two or more, from `least`."""

    def parse(text: str) -> list[int]:
        try:
            values = [int(part) for part in text.split(",")]
        except ValueError:
            values = []
        if len(values) < 2 or values[0] < least or sorted(set(values)) != values:
            expected = (
                f"expected two or more rising integers >= {least}, such as {least},{2 * least}"
            )
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")
        return values

    return parse


def number(least: float = -math.inf) -> Callable[[str], float]:
    """The argparse type of a finite number >= `least`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= least):
            expected = "expected a finite number" + (f" >= {least:g}" if least > -math.inf else "")
            raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")
        return value

    return parse


def reward_option(*choices: str) -> Callable[[str], str]:
    """The argparse type of one of `choices`, or of a reward function "package.module:function"."""

    def parse(text: str) -> str:
        if text in choices or SPELLING.fullmatch(text):
            return text
        expected = f"expected {', '.join(choices)}, or package.module:function"
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")

    return parse


def positive_number(text: str) -> float:
    """The argparse type of a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: expected a finite number > 0")
    return value


def json_object(text: str) -> dict[str, Any]:
    """The argparse type of a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        expected = """expected a JSON object, such as '{"enable_thinking": true}'"""
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")
    return value


def run(
    command: Callable[..., object],
    *args: Any,
    stopped: str = "",
    bad_input: tuple[type[Exception], ...] = (ValueError, OSError),
) -> int:
    """Calls `command(*args)` and turns its outcome into an exit status.

    Args:
        command: does the work; its result is ignored.
        args: passed on to `command`, usually the parsed options.
        stopped: what follows "stopped by SIGTERM" or "stopped by Ctrl-C" when one of them ends the
            command where it stands.
        bad_input: exceptions that say what is wrong with the input. They become one line on
            stderr; any other exception is a defect of the program and keeps its traceback.

    Returns:
        0 when the work is done, 2 for bad input, 3 for numbers that are not finite, 130 after
        Ctrl-C, 143 after SIGTERM.
    """
    return leave(_status(command, args, stopped, bad_input))


def _status(
    command: Callable[..., object],
    args: Sequence[Any],
    stopped: str,
    bad_input: tuple[type[Exception], ...],
) -> int:
    try:
        with _raising_on_sigterm(), telling_the_others():
            command(*args)
    except bad_input as error:
        say_error(_one_line(error))
        return BAD_INPUT
    except NonFiniteError as error:
        say_error(_one_line(error))
        return NON_FINITE
    except KeyboardInterrupt:
        return _say_stopped(Stopped(signal.SIGINT), stopped)
    except Stopped as error:
        return _say_stopped(error, stopped)
    return DONE


@contextlib.contextmanager
def importing(stopped: str = "") -> Iterator[None]:
    """Within this context, for imports of JAX, Ctrl-C and SIGTERM end the process at once.

    An exception that a signal raises within its C++ modules aborts the process, or is lost.

    Args:
        stopped: as for `run`.
    """

    def end(number: int, frame: types.FrameType | None) -> None:
        os.write(2, f"{fitted(str(Stopped(number, stopped)))}\n".encode())
        os._exit(SIGNALLED + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive in the main thread
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    heard = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]
    old = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _say_stopped(error: Stopped, otherwise: str) -> int:
    say(str(error if error.message else Stopped(error.number, otherwise)))
    return SIGNALLED + error.number


@contextlib.contextmanager
def _raising_on_sigterm() -> Iterator[None]:
    """Within this context SIGTERM raises `Stopped`, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield  # signals arrive in the main thread
        return
    old = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def _one_line(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        return one_line(error)
    return " ".join(str(error).split()) or repr(error)
