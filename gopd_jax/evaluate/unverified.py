"""Evaluation within a training run where answers are not verified: the distance to the teacher.

In: an engine and weights, prompts, a learner that compares student and teacher. Out: an
`Unverified`: KL, overlap, entropy and length on samples that the student draws from held-out
prompts. Says nothing about how good the answers are.
"""

from collections.abc import Sequence
import dataclasses
import time

import jax
import numpy as np

from gopd_jax.evaluate.statistics import t_interval
from gopd_jax.learner.distance import distances
from gopd_jax.learner.learner import FrozenModel, Learner
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.progress import Bar
from gopd_jax.types import EncodedPrompt, Params, Request, Rollout

NOT_MEASURED = "answers were not verified: nothing is said about passing the teacher"


@dataclasses.dataclass(frozen=True)
class Unverified:
    """The student on one domain without a verifier.

    kl_by_prompt: mean of KL(student, teacher) over the response tokens of each prompt, in nats, in
        the order of the prompts; empty without a teacher.
    top1_overlap: share of response tokens at which the most likely token of both models is the
        same; None without a teacher.
    entropy: of the student, mean over response tokens, in nats.
    prompts, samples: their number, and the samples of each.
    tokens: response tokens drawn.
    truncated: share of samples that were cut at the limit.
    seconds: wall clock.
    """

    kl_by_prompt: tuple[float, ...]
    top1_overlap: float | None
    entropy: float
    prompts: int
    samples: int
    tokens: int
    truncated: float
    seconds: float

    @property
    def figures(self) -> dict[str, float | None]:
        """What files of a run hold besides the fields.

        The interval of the mean KL over prompts is Student's t, never below 0; its ends are None
        for a single prompt.
        """
        length = {"mean_tokens": self.tokens / (self.prompts * self.samples)}
        if not self.kl_by_prompt:
            return length
        return _interval("kl", self.kl_by_prompt, lowest=0.0) | length


def paired_change(before: Unverified, after: Unverified) -> dict[str, float | None]:
    """The change of the KL over the prompts of both, with its 95% interval; {} without a KL."""
    pairs = list(zip(before.kl_by_prompt, after.kl_by_prompt, strict=False))
    return _interval("kl_change", [b - a for a, b in pairs]) if pairs else {}


def _interval(
    name: str, values: Sequence[float], lowest: float = -np.inf
) -> dict[str, float | None]:
    mean, half = t_interval(values)
    ends = (max(lowest, mean - half), mean + half) if np.isfinite(half) else (None, None)
    return {name: mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def measure(
    engine: RolloutEngine,
    weights: Params,
    params: Params,
    prompts: Sequence[EncodedPrompt],
    learner: Learner,
    teacher: FrozenModel | None,
    *,
    samples: int,
    max_tokens: int,
    rule: SamplingRule,
    key: jax.Array,
    name: str,
) -> Unverified:
    """Draws samples of each prompt and compares student and teacher on them.

    Args:
        engine: draws the samples.
        weights: decode weights of the student, as the engine made them.
        params: the student's parameters.
        prompts: the held-out prompts.
        learner: compares the two models.
        teacher: of the domain, or None.
        samples: of each prompt.
        max_tokens: response limit.
        rule: the distribution that is drawn from. The models are compared by the plain one.
        key: random key; the same one at every step.
        name: title of the progress bar.
    """
    start = time.perf_counter()
    requests = [Request(p, s, max_tokens) for p in prompts for s in range(samples)]
    drawn: list[Rollout] = []
    with Bar(name, len(requests), "samples") as bar:
        for rollout in engine(weights, requests, key, rule):
            drawn.append(rollout)
            if len(drawn) < len(requests):
                bar.advance(1)
        # In the order of the prompts, so that the sums do not depend on which were drawn first.
        drawn.sort(key=lambda r: r.request.key)
        found = distances(learner, params, teacher, drawn)
        result = _result(prompts, drawn, found, samples, time.perf_counter() - start)
        kl = result.figures.get("kl")
        bar.advance(1, "" if kl is None else f"kl {kl:.3g}")
    return result


def _result(
    prompts: Sequence[EncodedPrompt],
    drawn: Sequence[Rollout],
    found: Sequence[dict[str, np.ndarray]],
    samples: int,
    seconds: float,
) -> Unverified:
    index = {p.source.prompt_id: i for i, p in enumerate(prompts)}
    prompt = np.array([index[r.request.key.prompt_id] for r in drawn])
    tokens = np.array([len(r.tokens) for r in drawn])
    totals = {name: np.array([x[name].sum() for x in found]) for name in found[0]}
    kl_by_prompt: tuple[float, ...] = ()
    if "kl" in totals:
        means = np.bincount(prompt, totals["kl"]) / np.bincount(prompt, tokens)
        kl_by_prompt = tuple(float(kl) for kl in means)
    return Unverified(
        kl_by_prompt=kl_by_prompt,
        top1_overlap=float(totals["same"].sum() / tokens.sum()) if "same" in totals else None,
        entropy=float(totals["entropy"].sum() / tokens.sum()),
        prompts=len(prompts),
        samples=samples,
        tokens=int(tokens.sum()),
        truncated=float(np.mean([r.truncated for r in drawn])),
        seconds=seconds,
    )
