"""Chunked log-probs: what log_softmax and a gather give, in memory that does not grow with tokens x vocabulary."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.learner import logprobs
from gopd_jax.learner.optimizer import make_optimizer, make_schedule
from gopd_jax.learner.step import train_step
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, abstract_params
from gopd_jax.models.heads import chunk_length, log_distribution, token_logprobs
from gopd_jax.models.settings import SamplingRule
from gopd_jax.objective.settings import Clipping
from gopd_jax.types import PackedBatch, TrainState

R, S, D, V = 3, 10, 16, 61
QWEN_VOCABULARY = 151_936


def _naive(hidden, head, targets):
    everything = jax.nn.log_softmax(jnp.einsum("rsd,vd->rsv", hidden, head))
    entropy = -jnp.sum(jnp.exp(everything) * everything, axis=-1)
    return jnp.take_along_axis(everything, targets[..., None], axis=-1)[..., 0], entropy


@functools.cache
def _inputs():
    rng = np.random.default_rng(0)
    hidden, head = (
        rng.normal(size=(R, S, D)).astype(np.float32),
        rng.normal(size=(V, D)).astype(np.float32),
    )
    return (
        hidden,
        head,
        rng.integers(0, V, (R, S), dtype=np.int32),
        rng.normal(size=(R, S)).astype(np.float32),
    )


@pytest.mark.parametrize("length", [1, 4, 5, 10], ids=lambda n: f"chunks of {n}")
def test_log_softmax_and_gather_with_gradients(monkeypatch, length):
    monkeypatch.setattr(logprobs, "LOGIT_ELEMENTS", R * V * length)
    assert chunk_length(R, S, V) == length
    hidden, head, targets, coefficients = _inputs()

    def weighted(function, hidden, head):
        values, entropy = function(hidden, head, targets)
        return jnp.sum(coefficients * values) + jnp.sum(jax.lax.stop_gradient(entropy)), (
            values,
            entropy,
        )

    def run(function):
        return jax.value_and_grad(
            functools.partial(weighted, function), argnums=(0, 1), has_aux=True
        )(hidden, head)

    (_, ours), ours_grad = run(token_logprobs)
    (_, naive), naive_grad = run(_naive)
    for a, b in zip((*ours, *ours_grad), (*naive, *naive_grad), strict=True):
        assert a.dtype == jnp.float32 and np.abs(b).max() > 0.1
        np.testing.assert_allclose(a, b, atol=2e-5)


RULES = [
    SamplingRule(0.7),
    SamplingRule(1.0, 5),
    SamplingRule(1.3, 20, 0.8),
    SamplingRule(top_p=0.6),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_logprobs_under_a_sampling_rule(monkeypatch, rule):
    monkeypatch.setattr(logprobs, "LOGIT_ELEMENTS", R * V * 4)
    hidden, head, targets, _ = _inputs()
    values, entropy = token_logprobs(hidden, head, targets, rule=rule)
    everything = np.asarray(
        log_distribution((hidden @ head.T).reshape(-1, V), rule), np.float64
    ).reshape(R, S, V)
    expected = np.take_along_axis(everything, targets[..., None], axis=-1)[..., 0]
    assert (np.isinf(expected).any(), np.isfinite(expected).any()) == (
        rule.top_k + rule.top_p != 1,
        True,
    )
    np.testing.assert_allclose(values, expected, atol=1e-5)
    with np.errstate(invalid="ignore"):
        plogp = np.where(np.isinf(everything), 0, np.exp(everything) * everything)
    np.testing.assert_allclose(entropy, -plogp.sum(axis=-1), atol=1e-5)


def test_entropy_carries_no_gradient():
    hidden, head, targets, _ = _inputs()
    grads = jax.grad(lambda h, w: token_logprobs(h, w, targets)[1].sum(), argnums=(0, 1))(
        hidden, head
    )
    assert not np.any(grads[0]) and not np.any(grads[1])


def test_half_precision_hidden_states_give_float32():
    hidden, head, targets, _ = _inputs()
    half = jnp.asarray(hidden, jnp.bfloat16)
    values, entropy = token_logprobs(half, head, targets)
    exact = _naive(
        half.astype(jnp.float32), jnp.asarray(head, jnp.bfloat16).astype(jnp.float32), targets
    )
    assert values.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(values, exact[0], atol=1e-4)
    np.testing.assert_allclose(entropy, exact[1], atol=1e-4)


def test_chunk_length_keeps_to_the_budget(monkeypatch):
    assert (
        chunk_length(1, 4096, QWEN_VOCABULARY) == 441
    )  # the number in the comment of LOGIT_ELEMENTS
    assert chunk_length(4, 4096, QWEN_VOCABULARY) * 4 * QWEN_VOCABULARY <= logprobs.LOGIT_ELEMENTS
    assert chunk_length(1, 7, 61) == 7
    assert chunk_length(10**6, 7, QWEN_VOCABULARY) == 1


# ---- Memory, as the compiler plans it; nothing is run.


def _abstract(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype)


def _temporary_bytes(function, *args, **options):
    return jax.jit(function, **options).lower(*args).compile().memory_analysis().temp_size_in_bytes


def _gradient_bytes(function, rows, length):
    def total(hidden, head, targets):
        values, entropy = function(hidden, head, targets)
        return values.sum(), entropy

    args = (
        _abstract(jnp.float32, rows, length, 32),
        _abstract(jnp.float32, QWEN_VOCABULARY, 32),
        _abstract(jnp.int32, rows, length),
    )
    return _temporary_bytes(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), *args)


# The backward pass of one chunk holds its logits, their exponentials and the cotangent; the scan one more.
CHUNK_BYTES = 5 * 4 * logprobs.LOGIT_ELEMENTS
ROWS, LENGTH = 8, 1024
ALL_LOGITS = ROWS * LENGTH * QWEN_VOCABULARY * 4  # 5.0 GB


def test_gradient_never_holds_all_logits():
    ours, naive = (
        _gradient_bytes(token_logprobs, ROWS, LENGTH),
        _gradient_bytes(_naive, ROWS, LENGTH),
    )
    print(
        f"{ours / 1e9:.2f} GB in chunks, {naive / 1e9:.2f} GB at once, all logits {ALL_LOGITS / 1e9:.2f} GB"
    )
    assert naive > ALL_LOGITS
    assert ours < CHUNK_BYTES < ALL_LOGITS / 3
    assert (
        _gradient_bytes(token_logprobs, ROWS, 4 * LENGTH) < CHUNK_BYTES
    )  # whatever the number of tokens


def test_train_step_never_holds_all_logits():
    config = ModelConfig(
        "qwen3",
        QWEN_VOCABULARY,
        layers=1,
        width=32,
        heads=2,
        kv_heads=1,
        head_size=16,
        mlp_width=48,
    )
    optimizer = make_optimizer(make_schedule("constant", 1e-5, 10, 0), 0.9, 0.999, 1e-8, 0.01, 1.0)
    state = jax.eval_shape(
        lambda p: TrainState(jnp.int32(0), p, optimizer.init(p)), abstract_params(config)
    )
    integers, floats = (
        _abstract(jnp.int32, 2, ROWS, LENGTH),
        _abstract(jnp.float32, 2, ROWS, LENGTH),
    )
    names = (
        "weights",
        "reward_scale",
        "advantages",
        "behaviour_logprobs",
        "teacher_logprobs",
        "reference_logprobs",
    )
    batch = PackedBatch(
        used=_abstract(jnp.int32),
        domains=_abstract(jnp.int32, 2, ROWS),
        **dict.fromkeys(("tokens", "positions", "segments", "targets"), integers),
        **dict.fromkeys(names, floats),
    )
    step = functools.partial(
        train_step, model=Decoder(config), optimizer=optimizer, clipping=Clipping(), num_domains=1
    )
    temporary = _temporary_bytes(step, state, batch, donate_argnums=0)
    print(
        f"train step: {temporary / 1e9:.2f} GB, all logits of one micro-batch {ALL_LOGITS / 1e9:.2f} GB"
    )
    assert temporary < CHUNK_BYTES < ALL_LOGITS / 3
