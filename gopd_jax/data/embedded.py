r"""The embedded tasks as data sets: arithmetic ("math", "steps"), small Python functions ("code").

In: the NAME and SPLIT of a source "tiny:NAME/SPLIT". Out: its rows, generated, the same every time.
Does not read files.

math  "437+885" -> "2231 \boxed{1322}": the digits of the result, least significant first (the order
      in which one adds), then the answer. Sums and differences of three-digit numbers, verified by
      Math-Verify on the box.
code  "f(0,0)=12;f(1,0)=15;f(0,1)=16" -> "f=lambda x,y:3*x+4*y+12": a function that satisfies the
      examples, verified by running it on the examples and on two hidden inputs.
steps "47+8-6+9" -> "47+8=55-6+9=58 \boxed{58}": two to six numbers, and running totals up to the
      answer. A total may be left out, which makes the next one harder, and some answers work
      everything out twice, so that answers to one question differ in length. Wrong ones have one
      wrong total, on which the rest builds, and leave more out. Verified like math.

Splits: "train" and "test" share no question. "sft" has more questions like those of "train", with
their answers. In "noisy" many answers are wrong: a base model trained on them knows how to answer
and is often wrong, which leaves a teacher something to teach. In "hinted" half of the questions end
in their answer ("437+885=1322") and are answered right; the others are like those of "noisy".
"""

from collections.abc import Iterator, Sequence
import functools
import json
from typing import NotRequired, TypedDict
import zlib

import numpy as np

from gopd_jax.data.messages import Message

SIZES = {
    "math": {"train": 16384, "test": 8192, "sft": 65536, "noisy": 16384, "hinted": 32768},
    # There are only 40,000 questions; one in eight is a test question.
    "code": {"train": 16384, "test": 4096, "sft": 65536, "noisy": 16384},
    "steps": {"train": 16384, "test": 8192, "sft": 65536, "noisy": 16384},
}
# Task -> the kind of its reward.
REWARDS = {"math": "math", "code": "code", "steps": "math"}
WRONG_SHARE = 0.4  # share of the answers in "noisy" that are wrong
HINTED_SHARE = 0.5  # share of the questions in "hinted" that end in their answer

# The given answers of "steps": half of them write every running total, the others each with this
# probability; this share works everything out twice.
WRITTEN = 0.4
TWICE = 0.12


class EmbeddedRow(TypedDict):
    """One row; "response" is in the splits "sft", "noisy" and "hinted" only."""

    prompt_id: str
    messages: list[Message]
    ground_truth: str
    response: NotRequired[str]


def records(name: str, split: str) -> Iterator[EmbeddedRow]:
    """Yields the rows of one split, the same every time.

    Raises:
        ValueError: an unknown task or split.
    """
    if split not in SIZES.get(name, ()):
        choices = [f"tiny:{n}/{s}" for n in SIZES for s in SIZES[n]]
        raise ValueError(f"tiny:{name}/{split}: expected one of {choices}")
    rng = np.random.default_rng(zlib.crc32(f"{name}/{split}".encode()))
    seen: set[str] = set()
    number = 0
    while number < SIZES[name][split]:
        question, answer = TASKS[name](rng)
        held_out = zlib.crc32(question.encode()) % 8 == 0
        if held_out != (split == "test") or (question in seen and split in ("train", "test")):
            continue
        hinted = split == "hinted" and rng.random() < HINTED_SHARE
        asked = f"{question}={answer.ground_truth()}" if hinted else question
        row = EmbeddedRow(
            prompt_id=f"{name}/{split}/{number:05d}",
            messages=[{"role": "user", "content": asked}],
            ground_truth=answer.ground_truth(),
        )
        if split in ("noisy", "hinted") and not hinted and rng.random() < WRONG_SHARE:
            answer = answer.corrupted(rng)
        if split in ("sft", "noisy", "hinted"):
            row["response"] = answer.response()
        seen.add(question)
        number += 1
        yield row


@functools.lru_cache(maxsize=4)
def json_lines(name: str, split: str) -> bytes:
    """Returns `records` as the content of a file of JSON lines.

    It is cached, because a run asks for the content and for its fingerprint.
    """
    return b"".join(json.dumps(row).encode() + b"\n" for row in records(name, split))


class Number:
    """An integer answer, worked out digit by digit from the right."""

    def __init__(self, value: int, digits: str | None = None):
        self.value = value
        self.digits = digits or str(value)[::-1]

    def ground_truth(self) -> str:
        return str(self.value)

    def response(self) -> str:
        return f"{self.digits} \\boxed{{{self.digits[::-1]}}}"

    def corrupted(self, rng: np.random.Generator) -> "Number":
        """Returns the answer with one wrong digit, in the working and in the box."""
        where = rng.integers(len(self.digits))
        low = 1 if where == len(self.digits) - 1 and len(self.digits) > 1 else 0  # no leading zero
        others = [d for d in "0123456789"[low:] if d != self.digits[where]]
        digits = self.digits[:where] + str(rng.choice(others)) + self.digits[where + 1 :]
        return Number(self.value, digits)


class Function:
    """A linear function of two integers, found from three of its values."""

    def __init__(self, a: int, b: int, c: int, written: tuple[int, int, int] | None = None):
        self.coefficients = (a, b, c)
        self.written = written or self.coefficients

    def at(self, x: int, y: int) -> int:
        a, b, c = self.coefficients
        return a * x + b * y + c

    def ground_truth(self) -> str:
        points = ((0, 0), (1, 0), (0, 1), (2, 3), (7, 5))
        tests = [f"f({x},{y})=={self.at(x, y)}" for x, y in points]
        return json.dumps({"entry_point": "f", "tests": tests})

    def response(self) -> str:
        a, b, c = self.written
        return f"f=lambda x,y:{a}*x+{b}*y+{c}"

    def corrupted(self, rng: np.random.Generator) -> "Function":
        """Returns the answer with one wrong coefficient."""
        written = list(self.coefficients)
        where = rng.integers(3)
        limit = 100 if where == 2 else 20
        written[where] = int(rng.choice([v for v in range(limit) if v != written[where]]))
        return Function(*self.coefficients, tuple(written))


class Chain:
    """A sum of several terms, worked out from left to right.

    Args:
        terms: the numbers with their signs.
        written: for each term after the first, whether the total up to it is written.
        repeats: how often the working is written.
        slips: for each term after the first, what is added to the total by mistake.
    """

    def __init__(
        self,
        terms: Sequence[int],
        written: Sequence[bool],
        repeats: int,
        slips: Sequence[int] | None = None,
    ):
        self.terms, self.written, self.repeats = terms, written, repeats
        self.slips = slips or [0] * len(written)

    def question(self) -> str:
        return f"{self.terms[0]}" + "".join(f"{term:+d}" for term in self.terms[1:])

    def ground_truth(self) -> str:
        return str(sum(self.terms))

    def response(self) -> str:
        total, working = self.terms[0], f"{self.terms[0]}"
        for term, is_written, slip in zip(self.terms[1:], self.written, self.slips, strict=True):
            total += term + slip
            working += f"{term:+d}" + (f"={total}" if is_written else "")
        return f"{';'.join([working] * self.repeats)} \\boxed{{{total}}}"

    def corrupted(self, rng: np.random.Generator) -> "Chain":
        """Returns the answer with one wrong total; those after it follow from it.

        Whoever slips is in a hurry: a total is written with the probability WRITTEN.
        """
        written = _written(rng, len(self.written), WRITTEN)
        where = int(rng.choice(np.flatnonzero(written)))
        totals = np.cumsum(self.terms)[1 + where :]
        slips = [s for s in range(-9, 10) if s and 0 < min(totals) + s and max(totals) + s < 100]
        chosen = [0] * len(written)
        chosen[where] = int(rng.choice(slips))
        return Chain(self.terms, written, self.repeats, chosen)


def _arithmetic(rng: np.random.Generator) -> tuple[str, Number]:
    a, b = (int(x) for x in rng.integers(100, 1000, 2))
    if rng.random() < 0.5:
        return f"{a}+{b}", Number(a + b)
    return f"{max(a, b)}-{min(a, b)}", Number(abs(a - b))


def _function(rng: np.random.Generator) -> tuple[str, Function]:
    a, b, c = int(rng.integers(0, 20)), int(rng.integers(0, 20)), int(rng.integers(0, 100))
    return f"f(0,0)={c};f(1,0)={a + c};f(0,1)={b + c}", Function(a, b, c)


def _chain(rng: np.random.Generator) -> tuple[str, Chain]:
    terms = [total := int(rng.integers(10, 100))]
    for _ in range(rng.integers(1, 6)):
        term = int(rng.integers(1, 10)) * int(rng.choice([-1, 1]))
        term = term if 0 < total + term < 100 else -term
        terms.append(term)
        total += term
    share = 1.0 if rng.random() < 0.5 else WRITTEN
    written = _written(rng, len(terms) - 1, share)
    chain = Chain(terms, written, 2 if rng.random() < TWICE else 1)
    return chain.question(), chain


def _written(rng: np.random.Generator, totals: int, share: float) -> list[bool]:
    """Which totals are written: the last one, and each other with a probability."""
    return [*(bool(rng.random() < share) for _ in range(totals - 1)), True]


TASKS = {"math": _arithmetic, "code": _function, "steps": _chain}
