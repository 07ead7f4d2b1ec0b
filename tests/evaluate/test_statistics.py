"""pass@k and majority against enumeration; how often intervals cover the truth.

They must cover it at least 93 times in 100, for any number and kind of problems.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from gopd_jax.evaluate.statistics import (
    Estimate,
    accuracy,
    clustered,
    difference,
    interval,
    ks_up_to,
    majority,
    pass_at_k,
    t_interval,
)

# Success rates of the problems, as Beta distributions: U-shaped, flat, like a weak model on AIME,
# weaker still, narrow, nearly all solved.
POPULATIONS = [(0.4, 0.6), (1, 1), (0.25, 1.4), (0.1, 0.9), (2, 5), (1, 0.2)]
RUNS = 1500

# The table of docs/method.md: the numbers of problems and of samples of each, and true means.
PROBLEMS, SAMPLES, MEANS = (4, 8, 16, 64, 256), (1, 8), (0.0, 0.02, 0.5, 0.98, 1.0)


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


@pytest.mark.parametrize("n, right", [(1, 0), (8, 0), (8, 3), (30, 30), (1000, 999)])
def test_scores_of_0_and_1_have_the_interval_of_clopper_and_pearson(n, right):
    exact = stats.binomtest(right, n).proportion_ci(0.95, "exact")
    found = interval([1.0] * right + [0.0] * (n - right))
    assert (found.mean, found.n) == (right / n, n)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_equal_scores_of_few_problems_are_not_certain():
    """Another 1 - 0.025^(1/n) of the problems may lie at the bound without one having been seen."""
    unseen = 1 - 0.025 ** (1 / 8)
    half, tie = interval([0.5] * 8), difference([([1.0, 0.0] * 4, [1.0, 0.0] * 4)])
    assert (half.low, half.high) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))
    assert (tie.mean, tie.low, tie.high) == pytest.approx((0, -unseen, unseen))
    almost = interval([sum([0.1] * 10)] * 8)  # 0.9999999999999999
    assert (almost.low, almost.high) == pytest.approx((1 - unseen, 1))


def test_many_problems_have_the_t_interval():
    scores, _ = draw(np.random.default_rng(3), (1, 1), 8000, 4, runs=2)
    e, (mean, half) = interval(scores[0]), t_interval(scores[0])
    assert e.mean == mean
    assert (e.low, e.high) == pytest.approx((mean - half, mean + half), abs=1e-4)
    e, (mean, half) = difference([tuple(scores)]), t_interval(scores[0] - scores[1])
    assert (e.mean, e.low, e.high) == pytest.approx((mean, mean - half, mean + half), abs=2e-4)


def covered(estimates, truth):
    return np.mean([e.low - 1e-12 <= truth <= e.high + 1e-12 for e in estimates])


def check(estimate, population, problems, samples, runs=400):
    """Coverage for problems whose rates are Beta(m c, m (1 - c)), or all m where m is 0 or 1."""
    rng, (mean, spread) = np.random.default_rng(problems + samples), population
    if mean in (0, 1):
        scores = np.full((runs, problems), mean)
    else:
        scores, _ = draw(rng, (mean * spread, (1 - mean) * spread), problems, samples, runs)
    return covered([estimate(row) for row in scores], mean)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("samples", SAMPLES)
def test_few_problems_cover_the_truth(mean, samples):
    for problems in (4, 16, 64):
        assert check(interval, (mean, 1), problems, samples) >= 0.93, problems


def test_the_plain_t_interval_would_not_do():
    def plain(scores):
        mean, half = t_interval(scores)
        return Estimate(mean, mean - half, mean + half, len(scores))

    assert check(plain, (0.02, 1), 8, 8) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("spread", [0.3, 1, 5, 50])
def test_coverage_of_the_table_in_method_md(samples, spread):
    """Problems of 0 or 1 almost alone (spread 0.3) to problems that are all alike (50)."""
    for problems, mean in itertools.product(PROBLEMS, MEANS):
        coverage = check(interval, (mean, spread), problems, samples, runs=4000)
        assert coverage >= 0.935, (problems, mean)  # 95% less four standard errors


@pytest.mark.slow
@pytest.mark.parametrize("problems", PROBLEMS)
def test_differences_and_real_rewards_cover_the_truth(problems):
    """Rewards of any size in [0, 1], most of them 0; two models that differ on few problems."""
    rng = np.random.default_rng(problems)
    for a, b in ((0.05, 1.0), (0.5, 0.5), (8.0, 2.0)):
        scores = rng.beta(a, b, (4000, problems))
        assert covered(map(interval, scores), a / (a + b)) >= 0.935
    for changed, gain in ((0.0, 0.0), (0.03, 0.9), (0.3, 0.5), (1.0, 0.6)):
        before = rng.random((4000, problems)) < 0.5
        flips = rng.random((4000, problems)) < changed
        after = np.where(flips, rng.random((4000, problems)) < gain, before)
        pairs = zip(after.astype(float), before.astype(float), strict=True)
        estimates = [difference([pair]) for pair in pairs]
        assert covered(estimates, changed * (gain - 0.5)) >= 0.935


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [4, 32])
def test_accuracy_covers_the_truth_of_several_populations(problems, samples):
    rng = np.random.default_rng(problems + samples)
    for population in POPULATIONS:
        scores, truth = draw(rng, population, problems, samples)
        assert covered(map(interval, scores), truth) > 0.935, population


def test_average_over_benchmarks_covers_the_truth():
    """Four benchmarks of 30, 30, 30 and 200 problems, of different difficulty."""
    rng = np.random.default_rng(1)
    sizes, populations = (30, 30, 30, 200), [(0.4, 0.6), (0.25, 1.4), (0.3, 3), (1, 1)]
    parts = [draw(rng, p, n, 8) for p, n in zip(populations, sizes, strict=True)]
    truth = np.mean([t for _, t in parts])
    estimates = [accuracy([scores[i] for scores, _ in parts]) for i in range(RUNS)]
    assert 0.94 < covered(estimates, truth) < 0.985
    assert estimates[0].mean == pytest.approx(np.mean([scores[0].mean() for scores, _ in parts]))
    assert estimates[0].n == 290


def test_small_benchmarks_are_not_certain_together():
    """No spread, a single problem, two problems: every end is a number that contains the mean."""
    rng = np.random.default_rng(2)
    for _ in range(300):
        strata = [rng.choice([0, 0.5, 1, rng.random()], rng.integers(1, 5)) for _ in range(3)]
        e = accuracy(strata)
        assert 0 <= e.low <= e.mean <= e.high <= 1 and e.high - e.low > 0.2
    zeros = accuracy([[0.0] * 30, [0.0] * 200])
    assert zeros.high == pytest.approx(interval([0.0] * 30).high / 2)  # unseen in the smaller one


@pytest.mark.parametrize("problems", [30, 200])
@pytest.mark.parametrize("samples", [4, 32])
def test_paired_difference_covers_the_truth(problems, samples):
    """Two models with correlated rates: many problems narrow the interval below that of a score.

    With few, the two unseen differences of 1 and -1 outweigh what the pairing saves.
    """
    rng = np.random.default_rng(problems * samples)
    rates = rng.beta(0.5, 1.0, (RUNS, problems))
    gains = rng.uniform(-0.5, 1, (RUNS, problems)) * rates * (1 - rates)
    truth = 0.25 * (1 / 3 - 0.5 * 1.5 / (1.5 * 2.5))  # E[p] - E[p^2] of Beta(0.5, 1) is 1/3 - 1/5
    a, b = rng.binomial(samples, rates + gains) / samples, rng.binomial(samples, rates) / samples
    estimates = [difference([pair]) for pair in zip(a, b, strict=True)]
    assert covered(estimates, truth) > 0.935
    scores = [interval(row) for row in a]
    paired, single = (np.mean([e.high - e.low for e in each]) for each in (estimates, scores))
    assert paired < (1.02 if problems == 30 else 0.9) * single


def test_difference_of_benchmarks_of_equal_weight():
    a, b = [[1.0, 0.0], [1.0, 1.0, 0.5]], [[0.5, 0.0], [0.0, 1.0, 0.0]]
    e, turned = difference(list(zip(a, b, strict=True))), difference(list(zip(b, a, strict=True)))
    assert e.mean == pytest.approx((0.25 + 0.5) / 2) and e.n == 5
    assert (turned.low, turned.high) == pytest.approx((-e.high, -e.low))
    with pytest.raises(ValueError, match="2 and 3 problems"):
        difference([(a[0], a[1])])


def test_groups_of_equal_size_have_the_interval_of_their_means():
    rewards = np.random.default_rng(0).integers(0, 2, (40, 4)).astype(float)
    groups = np.repeat(np.arange(40).astype(str), 4)
    order = np.random.default_rng(1).permutation(160)
    found, expected = clustered(rewards.ravel()[order], groups[order]), interval(rewards.mean(1))
    assert found.n == 40 and found.figures == pytest.approx(expected.figures, rel=1e-12)


def test_copies_of_a_sample_make_no_interval_narrower():
    rewards, groups = np.array([1.0, 0.0, 0.0, 1.0, 1.0]), np.arange(5)
    once = clustered(rewards, groups)
    again = clustered(np.tile(rewards, 3), np.tile(groups, 3))
    assert again.figures == pytest.approx(once.figures)
    alone = clustered(np.tile(rewards, 3), np.arange(15))
    assert alone.high - alone.low < 0.7 * (once.high - once.low)


def test_groups_of_unequal_size_weigh_by_their_samples():
    """Nine prompts of one sample each, and one of 91: the mean is mostly that of one prompt."""
    rewards = np.array([0.0, 1.0] * 4 + [0.0] + [1.0] * 91)
    found = clustered(rewards, np.array([*range(9), *[9] * 91]))
    assert found.mean == rewards.mean() and found.high <= 1 and found.low < 0.6


def test_the_t_interval_of_seeds_is_that_of_the_tables():
    values = [0.5, 0.52, 0.51, 0.55, 0.49]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    mean, half = t_interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert t_interval([0.5]) == (0.5, math.inf)
