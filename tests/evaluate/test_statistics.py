"""pass@k and majority against enumeration; how often intervals cover the truth.

They must cover it 93 to 97 times in 100, for several kinds of problems.
"""

import itertools
import math

import numpy as np
import pytest

from gopd_jax.evaluate.statistics import (
    accuracy,
    difference,
    interval,
    ks_up_to,
    majority,
    pass_at_k,
    t95,
)

# Success rates of the problems, as Beta distributions: U-shaped, flat, like a weak model on AIME,
# weaker still, narrow, nearly all solved.
POPULATIONS = [(0.4, 0.6), (1, 1), (0.25, 1.4), (0.1, 0.9), (2, 5), (1, 0.2)]
RUNS = 1500


def draw(rng, population, problems, samples, runs=RUNS):
    """Mean reward of each problem, [runs, problems], and the mean of the population."""
    a, b = population
    return rng.binomial(samples, rng.beta(a, b, (runs, problems))) / samples, a / (a + b)


# ---- pass@k, majority@k.


@pytest.mark.parametrize("samples", [1, 2, 5, 7])
def test_pass_at_k_is_that_of_all_subsets(samples):
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        right = [i < correct for i in range(samples)]
        expected = np.mean([any(subset) for subset in itertools.combinations(right, k)])
        assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_of_many_samples():
    """Binomial coefficients of 10,000 samples overflow; the formula must not."""
    exact = 1 - math.comb(9990, 5000) / math.comb(10000, 5000)
    assert pass_at_k(10000, 10, 5000) == pytest.approx(exact, rel=1e-12)
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-9)
    assert str(pass_at_k(32, 0, 4)) == "0.0" and pass_at_k(32, 29, 4) == 1.0


@pytest.mark.parametrize("samples, correct, k", [(4, 1, 5), (4, 1, 0), (4, 5, 2), (4, -1, 2)])
def test_pass_at_k_refuses_what_cannot_be(samples, correct, k):
    with pytest.raises(ValueError, match="expected k in"):
        pass_at_k(samples, correct, k)


def test_ks_are_powers_of_two_and_all():
    assert [ks_up_to(n) for n in (1, 4, 6, 32)] == [
        [1],
        [1, 2, 4],
        [1, 2, 4, 6],
        [1, 2, 4, 8, 16, 32],
    ]


@pytest.mark.parametrize(
    "correct, wrong, expected",
    [
        (3, [2, 1], 1),
        (2, [3], 0),
        (2, [2], 1 / 2),
        (1, [1, 1], 1 / 3),
        (2, [2, 1, 2], 1 / 3),
        (4, [], 1),
        (0, [], 0),
        (0, [5], 0),
    ],
)
def test_majority_and_its_ties(correct, wrong, expected):
    assert majority(correct, wrong) == pytest.approx(expected)


# ---- Intervals.


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [4, 32])
def test_accuracy_covers_the_truth_95_times_in_100(problems, samples):
    """On average, and for each population up to the noise of 1,500 runs (0.56 points)."""
    rng, coverages = np.random.default_rng(problems + samples), []
    for population in POPULATIONS:
        scores, truth = draw(rng, population, problems, samples)
        estimates = [accuracy([row]) for row in scores]
        coverages.append(np.mean([e.low <= truth <= e.high for e in estimates]))
        assert 0.92 < coverages[-1] < 0.98, population
    assert 0.93 < np.mean(coverages) < 0.97


def test_the_plain_t_interval_would_not_do():
    scores, truth = draw(np.random.default_rng(0), (0.1, 0.9), 30, 4)
    assert np.mean([abs(mean - truth) <= half for mean, half in map(interval, scores)]) < 0.92


def test_average_over_benchmarks_covers_the_truth():
    """Four benchmarks of 30, 30, 30 and 200 problems, of different difficulty."""
    rng = np.random.default_rng(1)
    sizes, populations = (30, 30, 30, 200), [(0.4, 0.6), (0.25, 1.4), (0.3, 3), (1, 1)]
    parts = [draw(rng, p, n, 8) for p, n in zip(populations, sizes, strict=True)]
    truth = np.mean([t for _, t in parts])
    estimates = [accuracy([scores[i] for scores, _ in parts]) for i in range(RUNS)]
    assert 0.93 < np.mean([e.low <= truth <= e.high for e in estimates]) < 0.97
    assert estimates[0].mean == pytest.approx(np.mean([scores[0].mean() for scores, _ in parts]))
    assert estimates[0].n == 290


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [4, 32])
def test_paired_difference_covers_the_truth(problems, samples):
    """Two models with correlated rates: the interval is narrower than that of one score."""
    rng = np.random.default_rng(problems * samples)
    rates = rng.beta(0.5, 1.0, (RUNS, problems))
    gains = rng.uniform(-0.5, 1, (RUNS, problems)) * rates * (1 - rates)
    truth = 0.25 * (1 / 3 - 0.5 * 1.5 / (1.5 * 2.5))  # E[p] - E[p^2] of Beta(0.5, 1) is 1/3 - 1/5
    a, b = rng.binomial(samples, rates + gains) / samples, rng.binomial(samples, rates) / samples
    estimates = [difference([pair]) for pair in zip(a, b, strict=True)]
    assert 0.93 < np.mean([e.low <= truth <= e.high for e in estimates]) < 0.97
    scores = [accuracy([row]) for row in a]
    assert np.mean([e.high - e.low for e in estimates]) < np.mean([s.high - s.low for s in scores])


def test_difference_of_benchmarks_of_equal_weight():
    a, b = [[1.0, 0.0], [1.0, 1.0, 0.5]], [[0.5, 0.0], [0.0, 1.0, 0.0]]
    e, turned = difference(list(zip(a, b, strict=True))), difference(list(zip(b, a, strict=True)))
    assert e.mean == pytest.approx((0.25 + 0.5) / 2) and e.n == 5
    parts = np.array([0.125 / 2, 0.25 / 3]) / 4
    df = parts.sum() ** 2 / (parts**2 / [1, 2]).sum()
    assert e.high - e.mean == pytest.approx(t95(df) * np.sqrt(parts.sum()))
    assert (turned.low, turned.high) == pytest.approx((-e.high, -e.low))
    with pytest.raises(ValueError, match="2 and 3 problems"):
        difference([(a[0], a[1])])


def test_accuracy_where_there_is_no_spread():
    zero, one, half = accuracy([[0.0] * 30]), accuracy([[1.0] * 30]), accuracy([[0.5] * 30])
    assert (zero.mean, zero.low) == (0, 0)
    assert zero.high == pytest.approx(0.1135, abs=1e-4)  # Wilson, 0 of 30
    assert (one.mean, one.high) == (1, 1) and one.low == pytest.approx(1 - zero.high)
    assert (half.low, half.high) == (0.5, 0.5)
    alone = accuracy([[0.5]])  # one problem says nothing about others
    assert (alone.low, alone.high) == (0, 1)


def test_accuracy_is_near_the_t_interval_where_that_is_good():
    scores, _ = draw(np.random.default_rng(3), (1, 1), 5000, 4, runs=1)
    e, (mean, half) = accuracy(scores), interval(scores[0])
    assert (e.mean, e.low, e.high) == pytest.approx((mean, mean - half, mean + half), abs=1e-4)


def test_t95_is_that_of_the_tables():
    assert [t95(df) for df in (1, 9, 29, math.inf)] == pytest.approx(
        [12.7062, 2.26216, 2.04523, 1.959964], rel=1e-5
    )
