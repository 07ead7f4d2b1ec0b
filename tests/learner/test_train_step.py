"""The pure train step and scorer: against naive gradients, and under everything that must not change a number.

The optimizer is sgd(1.0) throughout, so that the change of the parameters is minus the gradient.
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import optax
import pytest
from step_cases import (
    TINY,
    make_sequences,
    naive,
    put,
    random_values,
    scored,
    spot,
    trees_close,
    trees_equal,
)

from gopd_jax.learner.packing import pack
from gopd_jax.learner.step import score, train_step
from gopd_jax.models.decoder import Decoder
from gopd_jax.objective.gopd import group_normalised
from gopd_jax.objective.settings import Clipping
from gopd_jax.types import TrainState

TOLERANCE = 2e-6
SGD = optax.sgd(1.0)
CAP = 2.0
_step = jax.jit(
    functools.partial(
        train_step,
        model=Decoder(TINY, remat=False),
        optimizer=SGD,
        clipping=Clipping(importance_cap=CAP),
        num_domains=2,
    )
)
_score = jax.jit(functools.partial(score, model=Decoder(TINY, remat=False)))


@functools.cache
def params_of(seed=0):
    return random_params(TINY, seed)


def run(batch):
    """(gradient, metrics, log-probs) of one step from params_of(0)."""
    params = params_of()
    state, metrics, logprobs = _step(TrainState(jnp.int32(3), params, SGD.init(params)), batch)
    assert state.step == 4
    return jax.tree.map(jnp.subtract, params, state.params), metrics, np.asarray(logprobs)


def scored_by(params, batch):
    return _score(params, batch, np.arange(len(batch.tokens)) < batch.used)


# ---- Against the gradient of sum(coefficient * log-prob), one sequence a row, all logits at once.


def test_gopd_gradient_of_two_domains():
    sequences = [
        dataclasses.replace(s, reward_scale=(1.25, 0.5)[s.domain]) for s in make_sequences(8, 2)
    ]
    batch, places = scored(sequences, 5, 2, 24)
    gradient, metrics, logprobs = run(batch)
    teacher, reference = random_values(sequences, 12), random_values(sequences, 13)
    _, student, _ = naive(params_of(), sequences, {s.name: 0.0 for s in sequences})

    coefficients, total, capped = {}, 0.0, 0
    for s in sequences:
        mine = student[s.name]
        np.testing.assert_allclose(logprobs[spot(places, s)], mine, atol=2e-5)
        lam = s.reward_scale
        advantage = lam * (teacher[s.name] - reference[s.name]) - (mine - reference[s.name])
        importance = np.minimum(np.exp(mine - s.behaviour_logprobs), CAP)
        capped += (importance == CAP).sum()
        coefficients[s.name] = -s.weight * importance * advantage
        total += coefficients[s.name].sum()
    assert 5 < capped < sum(len(s.response) for s in sequences) - 5
    trees_close(gradient, naive(params_of(), sequences, coefficients)[2], atol=2e-5)
    assert float(metrics["loss"]) == pytest.approx(total, abs=2e-6)
    assert float(metrics["grad_norm"]) == pytest.approx(
        float(optax.global_norm(gradient)), rel=1e-5
    )
    assert metrics["diagnostics"].finish(["a", "b"])["tokens_trained"] == sum(
        len(s.response) for s in sequences
    )


def test_sft_gradient_is_that_of_the_mean_negative_log_likelihood():
    count = sum(len(s.response) for s in make_sequences(8))
    sequences = make_sequences(8, advantage=1.0, behaviour_logprobs=None)
    sequences = [dataclasses.replace(s, weight=1 / count) for s in sequences]
    gradient, metrics, logprobs = run(pack(sequences, 4, 2, 24)[0])
    nll, student, expected = naive(params_of(), sequences, {s.name: -1 / count for s in sequences})
    trees_close(gradient, expected, atol=2e-5)
    mean = metrics["diagnostics"].finish(["a", "b"])["student_logprob"]
    assert (
        mean
        == pytest.approx(-nll, rel=1e-5)
        == pytest.approx(np.mean(np.concatenate(list(student.values()))), rel=1e-5)
    )


def test_grpo_gradient():
    advantages = group_normalised(np.array([1, 0, 0, 1, 1, 1, 0, 1]), np.repeat([0, 1], 4))
    sequences = [
        dataclasses.replace(s, advantage=float(a))
        for s, a in zip(make_sequences(8), advantages, strict=True)
    ]
    gradient, _, _ = run(pack(sequences, 4, 2, 24)[0])
    _, student, _ = naive(params_of(), sequences, {s.name: 0.0 for s in sequences})
    coefficients = {
        s.name: -s.weight
        * s.advantage
        * np.minimum(np.exp(student[s.name] - s.behaviour_logprobs), CAP)
        for s in sequences
    }
    trees_close(gradient, naive(params_of(), sequences, coefficients)[2], atol=2e-5, rtol=1e-5)


# ---- What must not change a number.


@pytest.mark.parametrize(
    "micro_batches, rows, row_length",
    [(1, 8, 24), (8, 1, 24), (3, 3, 41)],
    ids=["one", "eight", "longer rows, padding rows"],
)
def test_split_packing_and_padding_change_nothing(micro_batches, rows, row_length):
    sequences = make_sequences(8, prompt=(4, 8), response=(9, 12))
    four, places = scored(sequences, 4, 2, 24)
    assert four.used == 4
    other, other_places = scored(sequences, micro_batches, rows, row_length)
    gradient, metrics, logprobs = run(four)
    other_gradient, other_metrics, other_logprobs = run(other)
    trees_close(other_gradient, gradient, atol=TOLERANCE)
    assert float(other_metrics["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-6)
    for s in sequences:
        np.testing.assert_allclose(
            other_logprobs[spot(other_places, s)], logprobs[spot(places, s)], atol=1e-5
        )
    names = ["a", "b"]
    ours, theirs = other_metrics["diagnostics"].finish(names), metrics["diagnostics"].finish(names)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_at_lambda_1_the_reference_changes_no_bit():
    sequences = make_sequences(8, reward_scale=1.0)
    given, _ = scored(sequences, 4, 2, 24)
    gradient, _, _ = run(given)
    for other in (None, -given.reference_logprobs):
        trees_equal(run(given.replace(reference_logprobs=other))[0], gradient)
    with_influence, _ = scored(make_sequences(8), 4, 2, 24)
    assert any(
        np.any(a != b)
        for a, b in zip(*map(jax.tree.leaves, (run(with_influence)[0], gradient)), strict=True)
    )


def test_teacher_equal_to_student_and_reference_gives_nothing():
    batch, _, _ = pack(make_sequences(8), 4, 2, 24)
    same = scored_by(params_of(), batch)
    gradient, metrics, logprobs = run(batch.replace(teacher_logprobs=same, reference_logprobs=same))
    trained = batch.weights > 0
    np.testing.assert_allclose(
        logprobs[trained], np.asarray(same)[trained], atol=1e-5
    )  # train = score
    diagnostics = metrics["diagnostics"].finish(["a", "b"])
    assert max(diagnostics["advantage_max"], -diagnostics["advantage_min"]) < 1e-5
    assert abs(metrics["loss"]) < 1e-5 and metrics["grad_norm"] < 1e-4
    real = scored_by(params_of(1), batch)
    assert run(batch.replace(teacher_logprobs=real, reference_logprobs=same))[1]["grad_norm"] > 0.1


def test_a_rollout_of_weight_0_has_no_influence():
    sequences = make_sequences(9, prompt=(4, 8), response=(9, 12))
    sequences[4] = dataclasses.replace(sequences[4], weight=0.0)
    batch, places = scored(sequences, 5, 2, 24)
    gradient, metrics, _ = run(batch)
    trees_close(
        gradient, run(scored(sequences[:4] + sequences[5:], 5, 2, 24)[0])[0], atol=TOLERANCE
    )
    for field in (
        "tokens",
        "targets",
        "teacher_logprobs",
        "behaviour_logprobs",
        "reference_logprobs",
    ):
        getattr(batch, field)[spot(places, sequences[4])] = 7
    again, again_metrics, _ = run(batch)
    trees_equal(again, gradient)
    trees_equal(again_metrics, metrics)


def test_padding_holds_anything():
    batch, _ = scored(make_sequences(8), 4, 2, 24)
    gradient, _, _ = run(batch)
    padding, nowhere = batch.segments == 0, batch.weights == 0
    spoiled = batch.replace(
        tokens=np.where(padding, 5, batch.tokens),
        targets=np.where(nowhere, 9, batch.targets),
        teacher_logprobs=np.where(nowhere, 3.0, batch.teacher_logprobs).astype(np.float32),
        behaviour_logprobs=np.where(nowhere, -50.0, batch.behaviour_logprobs).astype(np.float32),
    )
    trees_equal(run(spoiled)[0], gradient)


# ---- Several updates from one batch of rollouts.


def test_first_of_several_updates_is_the_single_update():
    batch, _ = scored(make_sequences(8), 4, 2, 24)
    gradient, metrics, _ = run(batch)
    first, first_metrics, _ = run(batch.replace(old_logprobs=scored_by(params_of(), batch)))
    trees_close(first, gradient, atol=1e-5)
    assert float(first_metrics["loss"]) == pytest.approx(float(metrics["loss"]), abs=1e-6)


def test_later_updates_keep_the_advantage_and_importance_of_the_start():
    """From old log-probs of other parameters: the gradient of the clipped surrogate, by hand."""
    sequences = make_sequences(8)
    batch, places = scored(
        sequences, 4, 2, 24, ("old_logprobs", "teacher_logprobs", "reference_logprobs")
    )
    _, student, _ = naive(params_of(), sequences, {s.name: 0.0 for s in sequences})
    old = {
        name: x + np.random.default_rng(1).normal(0, 0.3, len(x)).astype(np.float32)
        for name, x in student.items()
    }
    batch = batch.replace(old_logprobs=put(batch, places, sequences, old))
    teacher, reference = random_values(sequences, 12), random_values(sequences, 13)
    coefficients, held = {}, 0
    for s in sequences:
        o = old[s.name]
        advantage = 1.25 * teacher[s.name] - o - 0.25 * reference[s.name]
        ratio = np.exp(student[s.name] - o)
        clipped = np.where(advantage > 0, ratio > 1.28, ratio < 0.8)
        held += clipped.sum()
        coefficients[s.name] = np.where(
            clipped,
            0,
            -s.weight * np.minimum(np.exp(o - s.behaviour_logprobs), CAP) * advantage * ratio,
        )
    assert held > 5
    gradient, metrics, _ = run(batch)
    trees_close(gradient, naive(params_of(), sequences, coefficients)[2], atol=2e-5, rtol=2e-5)
    tokens = sum(len(s.response) for s in sequences)
    assert metrics["diagnostics"].finish(["a", "b"])["clip_fraction"] == pytest.approx(
        held / tokens
    )


# ---- What is computed at all.


def _counting(calls, remat=False):
    """The tiny decoder, which writes down the first token of each micro-batch that it is really run on."""

    def apply(variables, tokens, positions, segments):
        jax.debug.callback(lambda t: calls.append(int(t)), tokens[0, 0], ordered=False)
        return Decoder(TINY, remat=remat).apply(variables, tokens, positions, segments)

    return types.SimpleNamespace(apply=apply)


def test_score_runs_the_active_micro_batches_alone():
    batch, _, _ = pack(make_sequences(8, prompt=(8, 8), response=(12, 12)), 5, 2, 20)
    everything = np.asarray(scored_by(params_of(), batch))
    assert np.all(everything[:4] != 0) and not np.any(everything[4])
    calls = []
    active = np.array([False, True, False, True, False])
    some = np.asarray(
        jax.jit(functools.partial(score, model=_counting(calls)))(params_of(), batch, active)
    )
    jax.effects_barrier()
    assert sorted(calls) == sorted(batch.tokens[[1, 3], 0, 0])
    np.testing.assert_allclose(some[active], everything[active], atol=1e-5)
    assert not np.any(some[~active])


def test_train_step_skips_empty_micro_batches():
    batch, _ = scored(make_sequences(3, prompt=(8, 8), response=(12, 12)), 5, 2, 20)
    assert batch.used == 2
    calls = []
    step = functools.partial(
        train_step, model=_counting(calls), optimizer=SGD, clipping=Clipping(), num_domains=1
    )
    _, metrics, _ = jax.jit(step)(
        TrainState(jnp.int32(0), params_of(), SGD.init(params_of())), batch
    )
    jax.effects_barrier()
    assert set(calls) == set(batch.tokens[:2, 0, 0].tolist())
    assert np.isfinite(metrics["loss"])
