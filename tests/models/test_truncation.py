"""The smallest kept logit, found without a sort, against a sorted list in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.models import truncation
from gopd_jax.models.heads import log_distribution
from gopd_jax.models.settings import SamplingRule
from gopd_jax.models.truncation import kept_mass, masses, threshold

V = 4_112  # above LEAST_VOCABULARY, and not a multiple of the sample's stride
ROWS = 6
ROUNDING = 3e-6  # of a sum of V probabilities in float32


def smallest_kept(row, top_k, top_p):
    """The smallest kept logit, and those for a p that is smaller or larger by the rounding."""
    descending = np.sort(row.astype(np.float64))[::-1]
    if 0 < top_k < len(row):
        descending = descending[descending >= descending[top_k - 1]]
    probabilities = np.exp(descending - descending[0])
    reached = np.cumsum(probabilities) / probabilities.sum()

    def last(p):
        count = min(np.searchsorted(reached, p) + 1, len(descending)) if p < 1 else len(descending)
        return descending[count - 1]

    return [last(top_p + e if top_p < 1 else top_p) for e in (0, ROUNDING, -ROUNDING)]


def cases():
    rng = np.random.default_rng(0)
    flat = rng.normal(0, 0.3, (ROWS, V))
    peaked = rng.normal(0, 2, (ROWS, V))
    peaked[:, 7:20] += rng.gumbel(8, 3, (ROWS, 13))
    dominated = rng.normal(0, 1, (ROWS, V))
    dominated[:, 3_000] = 60
    ties = np.round(rng.normal(0, 2, (ROWS, V)))
    holes = np.where(rng.random((ROWS, V)) < 0.5, -np.inf, rng.normal(0, 1, (ROWS, V)))
    few_ids = np.where(np.arange(V) < 9, rng.normal(0, 1, (ROWS, V)), -np.inf)
    far = rng.normal(0, 1, (ROWS, V)) * 10.0 ** rng.integers(-30, 30, (ROWS, V))
    crowded = np.zeros((ROWS, V))  # the tokens around the threshold are all in one group
    crowded[:, :: V // truncation.GROUP] = rng.normal(3, 1e-3, (ROWS, truncation.GROUP))
    return {
        "flat": flat,
        "peaked": peaked,
        "dominated": dominated,
        "ties": ties,
        "all equal": np.full((ROWS, V), -3.25),
        "half -inf": holes,
        "nine ids": few_ids,
        "far apart": far,
        "shifted": flat + 1e4,
        "crowded": crowded,
        "two values": np.where(np.arange(V) < 10, 2.0, -np.ones((ROWS, 1))),
        "half precision": np.asarray(jnp.asarray(peaked, jnp.bfloat16), np.float64),
        "a mixture": np.stack([flat[0], peaked[1], dominated[2], ties[3], holes[4], few_ids[5]]),
    }


CASES = {name: case.astype(np.float32) for name, case in cases().items()}
RULES = [
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 10},
    {"top_k": 11},
    {"top_k": 3_000},
    {"top_k": V},
    {"top_p": 1e-6},
    {"top_p": 0.5},
    {"top_p": 0.95},
    {"top_p": 0.99999},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 3_000, "top_p": 0.3},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_smallest_kept_logit_is_that_of_a_sorted_list(rule):
    rows = np.concatenate(list(CASES.values()))
    names = [(name, i) for name in CASES for i in range(ROWS)]
    check(rows, SamplingRule(**rule), names)


def check(rows, rule, names):
    found = np.asarray(compiled(threshold)(rows, rule))
    for row, smallest, name in zip(rows, found, names, strict=True):
        expected, lower, higher = smallest_kept(row, rule.top_k, rule.top_p)
        kept = row >= smallest
        # The set matters, and not which number below its smallest logit stands for it.
        if not np.array_equal(kept, row >= expected):
            assert rule.top_p < 1, name
            assert (row >= higher).sum() <= kept.sum() <= (row >= lower).sum(), name


def compiled(function):
    """A new program: one that was compiled before has the constants of that time."""
    return jax.jit(lambda *args: function(*args), static_argnums=1)


def any_row(rng, size):
    """Logits of a random kind: flat to peaked, some with a few large ones, ties or holes."""
    row = rng.normal(0, 10 ** rng.uniform(-2, 1.5), size)
    if rng.random() < 0.4:
        row[: rng.integers(1, size)] += rng.gumbel(5, 3)
    if rng.random() < 0.3:
        row = np.round(row, rng.integers(0, 3))
    if rng.random() < 0.3:
        row[rng.random(size) < rng.random()] = -np.inf
        row[rng.integers(size)] = 0.0
    return rng.permutation(row)


@pytest.mark.parametrize(
    "size, rows, rule",
    [
        (5, 200, {"top_p": 0.6}),
        (17, 200, {"top_k": 6, "top_p": 0.8}),
        (2_049, 100, {"top_k": 2_000}),
        (2_049, 100, {"top_p": 0.95}),
        (50_257, 16, {"top_k": 300, "top_p": 0.9}),
        (151_936, 8, {"top_p": 0.95}),
    ],
)
def test_any_distribution_of_any_size(size, rows, rule):
    rng = np.random.default_rng(size)
    logits = np.stack([any_row(rng, size) for _ in range(rows)]).astype(np.float32)
    check(logits, SamplingRule(**rule), range(rows))


@pytest.mark.parametrize("rule", [{"top_k": 50}, {"top_p": 0.9}, {"top_k": 3_000, "top_p": 0.3}])
def test_the_masses_are_those_of_what_the_threshold_keeps(rule):
    rows, rule = np.concatenate(list(CASES.values())), SamplingRule(**rule)

    def both(logits, rule):
        return threshold(logits, rule), *masses(logits, rule)

    smallest, mass, least = map(np.asarray, compiled(both)(rows, rule))
    expected = np.exp(rows - rows.max(axis=1, keepdims=True))
    expected[rows < smallest[:, None]] = 0
    mass = np.where(mass >= least[:, None], mass, 0)
    np.testing.assert_array_equal(mass > 0, expected > 0)
    np.testing.assert_allclose(mass, expected, rtol=1e-6)


@pytest.mark.parametrize("rule", [{"top_p": 0.9}, {"top_k": 50}], ids=str)
def test_shortcuts_do_not_change_what_is_kept(monkeypatch, rule):
    rows, rule = np.concatenate(list(CASES.values())), SamplingRule(**rule)
    quick = np.asarray(compiled(threshold)(rows, rule))
    monkeypatch.setattr(truncation, "LEAST_VOCABULARY", 10**9)
    slow = np.asarray(compiled(threshold)(rows, rule))
    np.testing.assert_array_equal(rows >= quick[:, None], rows >= slow[:, None])


@pytest.mark.parametrize("p, kept", [(0.7 - 1e-6, 2), (0.7 + 1e-6, 3)])
def test_p_just_below_and_just_above_a_boundary(p, kept):
    """Of four tokens with 40, 30, 20 and 10%, among many that are never drawn."""
    logits = np.full((1, V), -np.inf, np.float32)
    logits[0, [5, 4_000, 77, 2_222]] = np.log([0.4, 0.3, 0.2, 0.1])
    found = compiled(threshold)(logits, SamplingRule(top_p=p))
    assert (logits >= np.asarray(found)[:, None]).sum() == kept


@pytest.mark.parametrize("rule", [{"temperature": 0.6, "top_p": 0.9}, {}], ids=str)
def test_two_numbers_give_the_whole_distribution(rule):
    rule, logits = SamplingRule(**rule), CASES["peaked"]

    def both(logits, rule):
        smallest, log_mass = kept_mass(logits, rule)
        scaled = logits / rule.temperature
        ours = jnp.where(scaled >= smallest[:, None], scaled - log_mass[:, None], -jnp.inf)
        return ours, log_distribution(logits, rule)

    ours, whole = map(np.asarray, compiled(both)(logits, rule))
    np.testing.assert_allclose(ours, whole, atol=1e-5)
    np.testing.assert_allclose(np.exp(ours.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


def test_the_gradient_is_that_of_the_kept_logits():
    rule, logits = SamplingRule(top_p=0.9), CASES["peaked"]
    best = np.argmax(logits, axis=-1)[:, None]

    def total(logits):
        logprobs = log_distribution(logits, rule)
        return jnp.sum(jnp.take_along_axis(logprobs, best, axis=-1)), logprobs

    gradient, logprobs = jax.jit(jax.grad(total, has_aux=True))(logits)
    expected = (np.arange(V) == best) - np.exp(np.asarray(logprobs))
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_nothing_is_sorted():
    logits = jax.ShapeDtypeStruct((8, V), jnp.float32)
    for rule in (SamplingRule(top_p=0.9), SamplingRule(top_k=50), SamplingRule(1.0, 50, 0.9)):
        text = compiled(threshold).lower(logits, rule).as_text()
        assert "stablehlo.sort" not in text and "chlo.sort" not in text
        # Only the maxima of groups, and the tokens of some groups, are ranked.
        ranked = [line for line in text.splitlines() if "top_k(" in line]
        assert not any(f"x{V}xf32" in line for line in ranked), ranked
