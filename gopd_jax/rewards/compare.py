"""Decides whether a program's answer equals the expected one.

Comes in: what the program gave, as plain values that `wire.decode` made or as text, and what is
expected. Goes out: True or False. Objects of the program are `Remote`s here, which equal no plain
value, so nothing in this module asks the program.
"""

from decimal import Decimal, InvalidOperation
from itertools import repeat
import math
from typing import Any

RELATIVE = 1e-7  # beside an absolute tolerance, as in numpy.testing.assert_allclose
MAX_NUMBER_CHARACTERS = 64  # longer ones are not plausible, and huge exponents take forever


def same(got: Any, expected: Any, atol: float = 0.0) -> bool:
    """Equality in which tuples count as lists.

    Args:
        got: the program's value.
        expected: the right value.
        atol: where it is positive, a number may differ from an expected float by
            `atol + 1e-7 * abs(expected)`.
    """
    if isinstance(got, tuple):
        got = list(got)
    if isinstance(expected, tuple):
        expected = list(expected)
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(map(same, got, expected, repeat(atol)))
        )
    if isinstance(expected, dict) and isinstance(got, dict):
        return got.keys() == expected.keys() and all(
            same(got[key], expected[key], atol) for key in expected
        )
    if isinstance(expected, float) and math.isnan(expected):
        return isinstance(got, float) and math.isnan(got)
    if atol > 0 and isinstance(expected, float) and _is_number(got):
        return got == expected or abs(got - expected) <= atol + RELATIVE * abs(expected)
    return type(got == expected) is bool and got == expected


def fits(got: Any, expected: Any, arguments: list[Any], cases: dict[str, Any]) -> bool:
    """Whether `got` is right for one case of "functions" (`spec.check_functions`).

    Args:
        got: the program's value.
        expected: the right value.
        arguments: the arguments of the call.
        cases: the specification, which says how to compare.
    """
    how, atol = cases.get("compare", "equal"), cases.get("atol", 0.0)
    if how == "root":
        if not _is_number(got):
            return False
        value = sum(c * got**power for power, c in enumerate(arguments[0]))
        return abs(value) <= atol
    if how == "is_none":
        if isinstance(got, bool) and isinstance(expected, bool):
            return got == expected
        return (got is None) == (expected is None)
    if how == "as_sets":
        return isinstance(got, (list, tuple, set, frozenset)) and set(got) == set(expected)
    if same(got, expected, atol):
        return True
    is_single = isinstance(expected, list) and len(expected) == 1
    return bool(cases.get("either")) and is_single and same(got, expected[0], atol)


def same_output(got: str, expected: str, tolerance: float = 0.0) -> bool:
    """Compares the output of a script line by line, without blanks at the ends.

    A line is also right if its words are, as text or as decimal numbers.

    Args:
        got: the program's output.
        expected: the right output.
        tolerance: absolute and relative; it applies to numbers that are written with a point or an
            exponent.
    """
    got_lines, expected_lines = (
        [line.strip() for line in text.strip().splitlines()] for text in (got, expected)
    )
    return len(got_lines) == len(expected_lines) and all(
        a == b or _same_words(a.split(), b.split(), tolerance)
        for a, b in zip(got_lines, expected_lines, strict=True)
    )


def _same_words(got: list[str], expected: list[str], tolerance: float) -> bool:
    return len(got) == len(expected) and all(
        a == b or _same_number(a, b, tolerance) for a, b in zip(got, expected, strict=True)
    )


def _same_number(got: str, expected: str, tolerance: float) -> bool:
    if max(len(got), len(expected)) > MAX_NUMBER_CHARACTERS:
        return False
    try:
        a, b = Decimal(got), Decimal(expected)
        if not a.is_finite() or not b.is_finite():
            return False
        if a == b:
            return True
        is_written_as_float = any(mark in expected.lower() for mark in ".e")
        if tolerance <= 0 or not is_written_as_float:
            return False
        return abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(b)))
    except (InvalidOperation, OverflowError, ValueError):
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
