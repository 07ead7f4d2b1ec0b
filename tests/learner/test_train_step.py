"""The pure train step and scorer: naive gradients, and all that must not change a number.

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
    make_examples,
    naive,
    pack_one,
    predictions,
    put,
    random_values,
    run_score,
    scored,
    trees_close,
    trees_equal,
)

from gopd_jax.learner.step import score, train_step
from gopd_jax.models.decoder import Decoder
from gopd_jax.models.settings import SamplingRule
from gopd_jax.objective.gopd import group_normalised
from gopd_jax.objective.settings import Clipping, LossSettings
from gopd_jax.types import TrainState

TOLERANCE = 2e-6
SGD = optax.sgd(1.0)
CAP = 2.0
DOMAINS = ["a", "b"]
jitted_step = jax.jit(
    functools.partial(
        train_step,
        model=Decoder(TINY, remat="none"),
        optimizer=SGD,
        settings=LossSettings(Clipping(importance_cap=CAP)),
        num_domains=2,
    )
)
jitted_score = jax.jit(functools.partial(score, model=Decoder(TINY, remat="none")))


@functools.cache
def params_of(seed=0):
    return random_params(TINY, seed)


def run(batch):
    """Gradient, metrics and log-probs of one step from params_of(0)."""
    params = params_of()
    state, metrics, tokens = jitted_step(TrainState(jnp.int32(3), params, SGD.init(params)), batch)
    assert state.step == 4
    gradient = jax.tree.map(jnp.subtract, params, state.params)
    return gradient, metrics, np.asarray(tokens[0].logprobs)


def scored_by(params, batch):
    return run_score(jitted_score, params, batch)


def response_tokens(examples):
    return sum(len(e.response) for e in examples)


# ---- Against the gradient of sum(coefficient * log-prob), one example a row, all logits at once.


def test_gopd_gradient_of_two_domains():
    examples = [
        dataclasses.replace(e, reward_scale=(1.25, 0.5)[e.domain]) for e in make_examples(8, 2)
    ]
    batch, slices = scored(examples, 5, 2, 24)
    gradient, metrics, logprobs = run(batch)
    teacher, reference = random_values(examples, 12), random_values(examples, 13)
    _, student, _ = naive(params_of(), examples)

    coefficients, total, capped = {}, 0.0, 0
    for e in examples:
        mine, lam = student[e.key], e.reward_scale
        np.testing.assert_allclose(logprobs[predictions(slices, e)], mine, atol=2e-5)
        advantage = lam * (teacher[e.key] - reference[e.key]) - (mine - reference[e.key])
        importance = np.minimum(np.exp(mine - e.behaviour_logprobs), CAP)
        capped += (importance == CAP).sum()
        coefficients[e.key] = -e.weight * importance * advantage
        total += coefficients[e.key].sum()
    assert 5 < capped < response_tokens(examples) - 5
    trees_close(gradient, naive(params_of(), examples, coefficients)[2], atol=2e-5)
    assert float(metrics.loss) == pytest.approx(total, abs=2e-6)
    norm = float(optax.global_norm(gradient))
    assert float(metrics.grad_norm) == pytest.approx(norm, rel=1e-5)
    assert metrics.diagnostics.finish(DOMAINS)["tokens_trained"] == response_tokens(examples)


def test_sft_gradient_is_that_of_the_mean_negative_log_likelihood():
    examples = make_examples(8, advantage=1.0, behaviour_logprobs=None)
    count = response_tokens(examples)
    examples = [dataclasses.replace(e, weight=1 / count) for e in examples]
    gradient, metrics, _ = run(pack_one(examples, 4, 2, 24)[0])
    coefficients = {e.key: -1 / count for e in examples}
    nll, student, expected = naive(params_of(), examples, coefficients)
    trees_close(gradient, expected, atol=2e-5)
    mean = metrics.diagnostics.finish(DOMAINS)["student_logprob"]
    naive_mean = np.mean(np.concatenate(list(student.values())))
    assert mean == pytest.approx(-nll, rel=1e-5) == pytest.approx(naive_mean, rel=1e-5)


def test_grpo_gradient():
    advantages = group_normalised(np.array([1, 0, 0, 1, 1, 1, 0, 1]), np.repeat([0, 1], 4))
    examples = [
        dataclasses.replace(e, advantage=float(a))
        for e, a in zip(make_examples(8), advantages, strict=True)
    ]
    gradient, _, _ = run(pack_one(examples, 4, 2, 24)[0])
    _, student, _ = naive(params_of(), examples)
    coefficients = {}
    for e in examples:
        importance = np.minimum(np.exp(student[e.key] - e.behaviour_logprobs), CAP)
        coefficients[e.key] = -e.weight * e.advantage * importance
    trees_close(gradient, naive(params_of(), examples, coefficients)[2], atol=2e-5, rtol=1e-5)


# ---- What must not change a number.


@pytest.mark.parametrize(
    "micro_batches, rows, row_length",
    [
        pytest.param(1, 8, 24, id="one", marks=pytest.mark.slow),
        pytest.param(8, 1, 24, id="eight", marks=pytest.mark.slow),
        pytest.param(3, 3, 41, id="longer rows, padding rows"),
    ],
)
def test_split_packing_and_padding_change_nothing(micro_batches, rows, row_length):
    examples = make_examples(8, prompt=(4, 8), response=(9, 12))
    four, slices = scored(examples, 4, 2, 24)
    assert four.used == 4
    other, other_slices = scored(examples, micro_batches, rows, row_length)
    gradient, metrics, logprobs = run(four)
    other_gradient, other_metrics, other_logprobs = run(other)
    trees_close(other_gradient, gradient, atol=TOLERANCE)
    assert float(other_metrics.loss) == pytest.approx(float(metrics.loss), abs=1e-6)
    for e in examples:
        here, there = predictions(slices, e), predictions(other_slices, e)
        np.testing.assert_allclose(other_logprobs[there], logprobs[here], atol=1e-5)
    ours = other_metrics.diagnostics.finish(DOMAINS)
    theirs = metrics.diagnostics.finish(DOMAINS)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


def test_at_lambda_1_the_reference_changes_no_bit():
    given, _ = scored(make_examples(8, reward_scale=1.0), 4, 2, 24)
    gradient, _, _ = run(given)
    for other in (None, -given.reference_logprobs):
        trees_equal(run(given.replace(reference_logprobs=other))[0], gradient)
    with_influence, _ = scored(make_examples(8), 4, 2, 24)
    leaves = map(jax.tree.leaves, (run(with_influence)[0], gradient))
    assert any(np.any(a != b) for a, b in zip(*leaves, strict=True))


def test_teacher_equal_to_student_and_reference_gives_nothing():
    batch, _ = pack_one(make_examples(8), 4, 2, 24)
    same = scored_by(params_of(), batch)
    gradient, metrics, logprobs = run(batch.replace(teacher_logprobs=same, reference_logprobs=same))
    trained = batch.weights > 0
    # The scorer and the train step compute the same log-probs.
    np.testing.assert_allclose(logprobs[trained], np.asarray(same)[trained], atol=1e-5)
    diagnostics = metrics.diagnostics.finish(DOMAINS)
    assert max(diagnostics["advantage_max"], -diagnostics["advantage_min"]) < 1e-5
    assert abs(metrics.loss) < 1e-5 and metrics.grad_norm < 1e-4
    real = scored_by(params_of(1), batch)
    _, metrics, _ = run(batch.replace(teacher_logprobs=real, reference_logprobs=same))
    assert metrics.grad_norm > 0.1


def test_a_rollout_of_weight_0_has_no_influence():
    examples = make_examples(9, prompt=(4, 8), response=(9, 12))
    examples[4] = dataclasses.replace(examples[4], weight=0.0)
    batch, slices = scored(examples, 5, 2, 24)
    gradient, metrics, _ = run(batch)
    without, _ = scored(examples[:4] + examples[5:], 5, 2, 24)
    trees_close(gradient, run(without)[0], atol=TOLERANCE)
    spoiled = ("teacher_logprobs", "behaviour_logprobs", "reference_logprobs")
    for field in ("tokens", "targets", *spoiled):
        getattr(batch, field)[predictions(slices, examples[4])] = 7
    again, again_metrics, _ = run(batch)
    trees_equal(again, gradient)
    trees_equal(again_metrics, metrics)


def test_padding_holds_anything():
    batch, _ = scored(make_examples(8), 4, 2, 24)
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
    batch, _ = scored(make_examples(8), 4, 2, 24)
    gradient, metrics, _ = run(batch)
    first, first_metrics, _ = run(batch.replace(old_logprobs=scored_by(params_of(), batch)))
    trees_close(first, gradient, atol=1e-5)
    assert float(first_metrics.loss) == pytest.approx(float(metrics.loss), abs=1e-6)


def test_later_updates_keep_the_advantage_and_importance_of_the_start():
    """From old log-probs of other parameters: the gradient of the clipped surrogate, by hand."""
    examples = make_examples(8)
    names = ("old_logprobs", "teacher_logprobs", "reference_logprobs")
    batch, slices = scored(examples, 4, 2, 24, names)
    _, student, _ = naive(params_of(), examples)
    old = {
        key: x + np.random.default_rng(1).normal(0, 0.3, len(x)).astype(np.float32)
        for key, x in student.items()
    }
    batch = batch.replace(old_logprobs=put(batch, slices, examples, old))
    teacher, reference = random_values(examples, 12), random_values(examples, 13)
    coefficients, held = {}, 0
    for e in examples:
        o = old[e.key]
        advantage = 1.25 * teacher[e.key] - o - 0.25 * reference[e.key]
        ratio = np.exp(student[e.key] - o)
        clipped = np.where(advantage > 0, ratio > 1.28, ratio < 0.8)
        held += clipped.sum()
        importance = np.minimum(np.exp(o - e.behaviour_logprobs), CAP)
        coefficients[e.key] = np.where(clipped, 0, -e.weight * importance * advantage * ratio)
    assert held > 5
    gradient, metrics, _ = run(batch)
    expected = naive(params_of(), examples, coefficients)[2]
    trees_close(gradient, expected, atol=2e-5, rtol=2e-5)
    fraction = metrics.diagnostics.finish(DOMAINS)["clip_fraction"]
    assert fraction == pytest.approx(held / response_tokens(examples))


# ---- What is computed at all.


def counting(calls):
    """The tiny decoder; it appends the first token of each micro-batch that it is run on."""

    def apply(variables, tokens, *rows, **options):
        jax.debug.callback(lambda t: calls.append(int(t)), tokens[0, 0], ordered=False)
        return Decoder(TINY, remat="none").apply(variables, tokens, *rows, **options)

    return types.SimpleNamespace(apply=apply, config=TINY)


def test_train_step_skips_empty_micro_batches():
    batch, _ = scored(make_examples(3, prompt=(8, 8), response=(12, 12)), 5, 2, 20)
    assert batch.used == 2
    calls = []
    step = functools.partial(
        train_step, model=counting(calls), optimizer=SGD, settings=LossSettings(), num_domains=1
    )
    state = TrainState(jnp.int32(0), params_of(), SGD.init(params_of()))
    _, metrics, _ = jax.jit(step)(state, batch)
    jax.effects_barrier()
    assert set(calls) == set(batch.tokens[:2, 0, 0].tolist())
    assert np.isfinite(metrics.loss)


# ---- Numbers that are not finite, and nothing to learn from.


ADAM = optax.adamw(0.1)
jitted_adam = jax.jit(
    functools.partial(
        train_step,
        model=Decoder(TINY, remat="none"),
        optimizer=ADAM,
        settings=LossSettings(),
        num_domains=2,
    )
)


def adam_step(batch):
    """State before and after an Adam update that follows another one, and the metrics."""
    healthy, _ = scored(make_examples(8, 2), 5, 2, 24)
    start = TrainState(jnp.int32(0), params_of(), ADAM.init(params_of()))
    before, metrics, _ = jitted_adam(start, healthy)
    assert metrics.applied and all(np.all(x) for x in metrics.finite[0].values())
    after, metrics, _ = jitted_adam(before, batch)
    return before, after, metrics


@pytest.mark.parametrize(
    "name, value, first",
    [
        ("teacher_logprobs", np.nan, "teacher log-probs"),
        ("reference_logprobs", -np.inf, "reference log-probs"),
        ("behaviour_logprobs", np.nan, "behaviour log-probs"),
        ("reward_scale", np.inf, "advantages"),
    ],
)
def test_a_number_that_is_not_finite_leaves_the_state_as_it_was(name, value, first):
    batch, _ = scored(make_examples(8, 2), 5, 2, 24)
    broken = np.array(getattr(batch, name))
    micro, row, column = (int(i[-1]) for i in np.nonzero(batch.weights))
    broken[micro, row, column] = value
    before, after, metrics = adam_step(batch.replace(**{name: broken}))
    trees_equal(after, before)
    assert not metrics.applied
    found = {what: np.flatnonzero(~np.asarray(x)) for what, x in metrics.finite[0].items()}
    order = ["behaviour log-probs", "teacher log-probs", "reference log-probs", "advantages"]
    assert next(what for what in order if len(found[what])) == first
    assert all(list(where) in ([], [micro]) for where in found.values())


def test_what_stands_outside_of_trained_tokens_may_be_anything():
    """Padding filled with NaN changes neither the gradient nor what counts as finite."""
    batch, _ = scored(make_examples(8, 2), 5, 2, 24)
    logprobs = ("teacher_logprobs", "reference_logprobs", "behaviour_logprobs")
    names = ("weights", "reward_scale", "advantages", *logprobs)
    outside = np.asarray(batch.weights) <= 0
    filled = {n: np.where(outside, np.nan, getattr(batch, n)) for n in names}
    healthy = adam_step(batch)
    broken = adam_step(batch.replace(**filled))
    trees_equal(broken[1], healthy[1])
    assert broken[2].applied and broken[2].loss == healthy[2].loss
    trees_equal(broken[2].diagnostics, healthy[2].diagnostics)


def test_a_token_that_the_learner_would_not_draw_is_no_fault():
    """In bfloat16 a drawn token may fall just outside of the learner's top-k or top-p."""
    batch, _ = scored(make_examples(8, 2), 5, 2, 24)
    rule = SamplingRule(top_k=2)  # of 96 ids, and the targets are random
    step = functools.partial(
        train_step,
        model=Decoder(TINY, remat="none"),
        optimizer=SGD,
        settings=LossSettings(),
        num_domains=2,
        rule=rule,
    )
    start = TrainState(jnp.int32(0), params_of(), SGD.init(params_of()))
    after, metrics, _ = jax.jit(step)(start, batch)
    assert metrics.applied and int(after.step) == 1
    diagnostics = metrics.diagnostics.finish(DOMAINS)
    assert 0.5 < diagnostics["sampler_outside"] <= 1
    assert all(np.isfinite(v).all() for v in diagnostics.values())


def test_an_update_without_examples_leaves_momentum_and_parameters():
    batch, _ = scored(make_examples(8, 2), 5, 2, 24)
    nothing = jax.tree.map(np.zeros_like, batch)
    before, after, metrics = adam_step(nothing)
    trees_equal((after.params, after.opt_state), (before.params, before.opt_state))
    assert int(after.step) == int(before.step) + 1 and not metrics.applied
