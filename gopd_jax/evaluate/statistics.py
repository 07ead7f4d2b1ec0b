"""Statistics of verified samples: means with 95% intervals, pass@k, majority@k.

In: the reward of every problem, averaged over its samples, or counts of right samples. Out:
numbers. Arithmetic on numpy arrays only. Problems are drawn from a population and are independent;
the samples of one problem are not, so every interval is over problems (clustered).
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np
from scipy import special

Z95 = 1.959964  # the 97.5% quantile for many problems; for n of them it is `t95(n - 1)`


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and its 95% interval. `n`: number of problems behind it."""

    mean: float
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def t95(df: float) -> float:
    """97.5% quantile of Student's t with `df` degrees of freedom; `df` may be infinite."""
    return float(special.stdtrit(df, 0.975)) if math.isfinite(df) else Z95


def interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Mean of independent values and the half width of its 95% t interval.

    Args:
        values: scores of prompts, each over its samples, or scores of seeds.

    Returns:
        The mean and the half width, which is infinite for a single value.
    """
    values = np.asarray(values, np.float64)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, math.inf
    return mean, float(t95(n - 1) * values.std(ddof=1) / np.sqrt(n))


def accuracy(strata: Sequence[Sequence[float]]) -> Estimate:
    """Mean score in [0, 1], with a 95% interval that stays in [0, 1].

    The interval is Student's t on the scale log(p / (1 - p)), as `svyciprop(method="logit")` of R's
    survey package computes it. The plain t interval misses on one side when most problems are out
    of reach: with 30 problems of rates Beta(0.1, 0.9) and 4 samples it covers the truth 90 times in
    100, this one 94.5. If every problem scores 0, or every problem scores 1, there is no spread to
    measure, and the interval is Wilson's with one sample for each problem.

    Args:
        strata: for each benchmark, the mean reward of each problem. The mean over several
            benchmarks is the mean of their means: each has the same weight whatever its size. The
            benchmarks are taken as fixed, their problems as drawn.
    """
    means, variance, df = _stratified(strata)
    mean, n = float(np.mean(means)), sum(map(len, strata))
    if variance == 0 and mean in (0.0, 1.0):
        return Estimate(mean, *_wilson(mean, n), n)
    if not math.isfinite(variance):
        return Estimate(mean, 0.0, 1.0, n)
    if variance == 0:
        return Estimate(mean, mean, mean, n)
    center, half = special.logit(mean), t95(df) * math.sqrt(variance) / (mean * (1 - mean))
    low, high = float(special.expit(center - half)), float(special.expit(center + half))
    return Estimate(mean, low, high, n)


def difference(strata: Sequence[tuple[Sequence[float], Sequence[float]]]) -> Estimate:
    """Mean of a - b over the same problems, and its 95% t interval, paired by problem.

    Args:
        strata: for each benchmark, the scores a and b of its problems; benchmarks have equal
            weight.

    Raises:
        ValueError: the two sides of a benchmark differ in their number of problems.
    """
    differences = [np.subtract(*_same_length(a, b)) for a, b in strata]
    means, variance, df = _stratified(differences)
    mean, half = float(np.mean(means)), t95(df) * math.sqrt(variance)
    return Estimate(mean, mean - half, mean + half, sum(map(len, differences)))


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


def _stratified(strata: Sequence[Sequence[float]]) -> tuple[np.ndarray, float, float]:
    """Means, the variance of their average, and its degrees of freedom (Welch-Satterthwaite)."""
    arrays = [np.asarray(values, np.float64) for values in strata]
    means = np.array([values.mean() for values in arrays])
    if any(len(values) < 2 for values in arrays):
        return means, math.inf, 1.0
    parts = np.array([values.var(ddof=1) / len(values) for values in arrays]) / len(arrays) ** 2
    if parts.sum() == 0:
        return means, 0.0, math.inf
    df = parts.sum() ** 2 / (parts**2 / [len(values) - 1 for values in arrays]).sum()
    return means, float(parts.sum()), float(df)


def _wilson(mean: float, n: int) -> tuple[float, float]:
    z2 = Z95**2 / n
    center = (mean + z2 / 2) / (1 + z2)
    half = math.sqrt(mean * (1 - mean) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, center - half), min(1.0, center + half)


def _same_length(a: Sequence[float], b: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if len(a) != len(b):
        raise ValueError(
            f"{len(a)} and {len(b)} problems: expected the same problems on both sides"
        )
    return np.asarray(a, np.float64), np.asarray(b, np.float64)
