"""Schedules, and AdamW with clipping, against their equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gopd_jax.learner.optimizer import (
    SCHEDULES,
    make_optimizer,
    make_schedule,
    restart_schedule,
)
from gopd_jax.learner.settings import OptimizerSettings

PEAK, UPDATES, WARMUP = 2e-3, 20, 5


@pytest.mark.parametrize("warmup", [0, WARMUP])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedule_step_by_step(kind, warmup):
    settings = OptimizerSettings(learning_rate=PEAK, schedule=kind, warmup_steps=warmup)
    schedule = make_schedule(settings, UPDATES)
    for step in range(UPDATES + 1):
        share = (step - warmup) / (UPDATES - warmup)
        falling = {"constant": 1.0, "linear": 1 - share, "cosine": (1 + np.cos(np.pi * share)) / 2}
        expected = PEAK * (step / warmup if step < warmup else falling[kind])
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-5, abs=1e-10), step


def test_unknown_schedule_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'constant', 'cosine' or 'linear'.*input_value='step'"):
        OptimizerSettings(schedule="step")


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_adamw_with_clipping_is_its_equations(clip_norm):
    b1, b2, eps, decay = 0.9, 0.95, 1e-6, 0.1
    settings = OptimizerSettings(
        learning_rate=0.1,
        schedule="linear",
        warmup_steps=2,
        b1=b1,
        b2=b2,
        eps=eps,
        weight_decay=decay,
        clip_norm=clip_norm,
    )
    optimizer = make_optimizer(settings, make_schedule(settings, 10))
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}
    ours = {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}
    state = optimizer.init(ours)
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    norms = []
    for step in range(4):
        grads = {k: rng.normal(size=v.shape) * (0.05, 2.0)[step % 2] for k, v in params.items()}
        norms.append(np.sqrt(sum((g**2).sum() for g in grads.values())))
        on_device = {k: jnp.asarray(g, jnp.float32) for k, g in grads.items()}
        updates, state = optimizer.update(on_device, state, ours)
        ours = optax.apply_updates(ours, updates)
        rate = 0.1 * (step / 2 if step < 2 else 1 - (step - 2) / 8)
        for k in params:
            g = grads[k] * (min(1.0, clip_norm / norms[-1]) if clip_norm else 1.0)
            first[k] = b1 * first[k] + (1 - b1) * g
            second[k] = b2 * second[k] + (1 - b2) * g**2
            mean = first[k] / (1 - b1 ** (step + 1))
            mean_square = second[k] / (1 - b2 ** (step + 1))
            direction = mean / (np.sqrt(mean_square) + eps)
            params[k] = params[k] - rate * (direction + decay * params[k])
    assert min(norms) < 1 < max(norms)
    for k in params:
        np.testing.assert_allclose(ours[k], params[k], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_restarted_schedule_keeps_moments_and_their_count(clip_norm):
    settings = OptimizerSettings(learning_rate=0.1, warmup_steps=2, clip_norm=clip_norm)
    optimizer = make_optimizer(settings, make_schedule(settings, UPDATES))
    params = {"w": jnp.arange(3.0)}
    state = optimizer.init(params)
    for _ in range(3):
        _, state = optimizer.update({"w": jnp.full(3, 0.5)}, state, params)
    restarted = restart_schedule(state)
    adam, schedule = (
        lambda tree, kind=kind: next(
            part
            for part in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, kind))
            if isinstance(part, kind)
        )
        for kind in (optax.ScaleByAdamState, optax.ScaleByScheduleState)
    )
    assert int(schedule(state).count) == 3 and int(schedule(restarted).count) == 0
    assert int(adam(restarted).count) == 3
    jax.tree.map(np.testing.assert_array_equal, adam(restarted), adam(state))
    assert float(adam(restarted).mu["w"][0]) > 0
    updates, _ = optimizer.update({"w": jnp.full(3, 0.5)}, restarted, params)
    assert not updates["w"].any()  # the first update of the warm-up has learning rate 0
