"""The estimators where every sequence can be written down: 5 ids, 3 tokens, random tables.

The student is a table of logits with a row for each prefix: hidden states are rows of the identity,
and the table is the head. So the gradients below are those of the learner's own path.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gopd_jax.learner.exact import FrozenHeads, exact_predictions
from gopd_jax.objective.estimators import full_loss, top_k_loss
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import EstimatorSettings, LossSettings
from gopd_jax.types import PackedBatch

V, T = 5, 3
SEQUENCES = np.array(list(itertools.product(range(V), repeat=T)), np.int32)  # [125, 3]
PREFIXES = [p for n in range(T) for p in itertools.product(range(V), repeat=n)]
STATES = np.array([[PREFIXES.index(tuple(s[:t])) for t in range(T)] for s in SEQUENCES])
LAMBDAS = (0.0, 0.5, 1.0, 1.25, 2.0)
FULL = EstimatorSettings(estimator="full")


@functools.cache
def tables():
    """Logits of student, teacher and reference, [states, V] each."""
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(len(PREFIXES), V)).astype(np.float32) for _ in range(3))


def batch_of(states, targets, weights, scale):
    rows, length = states.shape
    hidden = np.eye(len(PREFIXES), dtype=np.float32)[states]
    integers = np.zeros((rows, length), np.int32)
    return PackedBatch(
        used=np.int32(1),
        domains=np.zeros(rows, np.int32),
        tokens=integers,
        positions=integers,
        segments=integers,
        targets=targets,
        weights=np.broadcast_to(np.asarray(weights, np.float32)[:, None], states.shape),
        reward_scale=np.full(states.shape, scale, np.float32),
        advantages=np.zeros(states.shape, np.float32),
        teacher_hidden=hidden,
        reference_hidden=hidden,
    )


@functools.partial(jax.jit, static_argnums=2)
def predicted(table, batch, settings):
    _, teacher, reference = tables()
    heads = FrozenHeads((teacher.T,), np.zeros(1, np.int32), reference.T)
    options = {"num_ids": None, "frozen_head": False}
    settings = LossSettings(estimator=settings)
    return exact_predictions(batch.teacher_hidden, table.T, batch, heads, settings, **options)


def loss_of(table, batch, settings):
    """The loss of the learner, of a table."""
    predictions = predicted(table, batch, settings)
    return weighted_loss(predictions, batch, LossSettings(estimator=settings), 1)[0]


loss_and_gradient = jax.jit(jax.value_and_grad(loss_of), static_argnums=2)


def probabilities(table):
    logprobs = np.asarray(jax.nn.log_softmax(jnp.asarray(table, jnp.float32)), np.float64)
    return np.exp(np.take_along_axis(logprobs[STATES], SEQUENCES[..., None], -1).sum((1, 2)))


@functools.partial(jax.jit, static_argnums=(1,))
def per_sequence(weights, settings, scale):
    """The gradient of each sequence's loss, [125, states, V]."""

    def one(states, targets):
        batch = batch_of(STATES[:1], SEQUENCES[:1], np.ones(1), 1.0)
        hidden = jnp.eye(len(PREFIXES))[states][None]
        batch = batch.replace(targets=targets[None], teacher_hidden=hidden, reference_hidden=hidden)
        batch = batch.replace(reward_scale=jnp.full((1, T), scale))
        return jax.grad(loss_of)(weights, batch, settings)

    return jax.lax.map(lambda x: one(*x), (jnp.asarray(STATES), jnp.asarray(SEQUENCES)))


def moments(gradients, shares):
    """Expected gradient, and its variance summed over the parameters."""
    gradients = np.asarray(gradients, np.float64).reshape(len(shares), -1)
    mean = shares @ gradients
    return mean, shares @ (gradients**2).sum(1) - (mean**2).sum()


@pytest.mark.parametrize("scale", LAMBDAS)
def test_expected_gradients_are_that_of_the_exact_loss(scale):
    """Over all sequences, the states that are visited held fixed; the variances are printed."""
    table = jnp.asarray(tables()[0])
    shares = probabilities(table)
    found = {}
    for name in ("full", "sampled", "sampled_baseline"):
        if name == "sampled":
            gradients = sampled_gradients(table, scale)
        else:
            gradients = per_sequence(table, EstimatorSettings(estimator=name), scale)
        found[name] = moments(gradients, shares)
    for name in ("sampled", "sampled_baseline"):
        np.testing.assert_allclose(found[name][0], found["full"][0], atol=2e-6)
    assert np.abs(found["full"][0]).max() > 0.01
    variances = {name: round(float(v), 4) for name, (_, v) in found.items()}
    print(f"lambda {scale}: variance {variances}")
    assert variances["sampled_baseline"] <= variances["sampled"]


def sampled_gradients(table, scale):
    """Of the sampled loss, which has only the log-probs of the drawn tokens."""
    logprobs = [np.asarray(jax.nn.log_softmax(t)) for t in tables()[1:]]

    def loss(table, states, targets):
        own = jax.nn.log_softmax(table)[states, targets]
        teacher, reference = (x[states, targets] for x in map(jnp.asarray, logprobs))
        batch = batch_of(STATES[:1], SEQUENCES[:1], np.ones(1), scale)
        batch = batch.replace(
            teacher_logprobs=teacher[None],
            reference_logprobs=reference[None],
            teacher_hidden=None,
            reference_hidden=None,
        )
        predictions = Predictions(own[None], jnp.zeros((1, T)))
        return weighted_loss(predictions, batch, LossSettings(), 1)[0]

    return jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(table, STATES, SEQUENCES)


@pytest.mark.parametrize("scale", LAMBDAS)
def test_at_the_optimum_the_baseline_leaves_no_variance(scale):
    """There every advantage is log Z, which "sampled" still multiplies with the score."""
    _, teacher, reference = tables()
    optimum = jnp.asarray(scale * teacher + (1 - scale) * reference)
    shares = probabilities(optimum)
    settings = EstimatorSettings(estimator="sampled_baseline")
    mean, variance = moments(per_sequence(optimum, settings, scale), shares)
    assert np.abs(mean).max() < 1e-6 and variance < 1e-9
    mean, variance = moments(sampled_gradients(optimum, scale), shares)
    assert np.abs(mean).max() < 1e-6 and (variance > 1e-3) == (scale not in (0.0, 1.0))


@pytest.mark.parametrize(
    ("name", "scale"),
    [("full", scale) for scale in LAMBDAS] + [(n, 1.25) for n in ("forward_kl", "jsd", "top_k")],
)
def test_descent_ends_at_the_optimum(name, scale):
    """teacher^lambda reference^(1 - lambda) / Z, within 1e-4 of each probability."""
    settings = EstimatorSettings(estimator=name, top_k=3)
    student, teacher, reference = tables()
    states = np.arange(len(PREFIXES))[:, None]
    zeros = np.zeros(states.shape, np.int32)
    batch = batch_of(states, zeros, np.ones(len(states)), scale)
    optimizer = optax.adam(optax.exponential_decay(0.3, 1000, 0.5))

    def step(carry, _):
        table, moments = carry
        updates, moments = optimizer.update(jax.grad(loss_of)(table, batch, settings), moments)
        return (table + updates, moments), None

    def descend(table):
        return jax.lax.scan(step, (table, optimizer.init(table)), length=8000)[0][0]

    found = jax.nn.softmax(jax.jit(descend)(jnp.asarray(student)))
    target = jax.nn.softmax(jnp.asarray(scale * teacher + (1 - scale) * reference))
    assert np.abs(jax.nn.softmax(student) - target).max() > 0.1
    if name == "top_k":  # the tail is told apart from the top as a whole only
        top = np.argsort(-np.asarray(found), axis=1)[:, :3]
        found, target = (np.take_along_axis(np.asarray(x), top, 1) for x in (found, target))
    np.testing.assert_allclose(found, target, atol=1e-4)


@pytest.mark.parametrize("tail", ["bucket", "unnormalised"])
@pytest.mark.parametrize("of", ["student", "teacher"])
def test_top_k_of_all_tokens_is_the_full_loss(tail, of):
    settings = EstimatorSettings(estimator="top_k", top_k=V, top_k_of=of, tail=tail)
    table = jnp.asarray(tables()[0])
    batch = batch_of(STATES, SEQUENCES, probabilities(table), 1.25)
    losses, gradients = zip(
        *[loss_and_gradient(table, batch, s) for s in (settings, FULL)], strict=True
    )
    log_z = predicted(table, batch, FULL).exact.log_z
    np.testing.assert_allclose(losses[0], losses[1] + jnp.sum(batch.weights * log_z), atol=1e-5)
    np.testing.assert_allclose(*gradients, atol=2e-6)


def test_top_k_is_a_kl_of_coarser_distributions():
    """At least 0, at most the full one, and growing with k."""
    table = jnp.asarray(tables()[0])
    batch = batch_of(STATES, SEQUENCES, np.ones(len(STATES)), 1.25)
    found = []
    for k in (1, 2, 3):
        settings = EstimatorSettings(estimator="top_k", top_k=k)
        found.append(top_k_loss(predicted(table, batch, settings).exact, "bucket"))
    exact = predicted(table, batch, FULL).exact
    found.append(full_loss(exact, 1.25) + exact.log_z)
    for fewer, more in itertools.pairwise(found):
        assert (fewer <= more + 1e-6).all() and (fewer < more - 1e-3).any()
    assert found[0].min() >= -1e-6


def test_a_top_k_sum_as_the_advantage_of_the_drawn_token_would_teach_nothing():
    """Its expected gradient is 0, as that of any number that the state alone decides."""
    table = jnp.asarray(tables()[0])
    settings = EstimatorSettings(estimator="top_k", top_k=2)
    batch = batch_of(STATES, SEQUENCES, np.ones(len(STATES)), 1.25)
    scalar = -top_k_loss(predicted(table, batch, settings).exact, "bucket")
    shares = probabilities(table)

    def policy(table, advantages, weights):
        logprobs = jax.nn.log_softmax(table)[STATES, SEQUENCES]
        return -jnp.sum(weights[:, None] * advantages * logprobs)

    gradient = jax.grad(policy)(table, scalar, jnp.asarray(shares, jnp.float32))
    assert np.abs(gradient).max() < 1e-6 < 0.01 < np.abs(scalar).max()
