"""What must not change a number: padding, packing, the cache, chunks of queries, rematerialisation."""

import functools

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.models import attention
from gopd_jax.models.decoder import Decoder, abstract_params, decode, init_cache, unstack

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
        row[0, 0, here], row[1, 0, here], row[2, 0, here] = sequence, np.arange(len(sequence)), segment
    return row


def _forward(config, params, row):
    return np.asarray(_jitted(config)(params, row))[0]


@functools.cache
def _jitted(config):
    return jax.jit(lambda params, row: Decoder(config).apply({"params": params}, *row))


@functools.cache
def _jitted_decode(config):
    return jax.jit(functools.partial(decode, config))


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_decode_equals_forward(model, side):
    """Prefill of 6 columns, then one token at a time; the cache is longer than needed. With left padding the second sequence
    starts at column 4; with right padding both start at 0 and the second ends early."""
    config, params = model
    sequences = _sequences(config)
    size, prompt, steps = 16, 6, max(LENGTHS)
    tokens, positions, segments = (np.zeros((2, size), np.int32) for _ in range(3))
    starts = [steps - n if side == "left" else 0 for n in LENGTHS]
    for b, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        here = slice(start, start + len(sequence))
        tokens[b, here], positions[b, here], segments[b, here] = sequence, np.arange(len(sequence)), 1

    step = _jitted_decode(config)
    flat = unstack(params, jnp.float32)
    caches = init_cache(config, 2, size, jnp.float32)
    hidden = []
    for begin, end in [(0, prompt), *((i, i + 1) for i in range(prompt, steps))]:
        out, caches = step(flat, tokens[:, begin:end], positions[:, begin:end], segments, jnp.asarray(begin, jnp.int32), caches)
        hidden.append(np.asarray(out))
    hidden = np.concatenate(hidden, axis=1)
    for b, (start, sequence) in enumerate(zip(starts, sequences, strict=True)):
        _close(hidden[b, start : start + len(sequence)], _alone(config, params, sequence))
    assert not np.asarray(caches[0][0])[:, :, steps:].any(), "columns after the last token were written"


def _loss(config, remat, params, row):
    hidden = Decoder(config, remat=remat).apply({"params": params}, *row)
    return jnp.sum(jnp.where(row[2][..., None] > 0, jnp.sin(hidden), 0.0)), hidden


@functools.cache
def _hidden_and_gradient(config, remat, query_chunk):
    assert attention.QUERY_CHUNK == query_chunk
    first, second = _sequences(config)
    row = _row(22, (1, first), (13, second))  # 22 is no multiple of 8: the last chunk of queries is padded
    gradient, hidden = jax.jit(jax.grad(functools.partial(_loss, config, remat), has_aux=True))(random_params(config), row)
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(gradient))
    return np.where(row[2][..., None] > 0, hidden, 0.0), gradient


def _same_hidden_and_gradient(actual, expected):
    _close(actual[0], expected[0])
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=2e-4, rtol=2e-4), actual[1], expected[1])


def _jaxpr(config, remat):
    return str(jax.make_jaxpr(functools.partial(_loss, config, remat))(random_params(config), _row(22)))


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
        assert ("remat" in jaxpr or "checkpoint" in jaxpr) == remat  # the primitive's name differs between versions of JAX
    on, off = (_hidden_and_gradient(config, remat, attention.QUERY_CHUNK) for remat in (True, False))
    _same_hidden_and_gradient(off, on)


@pytest.mark.parametrize("case", CASES)
def test_parameter_count(case):
    config = CASES[case]
    assert config.num_params == sum(p.size for p in jax.tree.leaves(abstract_params(config)))
