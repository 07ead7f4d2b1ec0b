"""Diagnostics merged over micro-batches against numpy over all tokens, by domain."""

import functools

import numpy as np
import pytest

from gopd_jax.objective import diagnostics
from gopd_jax.objective.diagnostics import TokenRecord, token_diagnostics

DOMAINS = ["math", "code", "chess"]  # chess has no row
M, R, S = 3, 4, 11
CAP = 2.0
OPTIONAL = ("importance", "behaviour_logprobs", "teacher_logprobs", "reference_logprobs")


def make_arrays(seed=0):
    rng = np.random.default_rng(seed)
    names = ("logprobs", "advantages", "entropy", "importance", "behaviour_logprobs")
    names += ("sampler_logprobs", "teacher_logprobs", "reference_logprobs")
    arrays = {k: rng.normal(size=(M, R, S)).astype(np.float32) for k in names}
    arrays["importance"] = np.minimum(np.exp(arrays["importance"]), CAP)
    arrays["clipped"] = rng.random((M, R, S)) < 0.3
    domains = np.array([[0] * R, [1] * R, [0] * R], np.int32)
    scales = np.where(domains == 0, 1.25, 1.0).astype(np.float32)
    arrays["reward_scale"] = np.broadcast_to(scales[..., None], (M, R, S))
    return domains, rng.random((M, R, S)) < 0.6, arrays


def finish(domains, trained, arrays, names=DOMAINS):
    def part(m):
        given = {k: v if v is None else v[m] for k, v in arrays.items()}
        return token_diagnostics(TokenRecord(**given), domains[m], len(names), trained[m], CAP)

    merged = functools.reduce(lambda a, b: a.merge(b), map(part, range(M)))
    return merged.finish(names)


def bins_of(keep):
    """The bin of each kept token: how many kept ones stand right before it, counted one by one."""
    bins = np.full(keep.shape, -1)
    for row in np.ndindex(keep.shape[:-1]):
        position = 0
        for s, trained in enumerate(keep[row]):
            if trained:
                bins[(*row, s)] = min(int(np.log2(max(position, 1))), diagnostics.POSITION_BINS - 1)
            position = position + 1 if trained else 0
    return bins


def expected_of(keep, a):
    def mean(x):
        return np.asarray(x, np.float64)[keep].mean()

    bins = bins_of(keep)
    counts = np.bincount(bins[keep])
    from_reference = a["logprobs"] - a["reference_logprobs"]

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
        "advantage_std": np.std(a["advantages"][keep]),
        "advantage_positive": mean(a["advantages"] > 0),
        "clip_fraction": mean(a["clipped"]),
        "reverse_kl_teacher": mean(a["logprobs"] - a["teacher_logprobs"]),
        "kl_reference": mean(np.where(a["reward_scale"] == 1, 0, from_reference)),
        "importance_mean": mean(a["importance"]),
        "importance_capped": mean(a["importance"] == CAP),
        "sampler_gap": mean(np.abs(a["sampler_logprobs"] - a["behaviour_logprobs"])),
        "sampler_outside": 0.0,
        "advantage_max": a["advantages"][keep].max(),
        "advantage_min": a["advantages"][keep].min(),
        "importance_max": a["importance"][keep].max(),
        "importance_min": a["importance"][keep].min(),
    }


def test_means_and_extremes_by_domain():
    domains, trained, arrays = make_arrays()
    result = finish(domains, trained, arrays)
    rows = np.broadcast_to(domains[..., None], trained.shape)
    expected = expected_of(trained, arrays)
    for i, name in enumerate(DOMAINS[:2]):
        of_domain = expected_of(trained & (rows == i), arrays)
        expected |= {f"{k}/{name}": v for k, v in of_domain.items()}
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
    for response in (slice(3, 5), slice(7, 24), slice(39, 40)):  # 2, 17 and 1 tokens in one row
        trained[0, response] = True
    positions = np.r_[0:2, 0:17, 0:1]
    values = np.zeros((1, 40), np.float32)
    values[trained] = np.random.default_rng(0).normal(size=20)
    names = ("logprobs", "advantages", "entropy", "clipped", "sampler_logprobs", "reward_scale")
    given = dict.fromkeys(names, values) | dict.fromkeys(OPTIONAL)
    domains = np.zeros(1, np.int32)
    result = token_diagnostics(TokenRecord(**given), domains, 1, trained, CAP).finish(["math"])
    edges = [(0, 2), (2, 4), (4, 8), (8, 16), (16, 32)] if bins == 16 else [(0, 2), (2, 4), (4, 99)]
    inside = [(positions >= low) & (positions < high) for low, high in edges]
    assert result["tokens_by_position"] == [i.sum() for i in inside]
    means = [values[trained][i].mean() for i in inside]
    assert result["advantage_mean_by_position"] == pytest.approx(means, rel=1e-5)


def test_untrained_tokens_have_no_influence_even_when_they_are_not_numbers():
    domains, trained, arrays = make_arrays()
    spoiled = {
        k: np.where(trained, v, np.nan) if v.dtype == np.float32 else v for k, v in arrays.items()
    }
    assert finish(domains, trained, spoiled) == finish(domains, trained, arrays)


def test_tokens_outside_of_the_learners_nucleus_are_counted_apart():
    domains, trained, arrays = make_arrays()
    ruled = np.array(arrays["sampler_logprobs"])
    trained_in_a = trained & (domains[..., None] == 0)
    first = tuple(i[0] for i in np.nonzero(trained_in_a))
    ruled[first] = -np.inf
    result = finish(domains, trained, arrays | {"sampler_logprobs": ruled})
    others = trained.copy()
    others[first] = False
    gaps = np.abs(ruled - arrays["behaviour_logprobs"])
    assert result["sampler_gap"] == pytest.approx(gaps[others].mean(), rel=2e-5)
    assert result["sampler_outside"] == pytest.approx(1 / trained.sum())
    assert result[f"sampler_outside/{DOMAINS[0]}"] == pytest.approx(1 / trained_in_a.sum())
    assert result[f"sampler_outside/{DOMAINS[1]}"] == 0
    nothing = finish(domains, trained, arrays | {"sampler_logprobs": np.full_like(ruled, -np.inf)})
    assert nothing["sampler_outside"] == 1 and "sampler_gap" not in nothing


def test_metrics_of_absent_models_are_absent():
    domains, trained, arrays = make_arrays()
    absent = dict.fromkeys(OPTIONAL)
    result = finish(np.zeros_like(domains), trained, arrays | absent, ["math"])
    names = {"student_logprob", "entropy", "clip_fraction"}
    names |= {"advantage_mean", "advantage_abs", "advantage_std", "advantage_positive"}
    names |= {f"{k}_by_position" for k in ("tokens", "advantage_mean", "advantage_abs")}
    assert set(result) == names | {"tokens_trained", "advantage_max", "advantage_min"}


def test_nothing_trained_gives_a_count_alone():
    domains, trained, arrays = make_arrays()
    result = finish(domains, np.zeros_like(trained), arrays, ["a", "b"])
    assert result == {f"tokens_trained{x}": 0.0 for x in ("", "/a", "/b")}
