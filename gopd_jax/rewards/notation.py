r"""Rewrites math answers whose notation Math-Verify 0.9 misreads or does not compare.

Comes in: the contents of a box, or what Math-Verify read in one. Goes out: the same mathematics,
written in a form that it reads and compares. Does not judge, with one exception: numerals of
different bases and residues of different moduli are told apart here.

sympy is imported inside functions, for the reason given in `math.py`.
"""

from fractions import Fraction
import re
from typing import Any
import unicodedata

Read = list[Any]  # what Math-Verify reads in an answer: sympy objects, then the text

_NUMBER = r"-?\d+(?:\.\d+)?"
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[,;:! ]|~|\s)\d{3})+(?!\d)")  # 10\,000
_REPEATING = re.compile(r"(\d*)\.(\d*)\\overline\{(\d+)\}")
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*(?:\{([^{}]*)\}|(\d))"
    r"|\(\s*(?:\\(?:text|mathrm)\{\s*mod\s*\}|\\bmod|\\mod)\s*([^()]*)\))\s*$"
)
_BASE = re.compile(r"^[0-9A-Za-z]+_(?:\{(?:\\text\{)?(\w+)\}?\}|(\d+))$")
_VARIANT_LETTER = re.compile(r"\\var(epsilon|phi|theta|rho|sigma|pi|kappa)(?![A-Za-z])")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # as in East Asian text
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_VULGAR_FRACTION = re.compile("[¼-¾⅐-⅞]")
# As programs print numbers. Longer exponents would only take time.
_SCIENTIFIC = re.compile(r"^\s*([+-]?(?:\d+\.?\d*|\.\d+))[eE]([+-]?\d{1,3})\s*$", re.ASCII)
_REPLACEMENTS = (
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (_VARIANT_LETTER, r"\\\1"),  # the same letter in another shape
    (re.compile(r"(?:\\left)?\\langle(?![A-Za-z])"), "("),  # vectors
    (re.compile(r"(?:\\right)?\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"[£€¥]\s*(?=\d)"), ""),
    (re.compile(rf"^\s*({_NUMBER})\s*=\s*([A-Za-z])\s*$"), r"\2 = \1"),
    (re.compile(r"(?<=[^.\s])\s*\.\s*$"), ""),  # the full stop of the sentence
)


def plain(answer: str) -> str:
    r"""The answer in notation that Math-Verify reads.

    Removes what serves only the looks, such as grouped thousands and a full stop, and writes \pm as
    two values.
    """
    answer = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", _ascii(answer))
    answer = _GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), answer)
    for pattern, replacement in _REPLACEMENTS:
        answer = pattern.sub(replacement, answer)
    answer = _REPEATING.sub(_fraction, _MODULUS.sub("", answer))
    if answer.count(r"\pm") == 1 and r"\mp" not in answer and "{" in answer.partition(r"\pm")[0]:
        answer = ", ".join(answer.replace(r"\pm", sign) for sign in "+-")
    return answer


def _ascii(answer: str) -> str:
    """The answer with the digits that Unicode writes in other shapes as LaTeX."""
    answer = answer.translate(_FULL_WIDTH)
    answer = _RAISED.sub(lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", answer)
    return _VULGAR_FRACTION.sub(_vulgar_fraction, answer)


def _vulgar_fraction(match: re.Match) -> str:
    numerator, denominator = unicodedata.normalize("NFKC", match[0]).split("⁄")
    return rf"\frac{{{numerator}}}{{{denominator}}}"


def _fraction(match: re.Match) -> str:
    r"""A repeating decimal as a fraction: 0.1\overline{6} as \frac{1}{6}."""
    whole, fixed, repeated = match.groups()
    value = int(whole + fixed or 0) + Fraction(int(repeated), 10 ** len(repeated) - 1)
    value /= 10 ** len(fixed)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def differ(answer: str, truth: str) -> bool:
    """Whether both name a base, or both a modulus, and these are not the same."""
    for pattern in (_BASE, _MODULUS):
        named = [
            next(filter(None, m.groups()), "")
            for text in (answer, truth)
            if (m := pattern.search(text.strip()))
        ]
        if len(named) == 2 and named[0].strip() != named[1].strip():
            return True
    return False


def with_imaginary_unit(truth: Read, answer: Read) -> tuple[Read, Read] | None:
    """Both answers with the symbol i replaced by the imaginary unit.

    Math-Verify reads i as a symbol in some places and as the unit in others.

    Returns:
        Both, or None if neither holds the symbol.
    """
    import sympy  # deferred, see above

    def replaced(read: Read) -> Read:
        objects = [x for x in read if isinstance(x, (sympy.Basic, sympy.MatrixBase))]
        return [x.subs({s: sympy.I for s in x.free_symbols if s.name == "i"}) for x in objects]

    try:
        pair = replaced(truth), replaced(answer)
    except (TypeError, ValueError):  # such as x > i
        return None
    return None if pair == (truth[: len(pair[0])], answer[: len(pair[1])]) else pair


def as_sets(truth: Read, answer: Read) -> tuple[Read, Read] | None:
    """Both answers as the sets of numbers that they describe.

    Returns:
        Both, or None unless each is an inequality or a set, at least one is an inequality, and all
        inequalities have the same one unknown.
    """
    # Deferred, see above.
    import sympy
    from sympy.logic.boolalg import And, Or

    inequality = (And, Or, sympy.Ne, sympy.Gt, sympy.Ge, sympy.Lt, sympy.Le)
    both = [
        read[0]
        for read in (truth, answer)
        if read and isinstance(read[0], (*inequality, sympy.Set))
    ]
    unknowns = {s for side in both if isinstance(side, inequality) for s in side.free_symbols}
    if len(both) != 2 or len(unknowns) != 1:
        return None
    try:
        sets = [side.as_set() if isinstance(side, inequality) else side for side in both]
    except (NotImplementedError, TypeError, ValueError):  # such as sin(x) > x
        return None
    return [sets[0]], [sets[1]]
