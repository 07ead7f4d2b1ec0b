"""Token weights: what a loss built from them is, for every aggregation and truncation rule."""

import itertools

import numpy as np
import pytest

from gopd_jax.objective.weights import AGGREGATIONS, TRUNCATION_RULES, token_weights

LENGTHS = np.array([5, 1, 8, 3])
TRUNCATED = np.array([False, True, True, False])
VALUES = [np.random.default_rng(i).normal(size=n) for i, n in enumerate(LENGTHS)]


def loss_of(weights, members=range(4)):
    return sum(weights[i] * VALUES[i].sum() for i in members)


def mean_of(aggregation, members, count):
    """The aggregation in words: over `members`, with `count` sequences in the denominator.

    The rule "mask" keeps the masked ones in it.
    """
    tokens = sum(LENGTHS[i] for i in (members if count == len(members) else range(count)))
    return {
        "token-mean": sum(VALUES[i].sum() for i in members) / tokens,
        "sequence-mean-token-mean": sum(VALUES[i].mean() for i in members) / count,
        "sequence-mean-token-sum": sum(VALUES[i].sum() for i in members) / count,
    }[aggregation]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_truncation_rules(aggregation):
    def loss(rule):
        return loss_of(token_weights(LENGTHS, TRUNCATED, aggregation, rule))

    assert loss("keep") == pytest.approx(mean_of(aggregation, [0, 1, 2, 3], 4))
    assert loss("mask") == pytest.approx(mean_of(aggregation, [0, 3], 4))
    assert loss("drop") == pytest.approx(mean_of(aggregation, [0, 3], 2))
    assert len({round(loss(rule), 9) for rule in TRUNCATION_RULES}) == 3


@pytest.mark.parametrize("aggregation, rule", itertools.product(AGGREGATIONS, TRUNCATION_RULES))
def test_rules_agree_where_nothing_is_truncated(aggregation, rule):
    none = np.zeros(4, bool)
    expected = token_weights(LENGTHS, none, aggregation, "keep")
    np.testing.assert_array_equal(token_weights(LENGTHS, none, aggregation, rule), expected)
    assert expected.dtype == np.float64


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_where_all_are_truncated(aggregation):
    all_cut = np.ones(4, bool)
    assert token_weights(LENGTHS, all_cut, aggregation, "keep").all()
    for rule in ("mask", "drop"):
        weights = token_weights(LENGTHS, all_cut, aggregation, rule)
        np.testing.assert_array_equal(weights, np.zeros(4))


@pytest.mark.parametrize(
    "aggregation, truncation, message",
    [
        ("mean", "keep", r"aggregation='mean': expected one of .*'sequence-mean-token-mean'"),
        ("token-mean", "skip", r"truncation='skip': expected one of \['keep', 'mask', 'drop'\]"),
    ],
)
def test_unknown_names_are_refused_with_the_choices(aggregation, truncation, message):
    with pytest.raises(ValueError, match=message):
        token_weights(LENGTHS, TRUNCATED, aggregation, truncation)
