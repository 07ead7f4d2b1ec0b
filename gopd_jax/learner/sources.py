"""Where a step's inputs come from: rollouts and rewards (G-OPD, GRPO) or given answers (SFT), as sequences ready to pack.

The method decides two numbers of every sequence, its advantage from outside and whether behaviour log-probs count; everything
after this module is the same for all three.
"""

from collections.abc import Sequence as Seq

import numpy as np

from gopd_jax.config import Config
from gopd_jax.learner.packing import Sequence
from gopd_jax.objective.gopd import group_normalised
from gopd_jax.objective.weights import token_weights
from gopd_jax.types import Request, Rollout


def order(rollouts: Seq[Rollout]) -> list[Rollout]:
    """Rollouts in an order of their own, whatever the order in which they finished."""
    return sorted(rollouts, key=lambda r: r.request.key)


def given_answers(requests: Seq[Request], answers: Seq[np.ndarray]) -> list[Rollout]:
    """SFT: the answers of a data set in place of samples; those over the limit are cut there and marked truncated."""
    rollouts = []
    for request, answer in zip(requests, answers, strict=True):
        reason = "stop" if len(answer) <= request.max_tokens else "length"
        kept = answer[: request.max_tokens]
        rollouts.append(Rollout(request, kept, np.zeros(len(kept), np.float32), reason))
    return rollouts


def to_sequences(
    rollouts: Seq[Rollout], advantages: np.ndarray, config: Config, step: int
) -> list[list[Sequence]]:
    """Splits one rollout batch into the sequences of each update.

    Every update has its own token weights: they sum over its own rollouts. Rollouts of weight 0 (masked or dropped because
    they were truncated) are left out, since they cannot change the update.

    Args:
        advantages: float [B], from outside. step: with the run's seed, the key of the split into several updates.
    """
    updates = config.learner.updates_per_batch
    shuffled = np.arange(len(rollouts))
    if updates > 1:
        shuffled = np.random.default_rng((config.seed, step)).permutation(len(rollouts))
    index_of = {name: i for i, name in enumerate(config.domains)}
    out = []
    for members in np.split(shuffled, updates):
        lengths = np.array([len(rollouts[i].tokens) for i in members])
        truncated = np.array([rollouts[i].truncated for i in members])
        weights = token_weights(
            lengths, truncated, config.learner.aggregation, config.learner.truncation
        )
        out.append(
            [
                _sequence(rollouts[i], w, advantages[i], config, index_of)
                for i, w in zip(members, weights, strict=True)
                if w
            ]
        )
    return out


def outside_advantages(method: str, rollouts: Seq[Rollout], rewards: Seq[float]) -> np.ndarray:
    """The advantage that does not come from a teacher: 0 for gopd, 1 for sft, the group-normalised reward for grpo."""
    if method == "grpo":
        _, groups = np.unique([r.request.key.prompt_id for r in rollouts], return_inverse=True)
        return group_normalised(np.asarray(rewards), groups)
    return np.full(len(rollouts), {"gopd": 0.0, "sft": 1.0}[method], np.float32)


def _sequence(
    rollout: Rollout, weight: float, advantage: float, config: Config, index_of: dict[str, int]
) -> Sequence:
    prompt = rollout.request.prompt
    return Sequence(
        name=rollout.request.key,
        domain=index_of[prompt.source.domain],
        prompt=prompt.tokens,
        response=rollout.tokens,
        weight=float(weight),
        reward_scale=config.reward_scale(prompt.source.domain),
        advantage=float(advantage),
        behaviour_logprobs=None if config.method == "sft" else rollout.behaviour_logprobs,
        teacher_prompt=prompt.teacher_tokens if config.method == "gopd" else None,
    )
