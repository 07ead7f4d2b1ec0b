"""Padding, packing, blocks of attention, rematerialisation and kernels change no number."""

import functools

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.kernels import grouped_matmul
from gopd_jax.kernels.packed_attention import plain
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.models.decoder import Decoder, abstract_params

LENGTHS = (11, 7)
TOLERANCE = 2e-5


@pytest.fixture(scope="module", params=["qwen3_tied", "qwen2_tied", "llama_tied_llama3_rope"])
def model(request):
    config = CASES[request.param]
    return config, random_params(config)


def _sequences(config, lengths=LENGTHS):
    rng = np.random.default_rng(0)
    return [rng.integers(1, config.vocab_size, n, dtype=np.int32) for n in lengths]


def _row(size, *placed):
    """One packed row [3, 1, size] (tokens, positions, segments) from (start, sequence) pairs."""
    row = np.zeros((3, 1, size), np.int32)
    for segment, (start, sequence) in enumerate(placed, start=1):
        length = len(sequence)
        here = slice(start, start + length)
        row[0, 0, here], row[1, 0, here], row[2, 0, here] = sequence, np.arange(length), segment
    return row


def _forward(config, params, row):
    return np.asarray(_jitted(config)(params, row))[0]


@functools.cache
def _jitted(config):
    return jax.jit(lambda params, row: Decoder(config).apply({"params": params}, *row))


def _alone(config, params, sequence):
    """Hidden states of one sequence without padding or neighbours."""
    return _forward(config, params, _row(len(sequence), (0, sequence)))


def _close(actual, expected):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("start", [0, 3, 9], ids=["right", "both", "left"])
def test_padding_changes_nothing(model, start):
    config, params = model
    sequence = _sequences(config)[0]
    row = _row(20, (start, sequence))
    row[0][row[2] == 0] = 5  # padding may hold any token
    hidden = _forward(config, params, row)
    _close(hidden[start : start + len(sequence)], _alone(config, params, sequence))
    assert np.isfinite(hidden).all()


def test_packed_sequences_do_not_see_each_other(model):
    config, params = model
    first, second = _sequences(config)
    hidden = _forward(config, params, _row(20, (0, first), (len(first), second)))
    _close(hidden[: len(first)], _alone(config, params, first))
    _close(hidden[len(first) : len(first) + len(second)], _alone(config, params, second))


def _loss(config, remat, kernel, params, row):
    hidden = Decoder(config, remat=remat, attention=kernel).apply({"params": params}, *row)
    return jnp.sum(jnp.where(row[2][..., None] > 0, jnp.sin(hidden), 0.0)), hidden


@functools.cache
def _hidden_and_gradient(config, remat, kernel=plain):
    first, second = _sequences(config)
    row = _row(22, (1, first), (13, second))  # 22 is not a multiple of 8
    loss = functools.partial(_loss, config, remat, kernel)
    gradient, hidden = jax.jit(jax.grad(loss, has_aux=True))(random_params(config), row)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    return np.where(row[2][..., None] > 0, hidden, 0.0), gradient


def _same_hidden_and_gradient(actual, expected):
    _close(actual[0], expected[0])
    close = functools.partial(np.testing.assert_allclose, atol=2e-4, rtol=2e-4)
    jax.tree.map(close, actual[1], expected[1])


@pytest.mark.slow
def test_blocks_of_attention_change_nothing():
    config = CASES["qwen3_tied"]
    blocks = _hidden_and_gradient(config, "block", Xla(8, (2, 1)))
    _same_hidden_and_gradient(blocks, _hidden_and_gradient(config, "block"))


def _jaxpr(config, remat, kernel):
    loss = functools.partial(_loss, config, remat, kernel)
    gradient = jax.grad(loss, has_aux=True)
    return str(jax.make_jaxpr(gradient)(random_params(config), _row(22)))


@pytest.mark.parametrize(
    "remat", ["offload", *(pytest.param(r, marks=pytest.mark.slow) for r in ("attention", "block"))]
)
def test_remat_changes_nothing(remat):
    config, kernel = CASES["qwen3_tied"], Xla(8, (2, 1))
    expected = _hidden_and_gradient(config, "none", kernel)
    _same_hidden_and_gradient(_hidden_and_gradient(config, remat, kernel), expected)


def test_remat_runs_again_what_it_does_not_keep():
    """The exponential of the scores stands in the loops forward, backward, and once more."""
    config, kernel = CASES["qwen3_tied"], Xla(8, (1,))
    counts = {}
    for remat in ("none", "attention", "block", "offload"):
        jaxpr = _jaxpr(config, remat, kernel)
        # The name of the primitive differs between versions of JAX.
        assert ("remat" in jaxpr or "checkpoint" in jaxpr) == (remat != "none")
        counts[remat] = jaxpr.count(" exp ")
        inputs = f"[{config.layers},1,22,{config.width}]"
        kept = [kind for kind in ("f32", "f32<host>") if f"{kind}{inputs}" in jaxpr]
        assert kept == ["f32<host>" if remat == "offload" else "f32"]
    assert counts["none"] == counts["attention"] < counts["block"] == counts["offload"]


@pytest.mark.parametrize("remat", ["none", "block"])
def test_the_kernels_that_are_given_are_used(remat):
    """Kernels that call the plain ones and count: the same numbers, and each is called."""
    config = CASES["qwen3_moe_untied"]
    calls = {"attention": 0, "matmul": 0}

    def attention(*args):
        calls["attention"] += 1
        return plain(*args)

    def matmul(*args):
        calls["matmul"] += 1
        return grouped_matmul.xla(*args)

    row = _row(20, (0, _sequences(config)[0]))
    params = {"params": random_params(config)}
    given = Decoder(config, remat=remat, attention=attention, matmul=matmul)
    actual = jax.jit(given.apply)(params, *row)
    expected = jax.jit(Decoder(config, remat=remat).apply)(params, *row)
    np.testing.assert_array_equal(actual, expected)
    # One traced layer: gate, up and down are three products.
    assert calls["attention"] and calls["matmul"] == 3 * calls["attention"]


@pytest.mark.parametrize("case", CASES)
def test_parameter_count(case):
    config = CASES[case]
    assert config.num_params == sum(p.size for p in jax.tree.leaves(abstract_params(config)))
