"""Diagnostics gathered micro-batch by micro-batch against numpy over all tokens, by domain."""

import functools

import numpy as np
import pytest

from gopd_jax.objective import diagnostics
from gopd_jax.objective.diagnostics import token_diagnostics

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
    arrays["reward_scale"] = np.broadcast_to(
        np.where(domains == 0, 1.25, 1.0)[..., None], (M, R, S)
    ).astype(np.float32)
    return domains, rng.random((M, R, S)) < 0.6, arrays


def _finish(domains, trained, arrays, names=DOMAINS):
    parts = [
        token_diagnostics(
            domains[m],
            len(names),
            trained[m],
            importance_cap=CAP,
            **{k: v if v is None else v[m] for k, v in arrays.items()},
        )
        for m in range(M)
    ]
    return functools.reduce(lambda a, b: a.merge(b), parts).finish(names)


def _bins(keep):
    """The bin of each kept token: how many kept ones stand right before it, counted one by one."""
    bins = np.full(keep.shape, -1)
    for row in np.ndindex(keep.shape[:-1]):
        position = 0
        for s, trained in enumerate(keep[row]):
            if trained:
                bins[(*row, s)] = min(int(np.log2(max(position, 1))), diagnostics.POSITION_BINS - 1)
            position = position + 1 if trained else 0
    return bins


def _expected(keep, a):
    def mean(x):
        return np.asarray(x, np.float64)[keep].mean()

    bins = _bins(keep)
    counts = np.bincount(bins[keep])

    def means(x):
        return np.bincount(bins[keep], np.asarray(x, np.float64)[keep]) / counts

    return {
        "tokens_by_position": counts,
        "advantage_mean_by_position": means(a["advantages"]),
        "advantage_abs_by_position": means(np.abs(a["advantages"])),
        "reverse_kl_teacher_by_position": means(a["logprobs"] - a["teacher_logprobs"]),
        "tokens_trained": keep.sum(),
        "student_logprob": mean(a["logprobs"]),
        "entropy": mean(a["entropy"]),
        "advantage_mean": mean(a["advantages"]),
        "advantage_abs": mean(np.abs(a["advantages"])),
        "advantage_positive": mean(a["advantages"] > 0),
        "clip_fraction": mean(a["clipped"]),
        "reverse_kl_teacher": mean(a["logprobs"] - a["teacher_logprobs"]),
        "kl_reference": mean(
            np.where(a["reward_scale"] == 1, 0, a["logprobs"] - a["reference_logprobs"])
        ),
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
    flat = [x for v in result.values() for x in (v if isinstance(v, list) else [v])]
    assert all(type(x) is float for x in flat)
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name


@pytest.mark.parametrize("bins", [16, 3], ids=["all bins", "the last bin is open"])
def test_bins_of_positions_are_powers_of_two_counted_within_each_response(bins, monkeypatch):
    monkeypatch.setattr(diagnostics, "POSITION_BINS", bins)
    trained = np.zeros((1, 40), bool)
    trained[0, 3:5] = trained[0, 7:24] = trained[0, 39:] = (
        True  # responses of 2, 17 and 1 tokens in one row
    )
    positions = np.r_[0:2, 0:17, 0:1]
    values = np.zeros((1, 40), np.float32)
    values[trained] = np.random.default_rng(0).normal(size=20)
    given = dict.fromkeys(
        ("logprobs", "advantages", "entropy", "clipped", "sampler_logprobs", "reward_scale"), values
    )
    given |= dict.fromkeys(
        ("importance", "behaviour_logprobs", "teacher_logprobs", "reference_logprobs")
    )
    result = token_diagnostics(
        np.zeros(1, np.int32), 1, trained, importance_cap=CAP, **given
    ).finish(["math"])
    edges = [(0, 2), (2, 4), (4, 8), (8, 16), (16, 32)] if bins == 16 else [(0, 2), (2, 4), (4, 99)]
    inside = [(positions >= low) & (positions < high) for low, high in edges]
    assert result["tokens_by_position"] == [i.sum() for i in inside]
    assert result["advantage_mean_by_position"] == pytest.approx(
        [values[trained][i].mean() for i in inside], rel=1e-5
    )


def test_untrained_tokens_have_no_influence_even_when_they_are_not_numbers():
    domains, trained, arrays = _arrays()
    spoiled = {
        k: np.where(trained, v, np.nan) if v.dtype == np.float32 else v for k, v in arrays.items()
    }
    assert _finish(domains, trained, spoiled) == _finish(domains, trained, arrays)


def test_metrics_of_absent_models_are_absent():
    domains, trained, arrays = _arrays()
    absent = dict.fromkeys(
        ("importance", "behaviour_logprobs", "teacher_logprobs", "reference_logprobs")
    )
    result = _finish(np.zeros_like(domains), trained, arrays | absent, ["math"])
    names = {
        "student_logprob",
        "entropy",
        "advantage_mean",
        "advantage_abs",
        "advantage_positive",
        "clip_fraction",
    }
    names |= {f"{k}_by_position" for k in ("tokens", "advantage_mean", "advantage_abs")}
    assert set(result) == names | {"tokens_trained", "advantage_max", "advantage_min"}


def test_nothing_trained_gives_a_count_alone():
    domains, trained, arrays = _arrays()
    assert _finish(domains, np.zeros_like(trained), arrays, ["a", "b"]) == {
        f"tokens_trained{x}": 0.0 for x in ("", "/a", "/b")
    }
