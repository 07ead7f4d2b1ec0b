r"""Finished samples -> records with a verdict, while others are drawn.

In: rollouts and a `Verifier`. Out: dicts, one for each sample, as `gopd_jax.evaluate` writes them.
Worker processes verify; the thread here only waits for them.
"""

from collections.abc import Callable, Sequence
import queue
import threading
from types import TracebackType
from typing import Any

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.data.verifying import item
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.rewards import code, math
from gopd_jax.rewards.own import is_own
from gopd_jax.rewards.verifier import Item, Verdict, Verifier
from gopd_jax.types import Rollout

BATCH = 64  # most samples handed to the verifier together
NO_ANSWER = Verdict(0.0, "no answer")


def answer_of(kind: str, text: str) -> str | None:
    r"""What the verifier judges in a response: the last \boxed{}, or the program.

    Returns:
        The answer; None if there is none or it is blank. A reward function of the user judges the
        whole text, whatever it is.
    """
    if is_own(kind):
        return text
    answer = math.last_boxed(text) if kind == "math" else code.extract_program(text)
    return answer if answer and answer.strip() else None


class Grader:
    """Verifies samples in the order they come in and writes each with its verdict.

    A context manager: leaving it waits for the samples taken so far, and raises what went wrong
    with one of them unless another exception is on its way.

    Args:
        verify: judges the answers.
        tokenizer: turns tokens into text.
        benchmarks: decide the kind of verification.
        write: called with the record of each sample, from the thread of this class.
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
        """Hands over a finished sample; raises what went wrong with an earlier one."""
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
            while batch := self._next():
                self._grade(batch)
        except BaseException as error:  # raised again in the thread of the command
            self._error = error

    def _next(self) -> list[Rollout]:
        """The samples that wait, at least one; an empty list at the end."""
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < BATCH and not self._queue.empty():
            batch.append(self._queue.get())
        if batch[-1] is None and len(batch) > 1:
            self._queue.put(batch.pop())  # the end, for the next call
        return [rollout for rollout in batch if rollout is not None]

    def _grade(self, batch: Sequence[Rollout]) -> None:
        records: list[dict[str, Any]] = []
        items: dict[int, Item] = {}  # what is verified, by position in `records`
        for rollout in batch:
            prompt = rollout.request.prompt.source
            text, kind = self._tokenizer.decode(rollout.tokens), self._kinds[prompt.domain]
            answer = answer_of(kind, text)
            if answer is not None:
                items[len(records)] = item(kind, prompt, text)
            prompt_id, sample_id = rollout.request.key
            records.append(
                {
                    "benchmark": prompt.domain,
                    "prompt_id": prompt_id,
                    "sample_id": sample_id,
                    "text": text,
                    "tokens": len(rollout.tokens),
                    "finish_reason": rollout.finish_reason,
                    "answer": answer,
                }
            )
        verdicts = dict(zip(items, self._verify(list(items.values())), strict=True))
        for i, record in enumerate(records):
            verdict = verdicts.get(i, NO_ANSWER)
            metrics = {"reward_metrics": verdict.metrics} if verdict.metrics else {}
            self._write(record | {"reward": verdict.reward, "verdict": verdict.detail} | metrics)
