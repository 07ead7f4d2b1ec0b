"""Where a step's examples come from: rollouts and rewards (G-OPD, GRPO), or answers (SFT).

In: rollouts, and the advantages that do not come from a teacher. Out: the examples of each update,
ready to pack. The method decides two numbers of every example: its advantage from outside, and
whether behaviour log-probs count. What comes after this module is the same for all methods.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gopd_jax.learner.example import Example
from gopd_jax.learner.settings import Method
from gopd_jax.objective.gopd import group_normalised
from gopd_jax.objective.settings import Weighting
from gopd_jax.objective.weights import token_weights
from gopd_jax.types import Request, Rollout

WEIGHTING = Weighting()


def in_order(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Rollouts in the order of their keys, whatever the order in which they finished."""
    return sorted(rollouts, key=lambda r: r.request.key)


def given_answers(requests: Sequence[Request], answers: Sequence[np.ndarray]) -> list[Rollout]:
    """The answers of a data set as rollouts.

    Args:
        requests: one for each answer.
        answers: int32 ids; those over the request's limit are cut there and count as truncated.
    """
    rollouts = []
    for request, answer in zip(requests, answers, strict=True):
        reason = "stop" if len(answer) <= request.max_tokens else "length"
        kept = answer[: request.max_tokens]
        rollouts.append(Rollout(request, kept, np.zeros(len(kept), np.float32), reason))
    return rollouts


def outside_advantages(
    method: Method, rollouts: Sequence[Rollout], rewards: Sequence[float] | None
) -> np.ndarray:
    """The advantage of each rollout that does not come from a teacher.

    Returns:
        float32 [B]: 0 for gopd, 1 for sft, the group-normalised reward for grpo.

    Raises:
        ValueError: grpo without rewards.
    """
    if method == "grpo":
        if rewards is None:
            raise ValueError("rewards=None: expected one for each rollout with method='grpo'")
        prompts = [r.request.key.prompt_id for r in rollouts]
        _, groups = np.unique(prompts, return_inverse=True)
        return group_normalised(np.asarray(rewards), groups)
    return np.full(len(rollouts), {"gopd": 0.0, "sft": 1.0}[method], np.float32)


def to_examples(
    rollouts: Sequence[Rollout],
    advantages: np.ndarray | None = None,
    *,
    method: Method = "gopd",
    reward_scales: Mapping[str, float],
    weighting: Weighting = WEIGHTING,
    updates: int = 1,
    split_seed: tuple[int, int] = (0, 0),
) -> list[list[Example]]:
    """Splits one rollout batch into the examples of each update.

    Every update has its own token weights: they sum over its own rollouts. Rollouts of weight 0
    (masked or dropped because they were truncated) are left out, since they cannot change the
    update.

    Args:
        rollouts: in the order of their keys.
        advantages: float [B], from outside; None takes the `outside_advantages` of the method,
            which for grpo need rewards.
        reward_scales: lambda by domain; the order of the domains gives their indices.
        weighting: aggregation and truncation rule.
        updates: number of updates; divides the number of rollouts.
        split_seed: run seed and step, the seed of the random split into several updates; it should
            differ from step to step.
    """
    if advantages is None:
        advantages = outside_advantages(method, rollouts, None)
    shuffled = np.arange(len(rollouts))
    if updates > 1:
        shuffled = np.random.default_rng(split_seed).permutation(len(rollouts))
    out = []
    for members in np.split(shuffled, updates):
        lengths = np.array([len(rollouts[i].tokens) for i in members])
        truncated = np.array([rollouts[i].truncated for i in members])
        weights = token_weights(lengths, truncated, weighting.aggregation, weighting.truncation)
        out.append(
            [
                _example(rollouts[i], method, reward_scales, float(weight), float(advantages[i]))
                for i, weight in zip(members, weights, strict=True)
                if weight
            ]
        )
    return out


def to_score(
    rollouts: Sequence[Rollout],
    *,
    reward_scales: Mapping[str, float],
    weighting: Weighting = WEIGHTING,
) -> list[Example]:
    """The rollouts that an update will learn from, as examples for `scoring.Scoring`.

    Their weights are not known before all rollouts are there, and mean nothing here.
    """
    kept = [r for r in rollouts if weighting.truncation == "keep" or not r.truncated]
    return [_example(r, "gopd", reward_scales, 1.0, 0.0) for r in kept]


def _example(
    rollout: Rollout,
    method: Method,
    reward_scales: Mapping[str, float],
    weight: float,
    advantage: float,
) -> Example:
    prompt = rollout.request.prompt
    domain = prompt.source.domain
    return Example(
        key=rollout.request.key,
        domain=list(reward_scales).index(domain),
        prompt=prompt.tokens,
        response=rollout.tokens,
        weight=weight,
        reward_scale=reward_scales[domain],
        advantage=advantage,
        behaviour_logprobs=None if method == "sft" else rollout.behaviour_logprobs,
        teacher_prompt=prompt.teacher_tokens if method == "gopd" else None,
    )
