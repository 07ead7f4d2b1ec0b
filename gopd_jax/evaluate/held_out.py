"""Evaluation within a training run: avg@k of verified answers on held-out prompts.

In: an engine and weights, prompts, a verifier. Out: an `Evaluation`, with a 95% interval clustered
by prompt. If every model is given the same key, differences between models are paired.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
import itertools
import time
from typing import TypeVar

import jax
import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.data.verifying import item
from gopd_jax.evaluate.statistics import Estimate, difference, interval
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rewards.verifier import Verdict, Verifier
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.mixture import Mixture
from gopd_jax.runtime.processes import share, together
from gopd_jax.runtime.progress import Bar
from gopd_jax.types import EncodedPrompt, Params, Request, Rollout

T = TypeVar("T")
MOST_PENDING = 4  # batches that wait for the verifier, which may be slower than the engine


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one domain.

    by_prompt: mean reward of the samples of each prompt, in the order of the prompts.
    samples: k, the samples of each prompt.
    tokens: response tokens drawn.
    truncated: share of samples that were cut at the limit.
    seconds: wall clock.
    """

    by_prompt: tuple[float, ...]
    samples: int
    tokens: int
    truncated: float
    seconds: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.by_prompt))

    @property
    def estimate(self) -> Estimate:
        """The mean with its 95% interval."""
        return interval(self.by_prompt)

    @property
    def figures(self) -> dict[str, float]:
        """What files of a run hold besides the fields."""
        return self.estimate.figures


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields lists of up to `size` items, each as soon as it is full."""
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def paired_difference(a: Evaluation, b: Evaluation) -> Estimate:
    """Mean of a - b over the prompts, with its 95% interval."""
    return difference([(a.by_prompt, b.by_prompt)])


def evaluate(
    engine: RolloutEngine,
    weights: Params | Mixture,
    prompts: Sequence[EncodedPrompt],
    verify: Verifier,
    kind: str,
    tokenizer: ChatTokenizer,
    *,
    samples: int,
    max_tokens: int,
    rule: SamplingRule,
    key: jax.Array,
    name: str,
    seen: Callable[[Rollout], None] | None = None,
) -> Evaluation:
    """Draws samples of each prompt, and verifies finished ones while others are drawn.

    Each host verifies its share of them.

    Args:
        engine: draws the samples.
        weights: decode weights of the model, as the engine made them; or a mixture.
        prompts: the held-out prompts.
        verify: judges the answers.
        kind: of the verification, such as "math", or a reward function of the user.
        tokenizer: turns tokens into text.
        samples: k, the samples of each prompt.
        max_tokens: response limit.
        rule: the distribution that is drawn from.
        key: random key; the same one for every model that is compared.
        name: title of the progress bar.
        seen: called with each rollout.
    """
    start = time.perf_counter()
    requests = [Request(p, s, max_tokens) for p in prompts for s in range(samples)]
    index = {p.source.prompt_id: i for i, p in enumerate(prompts)}
    rewards = np.zeros(len(prompts))
    tokens = truncated = 0
    pending: deque[tuple[list[int], Future[list[Verdict]]]] = deque()

    def add_first() -> None:
        places, verdicts = pending.popleft()
        for place, verdict in zip(places, verdicts.result(), strict=True):
            rewards[place] += verdict.reward

    with Bar(name, len(requests), "samples") as bar, _one_thread() as thread:
        for batch in batched(engine(weights, requests, key, rule), engine.slots):
            mine = share(batch)
            items = [item(kind, r.request.prompt.source, tokenizer.decode(r.tokens)) for r in mine]
            places = [index[r.request.key.prompt_id] for r in mine]
            pending.append((places, thread.submit(verify, items)))
            for rollout in batch if seen else ():
                seen(rollout)
            tokens += sum(len(r.tokens) for r in batch)
            truncated += sum(r.truncated for r in batch)
            bar.advance(len(batch))
            if len(pending) > MOST_PENDING:
                add_first()
        while pending:
            add_first()
        rewards = sum(together(lambda: rewards))
    return Evaluation(
        by_prompt=tuple(float(r) / samples for r in rewards),
        samples=samples,
        tokens=tokens,
        truncated=truncated / len(requests),
        seconds=time.perf_counter() - start,
    )


@contextlib.contextmanager
def _one_thread() -> Iterator[ThreadPoolExecutor]:
    """A thread for the verifier; after an error, what it has not begun is dropped."""
    thread = ThreadPoolExecutor(1)
    try:
        yield thread
    finally:
        thread.shutdown(cancel_futures=True)
