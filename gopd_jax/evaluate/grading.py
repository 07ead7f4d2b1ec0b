r"""Finished samples -> records with a verdict, while others are drawn; and which wrong answers are the same one.

In: rollouts and a `Verifier`. Out: dicts, one a sample, as `evaluate` writes them. Verifying is done in worker processes; the
thread here only waits for them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
import itertools
import queue
import re
import threading
from types import TracebackType
from typing import Any

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.evaluate.statistics import majority
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.rewards import code, math
from gopd_jax.rewards.verifier import Verdict, Verifier
from gopd_jax.types import Rollout

AT_ONCE = 64  # samples handed to the verifier together
LONGEST_NUMBER = 1000  # characters; Python refuses to read numbers of more than 4,300 digits
NO_ANSWER = Verdict(0.0, "no answer")
_LATEX_NOISE = re.compile(r"\\left|\\right|\\displaystyle|\\[,!;: ]|[\s$]|\{,\}")
_PLAIN = re.compile(r"[+-]?(\d+|\d{1,3}(,\d{3})+)(\.\d+)?")
_FRACTION = re.compile(r"([+-]?)\\frac\{(\d+)\}\{(\d+)\}|([+-]?)(\d+)/(\d+)")


def answer_of(kind: str, text: str) -> str | None:
    """What the verifier judges in a response: the last box, or the program; None where there is none, or it is blank."""
    answer = math.last_boxed(text) if kind == "math" else code.extract_program(text)
    return answer if answer and answer.strip() else None


class Grader:
    """A context manager that verifies samples in the order they come in, and writes each with its verdict.

    Leaving it waits for the samples taken so far, interrupted or not, and raises what went wrong with one of them.
    """

    def __init__(
        self,
        verify: Verifier,
        tokenizer: ChatTokenizer,
        benchmarks: Sequence[Benchmark],
        write: Callable[[dict[str, Any]], None],
    ):
        self._verify, self._tokenizer, self._write = verify, tokenizer, write
        self._kinds = {b.name: b.reward for b in benchmarks}
        self._queue: queue.SimpleQueue[Rollout | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def take(self, rollout: Rollout) -> None:
        if self._error is not None:
            raise self._error
        self._queue.put(rollout)

    def __enter__(self) -> "Grader":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._error is not None and kind is None:
            raise self._error

    def _work(self) -> None:
        try:
            while part := self._next():
                self._grade(part)
        except BaseException as error:
            self._error = error

    def _next(self) -> list[Rollout]:
        """The samples that wait, at least one; an empty list at the end."""
        part = [self._queue.get()]
        while part[-1] is not None and len(part) < AT_ONCE and not self._queue.empty():
            part.append(self._queue.get())
        if part[-1] is None and len(part) > 1:
            self._queue.put(part.pop())
        return [r for r in part if r is not None]

    def _grade(self, part: Sequence[Rollout]) -> None:
        records, items = [], {}
        for rollout in part:
            prompt = rollout.request.prompt.source
            text, kind = self._tokenizer.decode(rollout.tokens), self._kinds[prompt.domain]
            answer = answer_of(kind, text)
            if answer is not None:
                items[len(records)] = (kind, text, prompt.ground_truth)
            records.append(
                {
                    "benchmark": prompt.domain,
                    "prompt_id": prompt.prompt_id,
                    "sample_id": rollout.request.sample_id,
                    "text": text,
                    "tokens": len(rollout.tokens),
                    "finish_reason": rollout.finish_reason,
                    "answer": answer,
                }
            )
        verdicts = dict(zip(items, self._verify(list(items.values())), strict=True))
        for i, record in enumerate(records):
            verdict = verdicts.get(i, NO_ANSWER)
            self._write(record | {"reward": verdict.reward, "verdict": verdict.detail})


# ---- Majority: right answers are one group, equal to the truth; the wrong ones have to be told apart.


def vote(correct: int, wrong: Sequence[str], verify: Verifier) -> float:
    """`statistics.majority` of the answers to one math problem.

    Wrong answers are the same one where their text is, spacing and \\left aside, or their number, or Math-Verify finds them
    equal; it is asked only where it can change the outcome.
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
    sizes: Counter[str | Fraction] = Counter()
    for key, count in counts.items():
        sizes[group[key]] += count
    return majority(correct, list(sizes.values()))


def _key(answer: str) -> str | Fraction:
    """An exact number where the answer is plainly one, else its text without what does not show."""
    text = (
        _LATEX_NOISE.sub("", answer).replace("dfrac", "frac").replace("tfrac", "frac").rstrip(".")
    )
    if len(text) > LONGEST_NUMBER:
        return text
    if _PLAIN.fullmatch(text):
        return Fraction(text.replace(",", ""))
    if (match := _FRACTION.fullmatch(text)) and int(match[3] or match[6]):
        return Fraction(
            int((match[1] or match[4] or "") + (match[2] or match[5])), int(match[3] or match[6])
        )
    return text
