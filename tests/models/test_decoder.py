"""What must not change a number: padding, packing, chunks of queries, rematerialisation."""

import functools

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.models import attention
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
        here = slice(start, start + len(sequence))
        row[0, 0, here], row[1, 0, here], row[2, 0, here] = (
            sequence,
            np.arange(len(sequence)),
            segment,
        )
    return row


def _forward(config, params, row):
    return np.asarray(_jitted(config)(params, row))[0]


@functools.cache
def _jitted(config):
    return jax.jit(lambda params, row: Decoder(config).apply({"params": params}, *row))


def _alone(config, params, sequence):
    return _forward(config, params, _row(len(sequence), (0, sequence)))  # no padding, no neighbour


def _close(actual, expected):
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(actual, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("start", [0, 3, 9], ids=["right", "both", "left"])
def test_padding_changes_nothing(model, start):
    config, params = model
    sequence = _sequences(config)[0]
    row = _row(20, (start, sequence))
    row[0][row[2] == 0] = 5  # whatever stands there
    hidden = _forward(config, params, row)
    _close(hidden[start : start + len(sequence)], _alone(config, params, sequence))
    assert np.isfinite(hidden).all()


def test_packed_sequences_do_not_see_each_other(model):
    config, params = model
    first, second = _sequences(config)
    hidden = _forward(config, params, _row(20, (0, first), (len(first), second)))
    _close(hidden[: len(first)], _alone(config, params, first))
    _close(hidden[len(first) : len(first) + len(second)], _alone(config, params, second))


def _loss(config, remat, params, row):
    hidden = Decoder(config, remat=remat).apply({"params": params}, *row)
    return jnp.sum(jnp.where(row[2][..., None] > 0, jnp.sin(hidden), 0.0)), hidden


@functools.cache
def _hidden_and_gradient(config, remat, query_chunk):
    assert attention.QUERY_CHUNK == query_chunk
    first, second = _sequences(config)
    row = _row(
        22, (1, first), (13, second)
    )  # 22 is no multiple of 8: the last chunk of queries is padded
    gradient, hidden = jax.jit(jax.grad(functools.partial(_loss, config, remat), has_aux=True))(
        random_params(config), row
    )
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    return np.where(row[2][..., None] > 0, hidden, 0.0), gradient


def _same_hidden_and_gradient(actual, expected):
    _close(actual[0], expected[0])
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, atol=2e-4, rtol=2e-4), actual[1], expected[1]
    )


def _jaxpr(config, remat):
    return str(
        jax.make_jaxpr(functools.partial(_loss, config, remat))(random_params(config), _row(22))
    )


def test_query_chunks_change_nothing(monkeypatch):
    config = CASES["qwen3_tied"]
    whole = _hidden_and_gradient(config, True, attention.QUERY_CHUNK)
    assert _jaxpr(config, True).count("scan[") == 1, "the loop over layers"
    monkeypatch.setattr(attention, "QUERY_CHUNK", 8)
    assert _jaxpr(config, True).count("scan[") == 2, "and in it the loop over chunks"
    _same_hidden_and_gradient(_hidden_and_gradient(config, True, 8), whole)


def test_remat_changes_nothing():
    config = CASES["qwen3_tied"]
    for remat in (True, False):
        jaxpr = _jaxpr(config, remat)
        assert (
            "remat" in jaxpr or "checkpoint" in jaxpr
        ) == remat  # the primitive's name differs between versions of JAX
    on, off = (
        _hidden_and_gradient(config, remat, attention.QUERY_CHUNK) for remat in (True, False)
    )
    _same_hidden_and_gradient(off, on)


@pytest.mark.parametrize("case", CASES)
def test_parameter_count(case):
    config = CASES[case]
    assert config.num_params == sum(p.size for p in jax.tree.leaves(abstract_params(config)))
