"""Where a step's examples come from: rollouts and rewards (G-OPD, GRPO), or answers (SFT).

In: rollouts, and the advantages that do not come from a teacher. Out: the examples of each update,
ready to pack. The method decides two numbers of every example: its advantage from outside, and
whether behaviour log-probs count. What comes after this module is the same for all methods.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from gopd_jax.learner.example import Example
from gopd_jax.learner.settings import Method
from gopd_jax.objective.gopd import group_centred, group_normalised
from gopd_jax.objective.settings import Weighting
from gopd_jax.objective.shaping_settings import SHAPING, ShapingSettings
from gopd_jax.objective.weights import position_weights, token_weights
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
    method: Method,
    rollouts: Sequence[Rollout],
    rewards: Sequence[float] | None,
    shaping: ShapingSettings = SHAPING,
) -> np.ndarray:
    """The advantage of each rollout that does not come from a teacher.

    Args:
        rewards: of each rollout, where the advantage depends on them.
        shaping: weight of a task reward for gopd, and the penalty of truncated responses.

    Returns:
        float32 [B]: 0 for gopd, or the task reward times its weight; 1 for sft, the
        group-normalised reward for grpo; less the penalty.

    Raises:
        ValueError: rewards are needed, and there are none.
    """
    advantages = np.full(len(rollouts), float(method == "sft"), np.float32)
    if method == "grpo" or shaping.task_reward:
        if rewards is None:
            why = "a task reward" if shaping.task_reward else "method='grpo'"
            raise ValueError(f"rewards=None: expected one for each rollout with {why}")
        prompts = [r.request.key.prompt_id for r in rollouts]
        _, groups = np.unique(prompts, return_inverse=True)
        if method == "grpo":
            advantages = group_normalised(np.asarray(rewards), groups)
        else:
            compare = {"normalised": group_normalised, "centred": group_centred}
            compared = compare[shaping.task_reward_form](np.asarray(rewards), groups)
            advantages = np.float32(shaping.task_reward) * compared
    if shaping.truncation_penalty:
        truncated = np.array([r.truncated for r in rollouts], np.float32)
        advantages = advantages - np.float32(shaping.truncation_penalty) * truncated
    return advantages


def to_examples(
    rollouts: Sequence[Rollout],
    advantages: np.ndarray | None = None,
    *,
    method: Method = "gopd",
    reward_scales: Mapping[str, float],
    weighting: Weighting = WEIGHTING,
    shaping: ShapingSettings = SHAPING,
    step: int = 1,
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
        reward_scales: lambda by domain; the order of the domains gives their indices. Where lambda
            has a schedule, it ends at these.
        weighting: aggregation and truncation rule.
        shaping: weights by position, and schedules of lambda and the KL to the reference.
        step: of the run, from 1, for the schedules.
        updates: number of updates; divides the number of rollouts.
        split_seed: run seed and step, the seed of the random split into several updates; it should
            differ from step to step.
    """
    if advantages is None:
        advantages = outside_advantages(method, rollouts, None, shaping)
    scales = shaping.reward_scales(reward_scales, step)
    coefficient = shaping.kl_at(step) if shaping.trust_region else None
    shuffled = np.arange(len(rollouts))
    if updates > 1:
        shuffled = np.random.default_rng(split_seed).permutation(len(rollouts))
    out = []
    for members in np.split(shuffled, updates):
        weights = _weights([rollouts[i] for i in members], weighting, shaping)
        out.append(
            [
                _example(rollouts[i], method, scales, weight, float(advantages[i]), coefficient)
                for i, weight in zip(members, weights, strict=True)
                if np.any(weight)
            ]
        )
    return out


def _weights(
    rollouts: Sequence[Rollout], weighting: Weighting, shaping: ShapingSettings
) -> list[float | np.ndarray]:
    """The weight of the tokens of each rollout: one for all, or one for each."""
    rules = weighting.aggregation, weighting.truncation
    truncated = np.array([r.truncated for r in rollouts])
    lengths = np.array([len(r.tokens) for r in rollouts])
    if not shaping.by_position:
        return list(map(float, token_weights(lengths, truncated, *rules)))
    limits = shaping.position_half_life, shaping.prefix_limit
    of_tokens = [position_weights(int(length), *limits) for length in lengths]
    sizes = np.array([w.sum() for w in of_tokens])
    weights = token_weights(sizes, truncated, *rules)
    return [of_all * w for of_all, w in zip(weights, of_tokens, strict=True)]


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
    weight: float | np.ndarray,
    advantage: float,
    kl_coefficients: float | None = None,
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
        kl_coefficients=kl_coefficients,
        behaviour_logprobs=None if method == "sft" else rollout.behaviour_logprobs,
        teacher_prompt=prompt.teacher_tokens if method == "gopd" else None,
    )
