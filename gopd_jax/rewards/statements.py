r"""Refuses math answers that Math-Verify 0.9 finds equal to the truth and that are not right.

Comes in: an answer's text, or what Math-Verify read in it and in the truth. Goes out: whether the
answer states a falsehood, such as `1=2`, or is a rounded number with too few digits.

sympy is imported inside functions, for the reason given in `math.py`.
"""

from collections.abc import Callable
from itertools import pairwise
import re
from typing import Any

from gopd_jax.rewards.notation import Read

SIX_DIGITS = 5e-6  # the relative error of a number that is rounded to six digits, at most
_EXACT = 1e-9  # relative; expressions are compared by their values
_RELATION = re.compile(r"\s*(:?=+|\\approx(?![A-Za-z]))\s*")
_DECIMAL = re.compile(r"[+-]?\d+(?:\.(\d*))?", re.ASCII)
# Numbers and what is computed from them. Units, percentages and numerals of other bases are left
# alone, because 1 km = 1000 m.
_NUMERIC = re.compile(
    r"(?:[\d\s.,+\-*/^(){}!]|\\(?:[dt]?frac|sqrt|pi|cdot|times|left|right)(?![A-Za-z])|\\[,;:! ])+",
    re.ASCII,
)


def is_false(answer: str, parse: Callable[[str], Read]) -> bool:
    r"""Whether the answer states that two numbers are equal, or nearly so, which are not.

    A decimal may be rounded or cut off: `\pi = 3.14` and `\pi \approx 3` are true, and
    `3 \approx 2` is false.

    Args:
        answer: the contents of a box.
        parse: reads one side.
    """
    sides = _RELATION.split(answer)
    return any(
        _differ(left, right, relation, parse)
        for (left, relation), (right, _) in pairwise(
            zip(sides[::2], [*sides[1::2], ""], strict=True)
        )
    )


def differ_in_six_digits(truth: Read, answer: Read) -> bool:
    """Whether both are numbers that differ in their first six digits.

    Math-Verify rounds to six decimals instead, so that 0.0000001 equals 1/30,000,000 there.
    """
    values = [_number(read) for read in (truth, answer)]
    return None not in values and not _near(*values, SIX_DIGITS)


def _differ(left: str, right: str, relation: str, parse: Callable[[str], Read]) -> bool:
    if not _NUMERIC.fullmatch(left) or not _NUMERIC.fullmatch(right):
        return False
    values = [_number(parse(side)) for side in (left, right)]
    if None in values or _near(*values, _EXACT):
        return False
    units = [_last_place(side, relation) for side in (left, right)]
    return not bool(abs(values[0] - values[1]).evalf() < max(units))


def _last_place(side: str, relation: str) -> float:
    """The value of one in the last place of a numeral that may have been rounded; otherwise 0."""
    decimal = _DECIMAL.fullmatch(side.strip())
    if decimal is None or (decimal[1] is None and "approx" not in relation):
        return 0.0
    return 10.0 ** -len(decimal[1] or "")


def _number(read: Read) -> Any | None:
    """The finite real number that was read; None for anything else."""
    import sympy  # deferred, see above

    value = read[0] if read else None
    is_number = isinstance(value, sympy.Expr) and value.is_number
    return value if is_number and value.is_real and value.is_finite else None


def _near(a: Any, b: Any, tolerance: float) -> bool:
    """Whether `a` is `b`, or differs from it by at most `tolerance * abs(b)`."""
    import sympy  # deferred, see above

    if a == b:
        return True
    if isinstance(a, sympy.Integer) and isinstance(b, sympy.Integer):
        return False
    if bool(abs(a - b).evalf() <= tolerance * abs(b).evalf()):
        return True
    return (a - b).equals(0) is True  # such as \sqrt{2}^2 - 2 and 0
