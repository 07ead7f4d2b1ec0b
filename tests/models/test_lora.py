"""An adapter acts as the matrix that it is added to, wherever a model reads it."""

import functools

import jax
import jax.numpy as jnp
from lora_cases import ATTENTION, naive_merge, random_adapter
from model_cases import CASES, random_params
import numpy as np
import pytest
from step_cases import trees_close, trees_equal

from gopd_jax.models import lora
from gopd_jax.models.decoder import Decoder, unstack
from gopd_jax.models.settings import LoraSettings

CHOSEN = {
    "qwen3_untied": LoraSettings(rank=3, alpha=6.0),
    "qwen2_tied": LoraSettings(rank=2, alpha=1.0, targets=("value", "down")),
    "qwen3_moe_untied": LoraSettings(rank=3, alpha=6.0, targets=ATTENTION),
}


@functools.cache
def weighted(case):
    """A number that depends on all hidden states, and the hidden states; of the params' tree."""
    config = CASES[case]
    tokens = np.random.default_rng(5).integers(1, config.vocab_size, (2, 12), dtype=np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape)

    def run(params):
        apply = Decoder(config).apply
        hidden = apply({"params": params}, tokens, positions, np.ones_like(tokens))
        return jnp.sum(jnp.sin(hidden)), hidden

    return run


@pytest.mark.parametrize(
    "case", [c if c == "qwen2_tied" else pytest.param(c, marks=pytest.mark.slow) for c in CHOSEN]
)
def test_output_and_gradient_are_those_of_the_merged_matrices(case):
    config, settings, run = CASES[case], CHOSEN[case], weighted(case)
    base, adapter = random_params(config), random_adapter(config, settings)
    of_adapter = jax.value_and_grad(
        lambda adapter: run(lora.adapted(base, adapter, settings)), has_aux=True
    )
    of_whole = jax.value_and_grad(run, has_aux=True)
    (_, hidden), grads = jax.jit(of_adapter)(adapter)
    (_, expected), whole_grads = jax.jit(of_whole)(naive_merge(base, adapter, settings))
    np.testing.assert_allclose(hidden, expected, atol=2e-5)
    assert np.abs(run(base)[1] - expected).max() > 0.1
    for room, matrices in grads["layers"].items():
        for name, grad in matrices.items():
            sides = adapter["layers"][room][name]
            inner = lora.INPUT_AXES[name]
            # d / dA = scale * dW B^T, d / dB = scale * A^T dW, one layer after the other.
            for layer, whole in enumerate(whole_grads["layers"][room][name]):
                a, b = np.asarray(sides["a"][layer]), np.asarray(sides["b"][layer])
                axes = list(range(inner)), list(range(inner))
                outer = list(range(1, b.ndim)), list(range(inner, whole.ndim))
                of_a = settings.scale * np.tensordot(whole, b, outer[::-1])
                of_b = settings.scale * np.tensordot(a, whole, axes)
                np.testing.assert_allclose(grad["a"][layer], of_a, atol=5e-4, rtol=1e-4)
                np.testing.assert_allclose(grad["b"][layer], of_b, atol=5e-4, rtol=1e-4)


@pytest.mark.slow
def test_decode_weights_are_those_of_the_merged_matrices():
    config, settings = CASES["qwen3_untied"], CHOSEN["qwen3_untied"]
    base, adapter = random_params(config), random_adapter(config, settings)
    whole = lora.adapted(base, adapter, settings)
    expected = naive_merge(base, adapter, settings)
    trees_close(unstack(whole, jnp.float32), unstack(expected, jnp.float32), atol=1e-5)
    trees_close(lora.merged(whole), expected, atol=1e-5)
    # In bfloat16 the sum is rounded, and not each of its terms.
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    kept = naive_merge(jax.tree.map(lambda x: x.astype(jnp.float32), narrow), adapter, settings)
    actual = unstack(lora.adapted(narrow, adapter, settings), jnp.bfloat16)
    rounded = jax.tree.map(
        lambda x: np.asarray(x, np.float32), (actual, unstack(kept, jnp.bfloat16))
    )
    trees_close(*rounded, atol=1e-6, rtol=2**-8)


def test_a_new_adapter_changes_nothing():
    """But the last digit, where the compiler adds up the two products in one loop."""
    config, settings = CASES["qwen3_untied"], CHOSEN["qwen3_untied"]
    base = random_params(config)
    new = lora.init_adapter(config, settings, jax.random.key(3))
    run = weighted("qwen3_untied")
    whole = lora.adapted(base, new, settings)
    np.testing.assert_allclose(run(whole)[1], run(base)[1], atol=2e-6)
    trees_equal(unstack(whole, jnp.bfloat16), unstack(base, jnp.bfloat16))
    for path, x in jax.tree_util.tree_leaves_with_path(new):
        if path[-1].key == "a":  # uniform, of deviation bound / sqrt(3); no two layers are alike
            bound = np.prod(x.shape[1:-1]) ** -0.5
            assert 0.8 * bound < np.abs(x).max() <= bound
            assert np.std(x) == pytest.approx(bound / 3**0.5, rel=0.2)
            assert not np.array_equal(x[0], x[1])
    gate, up = (new["layers"]["mlp"][name]["a"] for name in ("gate", "up"))
    assert not np.array_equal(gate, up)
    other = lora.init_adapter(config, settings, jax.random.key(4))["layers"]["mlp"]["up"]["a"]
    assert not np.array_equal(up, other)


def test_the_adapter_is_sharded_like_its_matrices_and_the_rank_is_whole():
    axes = lora.adapter_axes(CASES["qwen3_untied"], CHOSEN["qwen3_untied"])["layers"]
    query, out, down = axes["attention"]["query"], axes["attention"]["out"], axes["mlp"]["down"]
    assert tuple(query["a"]) == ("layers", "embed", "rank")
    assert tuple(query["b"]) == ("layers", "rank", "heads", "head_size")
    assert tuple(out["a"]) == ("layers", "heads", "head_size", "rank")
    assert tuple(out["b"]) == ("layers", "rank", "embed")
    assert tuple(down["a"]) == ("layers", "mlp", "rank")


@pytest.mark.parametrize(
    "case, targets, words",
    [
        ("qwen3_moe_untied", ("query", "up"), "experts have no adapters; expected some of query"),
        ("qwen3_untied", (), r"config.lora.targets=\(\): expected each once of some of query"),
        ("qwen3_untied", ("up", "up"), "expected each once"),
    ],
)
def test_targets_that_cannot_be_are_refused(case, targets, words):
    with pytest.raises(ValueError, match=words):
        lora.abstract_adapter(CASES[case], LoraSettings(rank=2, targets=targets))
