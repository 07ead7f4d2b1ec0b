"""Is a program's answer the wanted one? Arithmetic on plain values that `wire.decode` made, and on text.

Comes in: what the program gave and what was wanted. Goes out: True or False. Objects of the program stay over there and come
here as `Remote`s, which equal no plain value, so nothing here asks the program.
"""

from decimal import Decimal, InvalidOperation
import math
from typing import Any

RELATIVE = 1e-7  # beside an absolute tolerance, as numpy.testing.assert_allclose has it


def same(got: Any, wanted: Any, atol: float = 0.0) -> bool:
    """Equality in which tuples count as lists, and a number may miss a wanted float by `atol` + 1e-7 of it, where atol > 0."""
    if isinstance(got, tuple):
        got = list(got)
    if isinstance(wanted, tuple):
        wanted = list(wanted)
    if isinstance(wanted, list):
        return (
            isinstance(got, list)
            and len(got) == len(wanted)
            and all(map(same, got, wanted, [atol] * len(wanted)))
        )
    if isinstance(wanted, dict) and isinstance(got, dict):
        return got.keys() == wanted.keys() and all(
            same(got[key], wanted[key], atol) for key in wanted
        )
    if isinstance(wanted, float) and math.isnan(wanted):
        return isinstance(got, float) and math.isnan(got)
    if atol > 0 and isinstance(wanted, float) and _number(got):
        return got == wanted or abs(got - wanted) <= atol + RELATIVE * abs(wanted)
    return type(got == wanted) is bool and got == wanted


def fits(got: Any, wanted: Any, arguments: list[Any], cases: dict[str, Any]) -> bool:
    """One case of "functions" (spec.py): `got` for `arguments`, where `wanted` is right."""
    how, atol = cases.get("compare", "equal"), cases.get("atol", 0.0)
    if how == "root":
        return (
            _number(got)
            and abs(sum(c * got**power for power, c in enumerate(arguments[0]))) <= atol
        )
    if how == "is_none":
        return (
            got == wanted
            if isinstance(got, bool) and isinstance(wanted, bool)
            else (got is None) == (wanted is None)
        )
    if how == "as_sets":
        return isinstance(got, (list, tuple, set, frozenset)) and set(got) == set(wanted)
    if same(got, wanted, atol):
        return True
    return (
        bool(cases.get("either"))
        and isinstance(wanted, list)
        and len(wanted) == 1
        and same(got, wanted[0], atol)
    )


def same_output(got: str, wanted: str, tolerance: float = 0.0) -> bool:
    """Line by line without outer blanks; a line is also right if its words are, as text or as decimal numbers.

    tolerance: absolute and relative, of numbers that are written with a point or an exponent.
    """
    got_lines, wanted_lines = (
        [line.strip() for line in text.strip().splitlines()] for text in (got, wanted)
    )
    if len(got_lines) != len(wanted_lines):
        return False
    return all(
        a == b or _same_words(a.split(), b.split(), tolerance)
        for a, b in zip(got_lines, wanted_lines, strict=True)
    )


def _same_words(got: list[str], wanted: list[str], tolerance: float) -> bool:
    return len(got) == len(wanted) and all(
        a == b or _same_number(a, b, tolerance) for a, b in zip(got, wanted, strict=True)
    )


def _same_number(got: str, wanted: str, tolerance: float) -> bool:
    if (
        max(len(got), len(wanted)) > 64
    ):  # no number anybody prints; and huge exponents take for ever
        return False
    try:
        a, b = Decimal(got), Decimal(wanted)
        if not a.is_finite() or not b.is_finite():
            return False
        if a == b:
            return True
        written = any(mark in wanted.lower() for mark in ".e")
        return (
            tolerance > 0
            and written
            and abs(float(a) - float(b)) <= tolerance * max(1.0, abs(float(b)))
        )
    except (InvalidOperation, OverflowError, ValueError):
        return False


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
