"""Chunked log-probs equal log_softmax and a gather, in memory that does not grow with tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.learner.optimizer import make_optimizer, make_schedule
from gopd_jax.learner.settings import OptimizerSettings
from gopd_jax.learner.step import train_step
from gopd_jax.models import head_blocks, heads
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, abstract_params
from gopd_jax.models.heads import chunk_length, log_distribution
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.models.settings import SamplingRule
from gopd_jax.objective.settings import LossSettings
from gopd_jax.types import PackedBatch, TrainState

R, S, D, V = 3, 10, 16, 61
QWEN_VOCABULARY, QWEN_IDS = 151_936, 151_669


def _naive(hidden, head, targets):
    everything = jax.nn.log_softmax(jnp.einsum("rsd,vd->rsv", hidden, head))
    entropy = -jnp.sum(jnp.exp(everything) * everything, axis=-1)
    return jnp.take_along_axis(everything, targets[..., None], axis=-1)[..., 0], entropy


@functools.cache
def _inputs():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(R, S, D)).astype(np.float32)
    head = rng.normal(size=(V, D)).astype(np.float32)
    targets = rng.integers(0, V, (R, S), dtype=np.int32)
    coefficients = rng.normal(size=(R, S)).astype(np.float32)
    return hidden, head, targets, coefficients


@pytest.fixture(params=[(1, 61), (7, 20), (30, 61), (30, 1)], ids="{0[0]} x {0[1]}".format)
def logits_at_once(request, monkeypatch):
    """Chunks of so many tokens, blocks of so many ids; the last of each may be partly empty."""
    tokens, ids = request.param
    monkeypatch.setattr(head_blocks, "chunk_tokens", lambda _: tokens)
    monkeypatch.setattr(head_blocks, "CPU_LOGIT_ELEMENTS", tokens * ids)


@pytest.mark.parametrize("wanted", ["all", "some", "none"])
def test_log_softmax_and_gather_with_gradients(logits_at_once, wanted):
    hidden, head, targets, coefficients = _inputs()
    share = {"all": 1.1, "some": 0.4, "none": 0}[wanted]
    wanted = np.random.default_rng(1).random((R, S)) < share
    # What is not wanted may be anything.
    ours_hidden = np.where(wanted[..., None], hidden, np.nan)

    def ours(hidden, head, targets):
        return token_logprobs(hidden, head, targets, wanted)

    def naive(hidden, head, targets):
        return tuple(jnp.where(wanted, x, 0) for x in _naive(hidden, head, targets))

    def weighted(function, hidden, head):
        values, entropy = function(hidden, head, targets)
        total = jnp.sum(coefficients * values) + jnp.sum(jax.lax.stop_gradient(entropy))
        return total, (values, entropy)

    def run(function, hidden):
        loss = functools.partial(weighted, function)
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(hidden, head)

    (_, actual), actual_grad = run(ours, ours_hidden)
    (_, right), right_grad = run(naive, hidden)
    for a, b in zip((*actual, *actual_grad), (*right, *right_grad), strict=True):
        assert a.dtype == jnp.float32 and (np.abs(b).max() > 0.1) == wanted.any()
        np.testing.assert_allclose(a, b, atol=2e-5)


RULES = [
    SamplingRule(0.7),
    SamplingRule(1.0, 5),
    SamplingRule(1.3, 20, 0.8),
    SamplingRule(top_p=0.6),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_logprobs_under_a_sampling_rule(monkeypatch, rule):
    monkeypatch.setattr(head_blocks, "LOGIT_ELEMENTS", V * 4)
    hidden, head, targets, _ = _inputs()
    values, entropy = token_logprobs(hidden, head, targets, rule=rule)
    everything = log_distribution((hidden @ head.T).reshape(-1, V), rule)
    everything = np.asarray(everything, np.float64).reshape(R, S, V)
    expected = np.take_along_axis(everything, targets[..., None], axis=-1)[..., 0]
    cut_off = rule.top_k > 0 or rule.top_p < 1
    assert (np.isinf(expected).any(), np.isfinite(expected).any()) == (cut_off, True)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    with np.errstate(invalid="ignore"):
        plogp = np.where(np.isinf(everything), 0, np.exp(everything) * everything)
    np.testing.assert_allclose(entropy, -plogp.sum(axis=-1), atol=1e-5)


def test_entropy_carries_no_gradient():
    hidden, head, targets, _ = _inputs()

    def total_entropy(hidden, head):
        return token_logprobs(hidden, head, targets)[1].sum()

    grads = jax.grad(total_entropy, argnums=(0, 1))(hidden, head)
    assert not np.any(grads[0]) and not np.any(grads[1])


def test_half_precision_hidden_states_give_float32():
    hidden, head, targets, _ = _inputs()
    half = jnp.asarray(hidden, jnp.bfloat16)
    values, entropy = token_logprobs(half, head, targets)
    half_head = jnp.asarray(head, jnp.bfloat16)
    exact = _naive(half.astype(jnp.float32), half_head.astype(jnp.float32), targets)
    assert values.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(values, exact[0], atol=1e-4)
    np.testing.assert_allclose(entropy, exact[1], atol=1e-4)


def test_chunk_length_keeps_to_the_budget(monkeypatch):
    # 441 is the number in the comment of LOGIT_ELEMENTS.
    assert chunk_length(1, 4096, QWEN_VOCABULARY) == 441
    assert chunk_length(4, 4096, QWEN_VOCABULARY) * 4 * QWEN_VOCABULARY <= heads.LOGIT_ELEMENTS
    assert chunk_length(1, 7, 61) == 7
    assert chunk_length(10**6, 7, QWEN_VOCABULARY) == 1


# ---- Memory as the compiler plans it; the programs are not run.


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


# The backward pass of one chunk holds its logits, their exponentials and the cotangent; the rest is
# the gradient of the head, once as it grows and once as a block of it.
CHUNK_BYTES = 4 * 4 * head_blocks.CPU_LOGIT_ELEMENTS + 3 * 4 * 32 * QWEN_VOCABULARY
ROWS, LENGTH = 8, 1024
ALL_LOGITS = ROWS * LENGTH * QWEN_VOCABULARY * 4  # 5.0 GB


@pytest.mark.slow  # so says the one of the train step
def test_gradient_never_holds_all_logits():
    ours = _gradient_bytes(token_logprobs, ROWS, LENGTH)
    naive = _gradient_bytes(_naive, ROWS, LENGTH)
    print(f"{ours / 1e9:.2f} GB in chunks, {naive / 1e9:.2f} GB at once")
    print(f"all logits: {ALL_LOGITS / 1e9:.2f} GB")
    assert naive > ALL_LOGITS
    assert ours < CHUNK_BYTES < ALL_LOGITS / 3
    masked = functools.partial(token_logprobs, num_ids=QWEN_IDS)
    assert _gradient_bytes(masked, ROWS, LENGTH) < CHUNK_BYTES
    # Whatever the number of tokens.
    assert _gradient_bytes(token_logprobs, ROWS, 4 * LENGTH) < CHUNK_BYTES


def test_train_step_never_holds_all_logits():
    sizes = dict(layers=1, width=32, heads=2, kv_heads=1, head_size=16, mlp_width=48)
    config = ModelConfig("qwen3", QWEN_VOCABULARY, **sizes)
    settings = OptimizerSettings(learning_rate=1e-5, weight_decay=0.01, clip_norm=1.0)
    optimizer = make_optimizer(settings, make_schedule(settings, updates=10))
    state = jax.eval_shape(
        lambda p: TrainState(jnp.int32(0), p, optimizer.init(p)), abstract_params(config)
    )
    integers = _abstract(jnp.int32, 2, ROWS, LENGTH)
    floats = _abstract(jnp.float32, 2, ROWS, LENGTH)
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
        train_step,
        model=Decoder(config),
        optimizer=optimizer,
        settings=LossSettings(),
        num_domains=1,
    )
    temporary = _temporary_bytes(step, state, batch, donate_argnums=0)
    print(f"train step: {temporary / 1e9:.2f} GB, all logits: {ALL_LOGITS / 1e9:.2f} GB")
    # Besides, the gradient that the micro-batches add to, and that of the embedding.
    assert temporary < CHUNK_BYTES + 2 * 4 * 32 * QWEN_VOCABULARY < ALL_LOGITS / 3
