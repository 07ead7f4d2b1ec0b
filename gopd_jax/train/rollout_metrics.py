"""Numbers of a step's rollouts: rewards, lengths, truncation, repetition.

In: rollouts and verdicts. Out: plain numbers, over all domains and for each.
"""

from collections.abc import Sequence

import numpy as np

from gopd_jax.evaluate.statistics import clustered
from gopd_jax.rewards.verifier import Verdict
from gopd_jax.types import Rollout

# What counts as a loop at the end of a response: at least 4 copies of one n-gram of at most 128
# tokens, and at least 16 tokens together, so that "1111" in an answer is none.
LOOP_COPIES, LOOP_LONGEST_PERIOD, LOOP_LEAST_TOKENS = 4, 128, 16


def rollout_metrics(
    rollouts: Sequence[Rollout], verdicts: Sequence[Verdict | None], domains: Sequence[str]
) -> dict[str, float]:
    """Metrics `name` over all rollouts and `name/domain` for the rollouts of each domain.

    The numbers NAME that a reward function of the user has named are `reward_NAME/domain`, the mean
    over the rollouts that have one. `reward_stopped/domain` is the number of rollouts whose
    verification was stopped at the limit of time or memory, where there are any.

    Args:
        rollouts: of one step.
        verdicts: of each rollout; None where it was not verified.
        domains: names of the run's domains.
    """
    rewards = np.array([v.reward if v else np.nan for v in verdicts])
    verified = np.isfinite(rewards)
    lengths = np.array([len(r.tokens) for r in rollouts])
    truncated = np.array([r.truncated for r in rollouts])
    loops = ends_in_loop(rollouts)
    domain = np.array([r.request.prompt.source.domain for r in rollouts])
    prompts = np.array([r.request.key.prompt_id for r in rollouts])
    values: dict[str, float] = {}
    slices = [("", np.ones(len(domain), bool))] + [(f"/{d}", domain == d) for d in domains]
    for suffix, part in slices:
        if not part.any():
            continue
        known = part & verified
        if known.any():
            reward = clustered(rewards[known], prompts[known])
            values[f"reward{suffix}"] = reward.mean
            values[f"reward_low{suffix}"] = reward.low
            values[f"reward_high{suffix}"] = reward.high
        values[f"response_length{suffix}"] = float(lengths[part].mean())
        values[f"truncated{suffix}"] = float(truncated[part].mean())
        values[f"repetition_rate{suffix}"] = float(loops[part].mean())
        if suffix:
            values |= _named_metrics([verdicts[i] for i in np.flatnonzero(known)], suffix)
    values["verified"] = int(verified.sum())
    values["response_length_max"] = int(lengths.max())
    values["truncated_count"] = int(truncated.sum())
    values["rollout_tokens"] = int(lengths.sum())
    return values


def _named_metrics(verdicts: Sequence[Verdict], suffix: str) -> dict[str, float]:
    """The means of the numbers in the verdicts of a domain, and the number of stopped ones."""
    named: dict[str, list[float]] = {}
    for verdict in verdicts:
        for name, number in verdict.metrics.items():
            named.setdefault(f"reward_{name}{suffix}", []).append(number)
    values = {name: float(np.mean(numbers)) for name, numbers in named.items()}
    if stopped := sum(verdict.detail in ("timeout", "memory") for verdict in verdicts):
        values[f"reward_stopped{suffix}"] = stopped
    return values


def ends_in_loop(rollouts: Sequence[Rollout]) -> np.ndarray:
    """Which rollouts end in a loop: an n-gram of token ids, repeated to the end without a break.

    Copies of the n-gram fill at least the last max(LOOP_COPIES * n, LOOP_LEAST_TOKENS) tokens, the
    first copy perhaps in part; n is at most LOOP_LONGEST_PERIOD. The stop token of a finished
    rollout does not count.

    Returns:
        bool [B].
    """
    texts = [r.tokens if r.truncated else r.tokens[:-1] for r in rollouts]
    lengths = np.array([len(t) for t in texts])
    width = min(LOOP_COPIES * LOOP_LONGEST_PERIOD, lengths.max())
    ends = np.zeros((len(texts), width), np.int64)  # right-aligned
    for row, text in zip(ends, texts, strict=True):
        if kept := min(len(text), width):
            row[-kept:] = text[-kept:]
    loops = np.zeros(len(texts), bool)
    for period in range(1, LOOP_LONGEST_PERIOD + 1):
        window = max(LOOP_COPIES * period, LOOP_LEAST_TOKENS)
        if window > width:
            break
        later, earlier = ends[:, width - window + period :], ends[:, width - window : -period]
        loops |= (lengths >= window) & (later == earlier).all(axis=1)
    return loops
