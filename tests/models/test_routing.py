"""What is counted of a mixture's router, and the numbers that are logged of it."""

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.models.decoder import Decoder
from gopd_jax.models.routing import Routing, counted, routing, routing_metrics

MIXTURE = CASES["qwen3_moe_untied"]


def test_counts_leave_padding_out():
    probabilities = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    chosen, real = jnp.array([[0, 1], [0, 2], [2, 1]]), jnp.array([True, True, False])
    found = routing(probabilities, chosen, real)
    np.testing.assert_array_equal(found.load, [2, 1, 1])
    assert found.tokens == 2
    assert float(found.entropy) == pytest.approx(np.log(2))


def test_metrics_are_means_over_layers_of_all_updates():
    updates = [
        Routing(np.array([[4, 0], [1, 3]]), np.array([2.0, 4.0]), np.array([2, 2])),
        Routing(np.array([[4, 0], [0, 4]]), np.array([0.0, 2.0]), np.array([2, 2])),
    ]
    assert routing_metrics(updates) == {
        "expert_load_max": (8 / 4 + 7 / 4) / 2,
        "experts_unused": 1 / 4,
        "router_entropy": (2 / 4 + 6 / 4) / 2,
    }
    nothing = Routing(np.zeros((1, 2), int), np.zeros(1), np.zeros(1, int))
    assert routing_metrics([nothing]) == {}


def test_a_decoder_counts_every_layer_and_only_if_it_is_a_mixture():
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    segments = np.array([[1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 0, 0]], np.int32)
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (2, 6))
    params = random_params(MIXTURE)
    decoder = Decoder(MIXTURE, remat="block")
    run = jax.jit(lambda params: counted(decoder, params, tokens, positions, segments))
    hidden, found = run(params)
    plain = jax.jit(decoder.apply)({"params": params}, tokens, positions, segments)
    np.testing.assert_array_equal(hidden, plain)
    np.testing.assert_array_equal(found.tokens, [9] * MIXTURE.layers)
    np.testing.assert_array_equal(
        found.load.sum(axis=1), [9 * MIXTURE.experts_per_token] * MIXTURE.layers
    )
    dense = CASES["qwen3_tied"]
    apply = (Decoder(dense), random_params(dense), tokens, positions, segments)
    assert jax.eval_shape(lambda: counted(*apply)[1]) is None
