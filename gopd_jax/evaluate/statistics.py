"""Statistics of verified samples: means with 95% intervals, pass@k, majority@k.

In: the reward of every problem, averaged over its samples, or counts of right samples. Out:
numbers. Arithmetic on numpy arrays only. Problems are drawn from a population and are independent;
the samples of one problem are not, so every interval is over problems (clustered).

The interval of bounded scores holds for few problems, for scores of 0 or 1 only, and where all
scores are equal. Its upper end answers: with which mean would the unseen rest of the population be
compatible? The n scores x_i get one more, at the upper bound b, and random weights w ~
Dirichlet(1, ..., 1):

    high = 97.5% quantile of sum_i w_i x_i + w_{n+1} b;   low in the same way, with the lower bound

(Learned-Miller and Thomas, arXiv 1905.06208). For scores of 0 and 1 this is the interval of Clopper
and Pearson; for n scores of 0 its upper end is 1 - 0.025^(1/n). The quantile is that of the Beta
distribution with the same range, mean and variance, which is exact where the scores have one value
or two. For many problems it is the normal interval of the mean. Coverage: docs/method.md.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special

TAIL = 0.975  # the probability below the upper end of a 95% interval, and above its lower end
FEW = 10  # problems of a benchmark


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval. `n`: number of problems behind it."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def figures(self) -> dict[str, float]:
        """Mean and interval as the files of a run hold them."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    @property
    def sign(self) -> int:
        """1 if the whole interval is above 0, -1 if it is below, otherwise 0."""
        return int(self.low > 0) - int(self.high < 0)


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values without bounds and the half width of its 95% t interval.

    Args:
        values: scores of seeds, each over many prompts.

    Returns:
        The mean and the half width, which is infinite for a single value.
    """
    values = np.asarray(values, np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.inf
    quantile = float(special.stdtrit(n - 1, TAIL))
    return mean, float(quantile * values.std(ddof=1) / np.sqrt(n))


def accuracy(strata: Sequence[Sequence[float] | np.ndarray]) -> Estimate:
    """Mean score in [0, 1] and its 95% interval.

    Args:
        strata: for each benchmark, the mean reward of each problem. The mean over several
            benchmarks is the mean of their means: each has the same weight whatever its size. The
            benchmarks are taken as fixed, their problems as drawn.
    """
    return _bounded(strata, 0.0, 1.0)


def interval(values: Sequence[float] | np.ndarray) -> Estimate:
    """`accuracy` of one set of prompts."""
    return accuracy([values])


def difference(strata: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate:
    """Mean of a - b over the same problems and its 95% interval, paired by problem.

    Args:
        strata: for each benchmark, the scores a and b of its problems, in [0, 1]; benchmarks have
            equal weight.

    Raises:
        ValueError: the two sides of a benchmark differ in their number of problems.
    """
    return _bounded([np.subtract(*_same_length(a, b)) for a, b in strata], -1.0, 1.0)


def clustered(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Mean of samples in [0, 1] and its 95% interval, where groups differ in their size.

    With groups of equal size it is `interval` of the groups' means.

    Args:
        values: rewards, float [B].
        groups: the prompt of each, [B].
    """
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    means, weights = np.bincount(group, values) / sizes, sizes / sizes.mean()
    high = _upper_end([means], 1.0, weights)
    low = 0.0 - _upper_end([-means], 0.0, weights)  # never -0.0
    mean = float(np.mean(values))
    return Estimate(mean, min(low, mean), max(high, mean), len(means))


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of k samples is right, without bias (arXiv 2107.03374).

        pass@k = 1 - C(n - c, k) / C(n, k)

    Args:
        samples: n, the number of samples.
        correct: c, the number of right ones.
        k: number of samples that are taken.

    Raises:
        ValueError: k is not in [1, samples], or correct is not in [0, samples].
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@{k} of {correct} right among {samples} samples: expected k in [1, samples] and "
            "correct in [0, samples]"
        )
    if samples - correct < k:
        return 1.0
    return abs(float(np.expm1(np.log1p(-k / np.arange(samples - correct + 1, samples + 1)).sum())))


def ks_up_to(samples: int) -> list[int]:
    """The k that pass@k is shown for: the powers of two, and all the samples."""
    return sorted({2**i for i in range(samples.bit_length())} | {samples})


def majority(correct: int, wrong: Sequence[int]) -> float:
    """Whether the answer given most often is right.

    Args:
        correct: number of samples with a right answer; they are one group.
        wrong: sizes of the groups of equal wrong answers. Samples without an answer have no vote.

    Returns:
        1 or 0; if groups of equal size tie, the chance that a uniform choice is right. 0 without
        any vote.
    """
    most = max([correct, *wrong])
    if correct < most or correct == 0:
        return 0.0
    return 1 / (1 + sum(size == most for size in wrong))


def _bounded(
    strata: Sequence[Sequence[float] | np.ndarray], lowest: float, highest: float
) -> Estimate:
    """Mean of the strata's means and its interval; the values lie in [lowest, highest]."""
    arrays = [np.asarray(values, np.float64) for values in strata]
    mean = float(np.mean([values.mean() for values in arrays]))
    high = _upper_end(arrays, highest)
    low = 0.0 - _upper_end([-values for values in arrays], -lowest)  # never -0.0
    return Estimate(mean, min(low, mean), max(high, mean), sum(map(len, arrays)))


def _upper_end(
    strata: Sequence[np.ndarray], highest: float, weights: np.ndarray | None = None
) -> float:
    """The upper end of the interval of a mean (see the module's docstring).

    Of several strata, the smallest gets the value at the bound, because there it weighs most. So
    do all with fewer than `FEW` values, whose own spread says little.

    Args:
        strata: values by stratum.
        highest: their upper bound.
        weights: of the values of a single stratum, 1 on average; the default is 1 for all.
    """
    smallest = min(range(len(strata)), key=lambda i: len(strata[i]))
    floor = ceiling = mean = variance = 0.0
    for i, values in enumerate(strata):
        if i == smallest or len(values) < FEW:
            part, part_variance = _with_bound(values, highest, weights)
            ceiling += max(highest, float(values.max())) / len(strata)
        else:
            part, part_variance = values.mean(), values.var(ddof=1) / len(values)
            ceiling += float(values.max()) / len(strata)
        floor += float(values.min()) / len(strata)
        mean += float(part) / len(strata)
        variance += float(part_variance) / len(strata) ** 2
    width = ceiling - floor
    if width < 1e-9 or variance == 0:  # every value is at the bound, up to rounding
        return ceiling
    share = (mean - floor) / width
    size = share * (1 - share) * width**2 / variance - 1
    return floor + width * float(special.betaincinv(share * size, (1 - share) * size, TAIL))


def _with_bound(
    values: np.ndarray, highest: float, weights: np.ndarray | None
) -> tuple[float, float]:
    """Mean and variance of the weighted mean of `values` and `highest`, weights as by Dirichlet."""
    n = len(values)
    weights = np.append(np.ones(n) if weights is None else weights, 1.0)
    values = np.append(values, highest)
    mean = np.average(values, weights=weights)
    squares = np.sum(weights**2 * (values - mean) ** 2)
    return float(mean), float(squares / (n + 1) / (n + 2))


def _same_length(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} and {len(b)} problems: expected the same problems on both sides"
        )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)
