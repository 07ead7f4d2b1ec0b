"""The distribution of a sampling rule and the draws from it, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gopd_jax.models.heads import log_distribution
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.sampling import draw, prompt_number, sample_keys
from gopd_jax.runtime.schema import build

V = 12
LOGITS = np.random.default_rng(0).normal(0, 1.5, (5, V)).astype(np.float32)


def expected_probabilities(logits, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities of one row, token by token from the most likely."""
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled)[: top_k or None]
    p = np.exp(scaled[order] - scaled.max())
    p /= p.sum()
    kept = next(n for n in range(1, len(p) + 1) if p[:n].sum() >= top_p - 1e-9)
    out = np.zeros(len(logits))
    out[order[:kept]] = p[:kept] / p[:kept].sum()
    return out


RULES = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 4},
    {"top_k": 50},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"top_p": 0.999},
    {"temperature": 1.7, "top_k": 6, "top_p": 0.7},
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_distribution_is_exact(rule):
    logprobs = log_distribution(jnp.asarray(LOGITS), SamplingRule(**rule))
    ours = np.exp(np.asarray(logprobs, np.float64))
    expected = np.stack([expected_probabilities(row, **rule) for row in LOGITS])
    np.testing.assert_array_equal(ours > 0, expected > 0)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_top_p_keeps_the_token_that_reaches_p():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))
    for p, kept in [(0.39, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.91, 4)]:
        assert int(np.isfinite(log_distribution(logits, SamplingRule(top_p=p))).sum()) == kept, p


def test_top_p_counts_after_temperature_and_top_k():
    logits = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))

    def kept(**rule):
        return np.isfinite(log_distribution(logits, SamplingRule(**rule))).sum()

    assert kept(top_k=2, top_p=0.5) == 1  # 4/7 of the two is more than a half
    assert kept(top_p=0.5) == 2
    assert kept(temperature=0.3, top_p=0.5) == 1


def test_ties_at_the_kth_are_kept():
    kept = log_distribution(jnp.array([[1.0, 2.0, 1.0, 0.0]]), SamplingRule(top_k=2))
    np.testing.assert_array_equal(np.isfinite(kept), [[True, True, True, False]])


def test_greedy_is_certain():
    logprobs = np.asarray(log_distribution(jnp.asarray(LOGITS), SamplingRule(temperature=0)))
    np.testing.assert_array_equal(logprobs.argmax(axis=1), LOGITS.argmax(axis=1))
    np.testing.assert_array_equal(np.sort(logprobs, axis=1), [[-np.inf] * (V - 1) + [0]] * 5)


def test_half_precision_logits_give_float32_logprobs():
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    assert log_distribution(logits, SamplingRule(top_p=0.9)).dtype == jnp.float32


@pytest.mark.parametrize(
    "rule", [{}, {"top_p": 0.8}, {"temperature": 1.5, "top_k": 7, "top_p": 0.9}], ids=str
)
def test_draws_follow_the_distribution(rule):
    """20,000 samples of one prompt with the engine's keys; chi-square test, fixed seed."""
    count = 20_000
    prompts = jnp.full(count, prompt_number("p0"), jnp.uint32)
    keys = sample_keys(jax.random.key(0), prompts, jnp.arange(count, dtype=jnp.uint32))
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 3)
    tokens, logprobs = draw(keys, jnp.broadcast_to(LOGITS[0], (count, V)), SamplingRule(**rule))
    expected = expected_probabilities(LOGITS[0], **rule)
    counts = np.bincount(tokens, minlength=V)
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    p_value = stats.chisquare(counts[kept], count * expected[kept]).pvalue
    print(f"p = {p_value:.3f} over {kept.sum()} tokens")
    assert p_value > 0.01
    np.testing.assert_allclose(logprobs, np.log(expected[np.asarray(tokens)]), atol=1e-5)


@pytest.mark.parametrize("rule", [{}, {"top_k": 3}, {"top_p": 0.8}], ids=str)
def test_a_nan_among_the_logits_shows_in_the_logprob_of_its_row_only(rule):
    logits = LOGITS.copy()
    logits[1, 4] = np.nan
    _, logprobs = draw(jax.random.split(jax.random.key(0), 5), logits, SamplingRule(**rule))
    np.testing.assert_array_equal(np.isfinite(logprobs), np.arange(5) != 1)


def test_every_sample_has_a_key_of_its_own():
    grid = np.meshgrid(np.arange(30), np.arange(30))
    prompts, samples = (jnp.asarray(x.ravel(), jnp.uint32) for x in grid)
    keys = [sample_keys(jax.random.key(seed), prompts, samples) for seed in (0, 1)]
    data = [jax.random.key_data(k) for k in keys]
    assert len(np.unique(np.concatenate(data), axis=0)) == 2 * 30 * 30


def test_prompt_numbers_are_the_same_in_every_process():
    assert prompt_number("123456789") == 0xCBF43926  # the published check value of CRC-32


@pytest.mark.parametrize(
    "values, message",
    [
        ({"temperature": -0.1}, r"temperature=-0.1: expected a number >= 0"),
        ({"temperature": float("nan")}, r"temperature=nan"),
        ({"top_k": -1}, r"top_k=-1: expected a number >= 0"),
        ({"top_p": 0.0}, r"top_p=0.0: expected a number > 0"),
        ({"top_p": 1.1}, r"top_p=1.1: expected a number <= 1"),
    ],
)
def test_rule_errors(values, message):
    with pytest.raises(ValueError, match=message):
        build(SamplingRule, values, "rollout")
    with pytest.raises(ValueError):
        SamplingRule(**values)
