"""The share of noise in a gradient, against gradients whose noise is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.learner.noise import no_parts, noise_share, part


def share_of(gradients, weights):
    """The share for micro-batches with these gradients [M, n] and token weights [M]."""
    parts = no_parts()
    for g, f in zip(gradients, weights, strict=True):
        tokens = jnp.array([[f / 2, f / 2]])
        grads = {"a": jnp.asarray(g[:3]), "b": jnp.asarray(g[3:])}
        parts = jax.tree.map(jnp.add, parts, part(grads, tokens))
    return float(noise_share(parts, jnp.linalg.norm(jnp.asarray(gradients).sum(0))))


def test_micro_batches_that_agree_have_no_noise():
    weights = np.array([0.5, 0.2, 0.3])
    gradient = np.array([1.0, -2.0, 0.5, 3.0, 0.1])
    assert share_of(weights[:, None] * gradient, weights) == pytest.approx(0, abs=1e-6)


def test_with_sizes_that_do_not_add_up_to_1_the_share_is_the_same():
    rng = np.random.default_rng(0)
    weights, gradients = rng.uniform(0.5, 1.5, 6), rng.normal(size=(6, 8))
    scaled = share_of(gradients, weights)
    assert scaled == pytest.approx(share_of(gradients, weights / weights.sum()), rel=1e-4)


@pytest.mark.parametrize("signal", [0.0, 0.1, 1.0])
def test_the_mean_of_many_draws_is_the_noise_that_was_put_in(signal):
    """Micro-batches of unlike sizes n: g = f (G + noise / sqrt(n)), in 2,000 draws."""
    rng = np.random.default_rng(1)
    sizes = np.array([1, 2, 3, 10])
    f = sizes / sizes.sum()
    mean = signal * np.array([1.0, -1.0, 2.0, 0.0, 0.5])
    noise = rng.normal(size=(2000, 4, 5)) / np.sqrt(sizes)[:, None]
    gradients = f[:, None] * (mean + noise)
    squares = (gradients.sum(1) ** 2).sum(1)
    shares = [share_of(g, f) for g in gradients]
    found = np.mean(np.array(shares) * squares)
    expected = 5 / sizes.sum()  # of a mean over all, in 5 dimensions
    assert found == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("gradients", [np.ones((1, 5)), np.zeros((3, 5))])
def test_what_a_single_part_or_no_gradient_cannot_say(gradients):
    assert np.isnan(share_of(gradients, np.ones(len(gradients))))
