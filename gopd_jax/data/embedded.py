"""The tasks of the embedded world, generated: integer arithmetic ("math") and small Python functions ("code").

math  "437+885"  ->  "2231 \\boxed{1322}": the digits of the result, least significant first (the order in which one adds),
      then the answer. Sums and differences of three-digit numbers. Verified by Math-Verify on the box.
code  "f(0,0)=12;f(1,0)=15;f(0,1)=16"  ->  "f=lambda x,y:3*x+4*y+12": a function that satisfies the examples. Verified by
      running it on the examples and on two hidden inputs.

Splits: train and test share no question. sft has more questions of train's kind, with their answers; in noisy many answers are
wrong: a base that learns from them knows how to answer and is often wrong, which leaves a teacher something to teach.
"""

from collections.abc import Iterator
import functools
import json
from typing import Any
import zlib

import numpy as np

SIZES = {
    "math": {"train": 16384, "test": 8192, "sft": 65536, "noisy": 16384},
    "code": {
        "train": 16384,
        "test": 4096,
        "sft": 65536,
        "noisy": 16384,
    },  # only 40,000 questions, one in eight held out
}
WRONG_SHARE = 0.4  # of the answers in noisy


def records(name: str, split: str) -> Iterator[dict[str, Any]]:
    """Rows of one split, the same in every run: {"prompt_id", "messages", "ground_truth"}; in sft and noisy also "response".

    Raises:
        ValueError: an unknown task or split.
    """
    if split not in SIZES.get(name, ()):
        raise ValueError(
            f"tiny:{name}/{split}: wanted one of {[f'tiny:{n}/{s}' for n in SIZES for s in SIZES[n]]}"
        )
    rng = np.random.default_rng(zlib.crc32(f"{name}/{split}".encode()))
    seen: set[str] = set()
    number = 0
    while number < SIZES[name][split]:
        question, answer = TASKS[name](rng)
        held_out = zlib.crc32(question.encode()) % 8 == 0
        if held_out != (split == "test") or (question in seen and split in ("train", "test")):
            continue
        row = {
            "prompt_id": f"{name}/{split}/{number:05d}",
            "messages": [{"role": "user", "content": question}],
            "ground_truth": answer.ground_truth(),
        }
        if split == "noisy" and rng.random() < WRONG_SHARE:
            answer = answer.spoiled(rng)
        if split in ("sft", "noisy"):
            row["response"] = answer.response()
        seen.add(question)
        number += 1
        yield row


@functools.lru_cache(maxsize=4)
def json_lines(name: str, split: str) -> bytes:
    """`records` as a file of JSON lines; kept, because a run asks for its content and for its fingerprint."""
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

    def spoiled(self, rng: np.random.Generator) -> "Number":
        """One digit is off; the box copies the working."""
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
        return json.dumps(
            {"entry_point": "f", "tests": [f"f({x},{y})=={self.at(x, y)}" for x, y in points]}
        )

    def response(self) -> str:
        a, b, c = self.written
        return f"f=lambda x,y:{a}*x+{b}*y+{c}"

    def spoiled(self, rng: np.random.Generator) -> "Function":
        """One coefficient is off."""
        written = list(self.coefficients)
        where = rng.integers(3)
        limit = 100 if where == 2 else 20
        written[where] = int(rng.choice([v for v in range(limit) if v != written[where]]))
        return Function(*self.coefficients, tuple(written))


def _arithmetic(rng: np.random.Generator) -> tuple[str, Number]:
    a, b = (int(x) for x in rng.integers(100, 1000, 2))
    if rng.random() < 0.5:
        return f"{a}+{b}", Number(a + b)
    return f"{max(a, b)}-{min(a, b)}", Number(abs(a - b))


def _function(rng: np.random.Generator) -> tuple[str, Function]:
    a, b, c = int(rng.integers(0, 20)), int(rng.integers(0, 20)), int(rng.integers(0, 100))
    f = Function(a, b, c)
    return f"f(0,0)={c};f(1,0)={a + c};f(0,1)={b + c}", f


TASKS = {"math": _arithmetic, "code": _function}
