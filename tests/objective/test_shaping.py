"""Shaping: each function compared with plain loops, its neutral setting with the function off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.objective.gopd import gopd_advantage
from gopd_jax.objective.shaping import (
    LARGEST_LOG_RATIO,
    bounded_advantage,
    coarse_divergence,
    gated_scale,
    k3,
    reference_penalty,
    returns_to_go,
    selected_states,
    shaped_advantages,
    with_forward_kl,
)
from gopd_jax.objective.shaping_settings import ShapingSettings

R, S = 4, 48
SEEDS = range(4)


def packed(seed):
    """Log-probs of three models, lambda, and rows of responses with untrained tokens between."""
    rng = np.random.default_rng(seed)
    student, teacher, reference = -rng.exponential(2.5, (3, R, S)).astype(np.float32)
    trained = np.zeros((R, S), bool)
    for row in trained:
        at = int(rng.integers(0, 4))
        while at < S:
            length = int(rng.integers(1, 15))
            row[at : at + length] = True
            at += length + int(rng.integers(1, 5))
    scale = np.where(np.arange(R)[:, None] % 2, 1.25, rng.choice([0.0, 0.1, 1.0, 2.5]))
    scale = np.broadcast_to(scale, (R, S)).astype(np.float32)
    return student, teacher, reference, scale, trained


def responses(trained):
    """Row, first and one past the last token of each response."""
    found = []
    for r, row in enumerate(trained):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
        found += [(r, int(a), int(b)) for a, b in edges.reshape(-1, 2)]
    return found


def shaped(seed, **settings):
    student, teacher, reference, scale, trained = packed(seed)
    given = student, teacher, reference, scale, trained
    return *jax.jit(shaped_advantages, static_argnums=0)(ShapingSettings(**settings), *given), given


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


# ---- Off, and settings that never act.

NEUTRAL = [
    {},
    {"gate_tau": 1e30},
    {"log_ratio_clip": 1e30},
    {"advantage_clip": 1e30},
    {"log_ratio_clip": 1e3, "advantage_clip": 1e3, "gate_tau": 1e30},
]


@pytest.mark.parametrize("settings", NEUTRAL, ids=lambda s: ", ".join(s) or "off")
def test_neutral_settings_are_off_to_the_bit(settings):
    for seed in SEEDS:
        advantages, info, (student, teacher, reference, scale, _) = shaped(seed, **settings)
        expected = jax.jit(gopd_advantage)(student, teacher, reference, scale)
        np.testing.assert_array_equal(advantages, expected)
        np.testing.assert_allclose(info.pop("reward_scale", scale), scale, atol=1e-20)
        assert not any(np.any(x) for x in info.values())


def test_off_is_the_same_program():
    given = packed(0)
    shaping = jax.jit(lambda *x: shaped_advantages(ShapingSettings(), *x)[0])
    plain = jax.jit(lambda s, t, r, scale, _: jax.lax.stop_gradient(gopd_advantage(s, t, r, scale)))
    texts = [f.lower(*given).as_text() for f in (shaping, plain)]
    assert texts[0].replace("_lambda", "") == texts[1].replace("_lambda", "")


def test_no_reference_is_needed_where_lambda_is_1():
    """With every shaping of the advantage, the reference has no influence on any bit."""
    settings = ShapingSettings(
        gate_tau=0.5, log_ratio_clip=1.0, advantage_clip=2.0, return_discount=0.9, box_cox=0.5
    )
    student, teacher, reference, scale, trained = packed(1)
    ones = np.ones_like(scale)
    found, _ = shaped_advantages(settings, student, teacher, None, ones, trained)
    expected, _ = shaped_advantages(settings, student, teacher, reference, ones, trained)
    np.testing.assert_array_equal(found, expected)


# ---- Against loops.


@pytest.mark.parametrize("tau", [0.05, 1.0, 30.0])
def test_gated_scale_is_that_of_a_loop(tau):
    for seed in SEEDS:
        student, teacher, _, scale, _ = packed(seed)
        found, gate = gated_scale(scale, student, teacher, tau)
        for at in np.ndindex(R, S):
            x = min(float(teacher[at]) - float(student[at]), LARGEST_LOG_RATIO)
            q = np.exp(-(np.exp(x) - x - 1) / tau)
            assert gate[at] == pytest.approx(q, rel=1e-4, abs=1e-6)
            assert found[at] == pytest.approx(1 + (float(scale[at]) - 1) * q, rel=1e-4, abs=1e-5)


def test_gate_stays_between_1_and_lambda_and_is_open_where_the_two_agree():
    for seed in SEEDS:
        student, teacher, _, scale, _ = packed(seed)
        found, gate = map(np.asarray, gated_scale(scale, student, teacher, 0.7))
        assert ((gate >= 0) & (gate <= 1)).all()
        assert (found >= np.minimum(scale, 1) - 1e-6).all()
        assert (found <= np.maximum(scale, 1) + 1e-6).all()
        np.testing.assert_array_equal(gated_scale(scale, student, student, 0.7)[0], scale)


@pytest.mark.parametrize("alpha, limit", [(0.0, 0.8), (0.0, 3.0), (1.0, 0.0), (5.0, 0.05)])
def test_bounded_advantage_is_that_of_a_loop(alpha, limit):
    for seed in SEEDS:
        models = student, teacher, reference, scale = packed(seed)[:4]
        found, clipped = bounded_advantage(*models, alpha, limit)
        for at in np.ndindex(R, S):
            s, t, r = (float(x[at]) for x in (student, teacher, reference))

            def ratio(p, q):
                return p - q if alpha == 0 else (np.exp(alpha * p) - np.exp(alpha * q)) / alpha

            ratios = [ratio(t, s), ratio(r, s)]
            acts = [limit > 0 and abs(x) > limit for x in ratios]
            if limit:
                ratios = [min(max(x, -limit), limit) for x in ratios]
            lam = float(scale[at])
            expected = lam * ratios[0] + (1 - lam) * ratios[1]
            assert found[at] == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert clipped[at] == ((acts[0] and lam != 0) or (acts[1] and lam != 1))


def test_box_cox_is_bounded_keeps_the_sign_and_tends_to_the_log_ratio():
    for seed in SEEDS:
        student, teacher, reference, _, _ = packed(seed)
        models = student, teacher, reference, 1.0
        ratio = teacher - student
        for alpha in (0.1, 1.0, 5.0):
            found = np.asarray(bounded_advantage(*models, alpha, 0.0)[0])
            assert (np.abs(found) <= 1 / alpha).all()
            assert (found * ratio >= 0).all()
        np.testing.assert_allclose(
            bounded_advantage(*models, 1e-4, 0.0)[0], ratio, rtol=1e-2, atol=1e-3
        )


@pytest.mark.parametrize("lam, counts", [(0.0, (0, 1)), (1.0, (1, 0)), (1.25, (1, 1))])
def test_a_ratio_without_influence_is_not_called_clipped(lam, counts):
    """Of two tokens one is far from the teacher alone, the other from the reference alone."""
    student, far = np.zeros((1, 2), np.float32), np.float32([[-9.0, 0.0]])
    scale = np.full((1, 2), lam, np.float32)
    _, clipped = bounded_advantage(student, far, far[:, ::-1], scale, 0.0, 2.0)
    assert clipped.tolist() == [list(map(bool, counts))]


def test_advantage_clip_is_the_last_step_before_returns():
    for seed in SEEDS:
        advantages, info, (student, teacher, reference, scale, _) = shaped(
            seed, advantage_clip=1.5, log_ratio_clip=2.0
        )
        inner, acts = bounded_advantage(student, teacher, reference, scale, 0.0, 2.0)
        close(advantages, np.clip(inner, -1.5, 1.5))
        np.testing.assert_array_equal(info["shaping_clipped"], acts | (np.abs(inner) > 1.5))
        assert 0 < np.mean(info["shaping_clipped"]) < 1


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.99, 1.0])
def test_returns_to_go_are_those_of_a_loop(discount):
    for seed in SEEDS:
        student, teacher, _, _, trained = packed(seed)
        advantages = teacher - student
        spoiled = np.where(trained, advantages, np.nan)
        found = returns_to_go(spoiled, trained, discount)
        expected = np.zeros((R, S))
        for r, first, end in responses(trained):
            total = 0.0
            for t in reversed(range(first, end)):
                total = float(advantages[r, t]) + discount * total
                expected[r, t] = total
        close(found, expected)
        if discount == 0:
            np.testing.assert_array_equal(np.asarray(found)[trained], advantages[trained])


def test_returns_of_a_response_do_not_depend_on_its_row():
    rng = np.random.default_rng(3)
    own = rng.normal(size=9).astype(np.float32)
    rows = []
    for before in (0, 4, 20):
        advantages, trained = np.zeros((1, 40), np.float32), np.zeros((1, 40), bool)
        here = slice(before, before + 9)
        advantages[0, here], trained[0, here] = own, True
        if before > 10:
            trained[0, :10], advantages[0, :10] = True, 7.0
        rows.append(np.asarray(returns_to_go(advantages, trained, 0.9))[0, here])
    close(rows[0], rows[1])
    close(rows[0], rows[2])


def test_shaped_advantages_put_the_parts_together():
    for seed in SEEDS:
        settings = {"gate_tau": 0.5, "box_cox": 1.0, "advantage_clip": 0.3, "return_discount": 0.8}
        found, info, (student, teacher, reference, scale, trained) = shaped(seed, **settings)
        lam, gate = gated_scale(scale, student, teacher, 0.5)
        inner, _ = bounded_advantage(student, teacher, reference, lam, 1.0, 0.0)
        close(found, returns_to_go(jnp.clip(inner, -0.3, 0.3), trained, 0.8))
        close(info["shaping_gated"], 1 - gate)


# ---- Selection of states.


@pytest.mark.parametrize("share", [0.1, 0.25, 0.7, 1.0])
def test_selected_states_are_those_of_a_loop(share):
    for seed in SEEDS:
        *_, trained = packed(seed)
        scores = np.random.default_rng(seed).integers(0, 6, (R, S)).astype(np.float32)  # with ties
        factor, keep = jax.jit(selected_states, static_argnums=2)(scores, trained, share)
        expected, kept = np.zeros((R, S)), np.zeros((R, S), bool)
        for r, first, end in responses(trained):
            count = end - first
            most = max(1, int(np.ceil(round(share * count, 6))))
            order = sorted(range(first, end), key=lambda t: (-scores[r, t], t))[:most]
            kept[r, order], expected[r, order] = True, count / most
        np.testing.assert_array_equal(keep, kept)
        np.testing.assert_allclose(factor, expected, rtol=1e-6)


def test_all_states_kept_is_off_to_the_bit_and_no_response_is_left_out():
    for seed in SEEDS:
        student, *_, trained = packed(seed)
        factor, _ = selected_states(student, trained, 1.0)
        np.testing.assert_array_equal(factor, trained)
        factor = np.asarray(selected_states(student, trained, 0.01)[0])
        for r, first, end in responses(trained):
            assert (factor[r, first:end] > 0).sum() == 1
            assert factor[r, first:end].sum() == pytest.approx(end - first)


def test_coarse_divergence_is_that_of_a_loop():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        p, q = rng.dirichlet(np.full(9, 0.3), (2, R, S))
        found = coarse_divergence(*(np.log(x[..., :4] + 1e-30).astype(np.float32) for x in (p, q)))
        for at in np.ndindex(R, S):
            total = 0.0
            a, b = ([*x[at][:4], x[at][4:].sum()] for x in (p, q))
            for u, v in zip(a, b, strict=True):
                total += sum(w / 2 * np.log(2 * w / (u + v)) for w in (u, v) if w > 0)
            assert found[at] == pytest.approx(total, rel=1e-3, abs=2e-6)
            assert 0 <= found[at] <= np.log(2) + 1e-6
        equal = np.log(p[..., :4] + 1e-30).astype(np.float32)
        np.testing.assert_array_equal(coarse_divergence(equal, equal), np.zeros((R, S)))


# ---- Of the loss.


def test_forward_kl_is_added_where_the_teacher_is_undecided():
    for seed in SEEDS:
        reverse, forward, entropy = (-x for x in packed(seed)[:3])
        found, acts = with_forward_kl(reverse, forward, entropy, 2.0, 0.5)
        for at in np.ndindex(R, S):
            more = 0.5 * forward[at] if entropy[at] > 2.0 else 0.0
            assert found[at] == pytest.approx(float(reverse[at] + more), rel=1e-6)
            assert acts[at] == (entropy[at] > 2.0)
        assert 0 < np.mean(acts) < 1
        for threshold, weight in ((np.inf, 1.0), (2.0, 0.0)):
            off, _ = with_forward_kl(reverse, forward, entropy, threshold, weight)
            np.testing.assert_array_equal(off, reverse)


def test_reference_penalty_is_that_of_a_loop_with_its_gradient():
    for seed in SEEDS:
        student, _, reference, scale, _ = packed(seed)
        term, estimate = reference_penalty(student, reference, scale)
        slope_of = jax.grad(lambda x, *given: jnp.sum(reference_penalty(x, *given)[0]))
        gradient = slope_of(student, reference, scale)
        for at in np.ndindex(R, S):
            log_r = float(reference[at]) - float(student[at])
            capped = min(log_r, LARGEST_LOG_RATIO)
            expected = np.exp(capped) - 1 - capped
            assert estimate[at] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert term[at] == pytest.approx(float(scale[at]) * expected, rel=1e-4, abs=1e-6)
            slope = 1 - np.exp(log_r) if log_r < LARGEST_LOG_RATIO else 0.0
            assert gradient[at] == pytest.approx(float(scale[at]) * slope, rel=1e-3, abs=1e-5)
        zero, _ = reference_penalty(student, reference, 0.0)
        np.testing.assert_array_equal(zero, np.zeros((R, S)))
        np.testing.assert_array_equal(k3(student, student), np.zeros((R, S)))


def test_nothing_of_the_shaped_advantage_has_a_gradient():
    settings = ShapingSettings(
        gate_tau=0.5, box_cox=0.5, log_ratio_clip=1.0, advantage_clip=2.0, return_discount=0.9
    )
    student, *rest = packed(2)
    gradient = jax.grad(lambda x: jnp.sum(shaped_advantages(settings, x, *rest)[0]))(student)
    np.testing.assert_array_equal(gradient, np.zeros((R, S)))
