"""Diagnostics gathered micro-batch by micro-batch against numpy over all tokens, by domain."""

import functools

import numpy as np
import pytest

from gopd_jax.objective import token_diagnostics

DOMAINS = ["math", "code", "chess"]  # chess has no row
M, R, S = 3, 4, 11
CAP = 2.0


def _arrays(seed=0):
    rng = np.random.default_rng(seed)
    names = ("logprobs", "advantages", "entropy", "importance")
    names += ("behaviour_logprobs", "sampler_logprobs", "teacher_logprobs", "reference_logprobs")
    arrays = {k: rng.normal(size=(M, R, S)).astype(np.float32) for k in names}
    arrays["importance"] = np.minimum(np.exp(arrays["importance"]), CAP)
    arrays["clipped"] = rng.random((M, R, S)) < 0.3
    domains = np.array([[0] * R, [1] * R, [0] * R], np.int32)
    arrays["reward_scale"] = np.broadcast_to(np.where(domains == 0, 1.25, 1.0)[..., None], (M, R, S)).astype(np.float32)
    return domains, rng.random((M, R, S)) < 0.6, arrays


def _finish(domains, trained, arrays, names=DOMAINS):
    parts = [
        token_diagnostics(
            domains[m], len(names), trained[m], importance_cap=CAP, **{k: v if v is None else v[m] for k, v in arrays.items()}
        )
        for m in range(M)
    ]
    return functools.reduce(lambda a, b: a.merge(b), parts).finish(names)


def _expected(keep, a):
    def mean(x):
        return np.asarray(x, np.float64)[keep].mean()

    return {
        "tokens_trained": keep.sum(),
        "student_logprob": mean(a["logprobs"]),
        "entropy": mean(a["entropy"]),
        "advantage_mean": mean(a["advantages"]),
        "advantage_abs": mean(np.abs(a["advantages"])),
        "advantage_positive": mean(a["advantages"] > 0),
        "clip_fraction": mean(a["clipped"]),
        "reverse_kl_teacher": mean(a["logprobs"] - a["teacher_logprobs"]),
        "kl_reference": mean(np.where(a["reward_scale"] == 1, 0, a["logprobs"] - a["reference_logprobs"])),
        "importance_mean": mean(a["importance"]),
        "importance_capped": mean(a["importance"] == CAP),
        "sampler_gap": mean(np.abs(a["sampler_logprobs"] - a["behaviour_logprobs"])),
        "advantage_max": a["advantages"][keep].max(),
        "advantage_min": a["advantages"][keep].min(),
        "importance_max": a["importance"][keep].max(),
        "importance_min": a["importance"][keep].min(),
    }


def test_means_and_extremes_by_domain():
    domains, trained, arrays = _arrays()
    result = _finish(domains, trained, arrays)
    rows = np.broadcast_to(domains[..., None], trained.shape)
    expected = _expected(trained, arrays)
    for i, name in enumerate(DOMAINS[:2]):
        expected |= {f"{k}/{name}": v for k, v in _expected(trained & (rows == i), arrays).items()}
    expected["tokens_trained/chess"] = 0  # and nothing else: a mean over no token is left out
    assert result.keys() == expected.keys()
    assert all(type(v) is float for v in result.values())
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name


def test_untrained_tokens_have_no_influence_even_when_they_are_not_numbers():
    domains, trained, arrays = _arrays()
    spoiled = {k: np.where(trained, v, np.nan) if v.dtype == np.float32 else v for k, v in arrays.items()}
    assert _finish(domains, trained, spoiled) == _finish(domains, trained, arrays)


def test_metrics_of_absent_models_are_absent():
    domains, trained, arrays = _arrays()
    absent = dict.fromkeys(("importance", "behaviour_logprobs", "teacher_logprobs", "reference_logprobs"))
    result = _finish(np.zeros_like(domains), trained, arrays | absent, ["math"])
    names = {"student_logprob", "entropy", "advantage_mean", "advantage_abs", "advantage_positive", "clip_fraction"}
    assert set(result) == names | {"tokens_trained", "advantage_max", "advantage_min"}


def test_nothing_trained_gives_a_count_alone():
    domains, trained, arrays = _arrays()
    assert _finish(domains, np.zeros_like(trained), arrays, ["a", "b"]) == {f"tokens_trained{x}": 0.0 for x in ("", "/a", "/b")}
