"""One lambda of one domain: which models it needs, what is drawn from them, what is found.

In: the run's inputs, engines and verifiers. Out: a `Point`. Every lambda is drawn with the same
keys, so that differences are paired.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.evaluate.held_out import Evaluation, evaluate, paired_difference
from gopd_jax.generate.job import load_weights
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.settings import SamplingRule
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.mixture import MEASURES, Mixture
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.types import EncodedPrompt, Rollout


@dataclasses.dataclass(frozen=True)
class Point:
    """What is found at one lambda.

    evaluation: score, length and truncation.
    entropy, log_z: nats per token, means over all tokens drawn; see `rollout.mixture.MEASURES`.
    """

    scale: float
    evaluation: Evaluation
    entropy: float
    log_z: float

    @property
    def tokens(self) -> float:
        """Mean length of a response."""
        return self.evaluation.tokens / (len(self.evaluation.by_prompt) * self.evaluation.samples)

    def figures(self, at_one: "Point") -> dict[str, Any]:
        """The numbers of the table, and each prompt's score; `at_one` is the point of lambda 1."""
        difference = paired_difference(self.evaluation, at_one.evaluation)
        return {
            "lambda": self.scale,
            **self.evaluation.figures,
            "difference": difference.figures,
            "tokens": self.tokens,
            "truncated": self.evaluation.truncated,
            "entropy": self.entropy,
            "log_z": self.log_z,
            "seconds": self.evaluation.seconds,
            "by_prompt": list(self.evaluation.by_prompt),
        }


@dataclasses.dataclass(frozen=True)
class Needed:
    """Paths of the models that some lambdas are drawn from."""

    paths: tuple[str, ...]
    scales: tuple[float, ...]

    def exponents(self, scale: float) -> np.ndarray:
        pair = [scale, 1 - scale] if len(self.paths) > 1 else [1.0]
        return np.array(pair, np.float32)


def needed(scales: Sequence[float], teacher: str, reference: str | None) -> list[Needed]:
    """The lambdas by the models that they need, that of 1, the baseline, first."""
    groups = {
        (teacher,): [s for s in scales if not needs_reference(s)],
        (reference,): [s for s in scales if s == 0],
        (teacher, reference): [s for s in scales if s != 0 and needs_reference(s)],
    }
    return [Needed(paths, tuple(found)) for paths, found in groups.items() if found]


@dataclasses.dataclass(frozen=True)
class Domain:
    """What is drawn in one domain, and how it is scored.

    kind: of the verification.
    rule, key: the distribution that is drawn from, and the random key, the same for every lambda.
    """

    name: str
    prompts: Sequence[EncodedPrompt]
    samples: int
    max_tokens: int
    kind: str
    rule: SamplingRule
    key: jax.Array


def draw(
    domain: Domain,
    groups: Sequence[Needed],
    models: Mapping[str, ModelConfig],
    samplers: Samplers,
    verify: Verifier,
    tokenizer: ChatTokenizer,
) -> Iterator[Point]:
    """Yields the point of each lambda; the weights of the models that a group needs are read once.

    Args:
        models: architecture by path.
        samplers: the engines.
        verify: judges the answers.
        tokenizer: turns tokens into text.
    """
    for group in groups:
        engine = samplers[tuple(models[path] for path in group.paths)]
        weights = tuple(load_weights(engine, path, n) for n, path in enumerate(group.paths))
        for scale in group.scales:
            mixture = Mixture(weights, group.exponents(scale))
            sums, seen = _summing()
            evaluation = evaluate(
                engine,
                mixture,
                domain.prompts,
                verify,
                domain.kind,
                tokenizer,
                samples=domain.samples,
                max_tokens=domain.max_tokens,
                rule=domain.rule,
                key=domain.key,
                name=f"preview {domain.name}: lambda {scale:g}",
                seen=seen,
            )
            yield Point(scale, evaluation, *map(float, sums / evaluation.tokens))
        del weights, mixture  # before those of the next group are read


def _summing() -> tuple[np.ndarray, Callable[[Rollout], None]]:
    """What is measured, added up over rollouts, and the function that adds one."""
    sums = np.zeros(len(MEASURES))

    def seen(rollout: Rollout) -> None:
        np.add(sums, rollout.sums, out=sums)

    return sums, seen
