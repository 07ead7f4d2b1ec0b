r"""majority@k of one math problem: which of its answers are the same, and which group wins.

In: the number of right answers and the texts of the wrong ones. Out: the score of the vote. The
right answers are one group, equal to the truth; the wrong ones have to be told apart, by their text
or number, else by the verifier.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
import itertools
import re

from gopd_jax.evaluate.statistics import majority
from gopd_jax.rewards.verifier import Verifier

LONGEST_NUMBER = 1000  # characters; Python refuses to read numbers of more than 4,300 digits

Key = str | Fraction

_LATEX_NOISE = re.compile(r"\\left|\\right|\\displaystyle|\\[,!;: ]|[\s$]|\{,\}")
_PLAIN = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
_FRACTION = re.compile(r"([+-]?)\\frac\{(\d+)\}\{(\d+)\}|([+-]?)(\d+)/(\d+)")


def vote(correct: int, wrong: Sequence[str], verify: Verifier) -> float:
    r"""`statistics.majority` of the answers to one math problem.

    Two wrong answers are the same if their texts are, apart from spacing and \left, or their
    numbers, or if Math-Verify finds them equal. It is asked only where it can change the outcome.

    Args:
        correct: number of right answers.
        wrong: the wrong answers.
        verify: compares wrong answers.
    """
    written = {_key(answer): answer for answer in wrong}
    counts = Counter(_key(answer) for answer in wrong)
    if correct == 0 or correct > len(wrong) or correct < max(counts.values()):
        return majority(correct, list(counts.values()))
    pairs = [
        (a, b)
        for a, b in itertools.combinations(counts, 2)
        if isinstance(a, str) or isinstance(b, str)
    ]
    verdicts = verify([("math", rf"\boxed{{{written[a]}}}", written[b]) for a, b in pairs])
    group = {key: key for key in counts}
    for (a, b), verdict in zip(pairs, verdicts, strict=True):
        if verdict.reward:
            old, new = group[b], group[a]
            group = {key: new if g == old else g for key, g in group.items()}
    sizes: Counter[Key] = Counter()
    for key, count in counts.items():
        sizes[group[key]] += count
    return majority(correct, list(sizes.values()))


def _key(answer: str) -> Key:
    """The exact number of an answer that is plainly one, else its text without invisible marks."""
    text = _LATEX_NOISE.sub("", answer)
    text = text.replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")
    if len(text) > LONGEST_NUMBER:
        return text
    if _PLAIN.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if match := _FRACTION.fullmatch(text):
        sign, numerator, denominator = match.groups()[:3] if match[3] else match.groups()[3:]
        if int(denominator):
            return Fraction(int(sign + numerator), int(denominator))
    return text
