"""Token weights: aggregation, masks and truncation rules, all carried by one number per token.

The loss is then a plain weighted sum, the same for any split into micro-batches, any packing and
any padding.
"""

from typing import get_args

import numpy as np

from gopd_jax.objective.settings import Aggregation, Truncation

AGGREGATIONS = get_args(Aggregation)
TRUNCATION_RULES = get_args(Truncation)


def token_weights(
    lengths: np.ndarray, truncated: np.ndarray, aggregation: Aggregation, truncation: Truncation
) -> np.ndarray:
    """The weight that each token of a rollout has in the loss.

        token-mean                 1 / (tokens of all counted rollouts)
        sequence-mean-token-mean   1 / (counted rollouts * tokens of this rollout)
        sequence-mean-token-sum    1 / (counted rollouts)

    The truncation rule decides about rollouts that were cut at the length limit: "keep" trains on
    them like on the others; "mask" gives them weight 0 but counts them in the denominator; "drop"
    leaves them out of both.

    Args:
        lengths: [B], response tokens, or the sums of their `position_weights`.
        truncated: bool [B].

    Returns:
        float64 [B], one weight for all tokens of a rollout; all 0 where no rollout is counted.

    Raises:
        ValueError: an unknown aggregation or truncation rule.
    """
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation={aggregation!r}: expected one of {list(AGGREGATIONS)}")
    if truncation not in TRUNCATION_RULES:
        raise ValueError(f"truncation={truncation!r}: expected one of {list(TRUNCATION_RULES)}")
    lengths = np.asarray(lengths, np.float64)
    complete = ~np.asarray(truncated, bool)
    counted = complete if truncation == "drop" else np.ones(len(lengths), bool)
    trained = counted if truncation == "keep" else counted & complete
    if not counted.any():
        return np.zeros(len(lengths))
    weight = {
        "token-mean": 1 / lengths[counted].sum() * np.ones(len(lengths)),
        "sequence-mean-token-mean": 1 / (counted.sum() * lengths),
        "sequence-mean-token-sum": 1 / counted.sum() * np.ones(len(lengths)),
    }[aggregation]
    return np.where(trained, weight, 0.0)


def position_weights(length: int, half_life: int, limit: int) -> np.ndarray:
    """Relative weights of the tokens of one response, by their position from 0.

        0.5 ** (position / half_life), and 0 from position `limit` on

    `token_weights` of their sums, in place of lengths, makes them the shares of a batch: the
    denominators count a token with its weight.

    Args:
        length: tokens of the response.
        half_life: in tokens; 0 weighs all alike.
        limit: number of the first tokens that count; 0 counts all.

    Returns:
        float64 [length], 1 at position 0.

    Source: the signal fades with depth: arXiv 2606.22600 weighs, arXiv 2602.15260 cuts.
    """
    position = np.arange(length)
    weights = 0.5 ** (position / half_life) if half_life else np.ones(length)
    return np.where(position < limit, weights, 0.0) if limit else weights
