"""Evaluation: avg@k of verified answers on held-out prompts, with a 95% interval clustered by prompt.

In: an engine and weights, prompts, a verifier. Out: an `Evaluation`. The same keys for every model, so that differences
between models are paired.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools
import time
from typing import Any

import jax
import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.evaluate.statistics import Z95, interval
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.progress import Bar
from gopd_jax.types import EncodedPrompt, Request

__all__ = ["Z95", "Evaluation", "batched", "evaluate", "interval", "paired_difference"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of one model on one domain.

    by_prompt: mean reward of the k samples of each prompt, in the order of the prompts. tokens: response tokens drawn.
    truncated: share of samples cut at the limit. seconds: wall clock.
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
    def half_width(self) -> float:
        return interval(self.by_prompt)[1]


def batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of up to `size` items, each as soon as it is full."""
    while part := list(itertools.islice(items, size)):
        yield part


def paired_difference(a: Evaluation, b: Evaluation) -> tuple[float, float]:
    """Mean of a - b over prompts and the half width of its 95% interval."""
    return interval(np.asarray(a.by_prompt) - np.asarray(b.by_prompt))


def evaluate(
    engine: RolloutEngine,
    weights: Any,
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
) -> Evaluation:
    """Draws `samples` answers to each prompt and verifies them while others are drawn; `name` labels the progress bar."""
    start = time.perf_counter()
    requests = [Request(p, s, max_tokens) for p in prompts for s in range(samples)]
    number = {p.source.prompt_id: i for i, p in enumerate(prompts)}
    rewards = np.zeros(len(prompts))
    tokens = truncated = 0
    with Bar(name, len(requests), "samples") as bar:
        for part in batched(engine(weights, requests, key, rule), engine.slots):
            texts = [tokenizer.decode(r.tokens) for r in part]
            verdicts = verify(
                [
                    (kind, t, r.request.prompt.source.ground_truth)
                    for t, r in zip(texts, part, strict=True)
                ]
            )
            for rollout, verdict in zip(part, verdicts, strict=True):
                rewards[number[rollout.request.key.prompt_id]] += verdict.reward / samples
                tokens += len(rollout.tokens)
                truncated += rollout.truncated
            bar.advance(len(part))
    share = truncated / len(requests)
    return Evaluation(
        tuple(float(r) for r in rewards), samples, tokens, share, time.perf_counter() - start
    )
