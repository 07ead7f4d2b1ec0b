"""Fewer key/value heads than the tensor axis: repeated where they are needed, in training too."""

import dataclasses
import math

import jax
from jax.sharding import AbstractMesh, AxisType
from model_cases import CASES
import pytest

from gopd_jax.models.decoder import param_shardings
from gopd_jax.rollout.weights import abstract_weights
from gopd_jax.runtime.mesh import AXES, kv_copies

# Qwen3-30B-A3B has 32 query heads and 4 key/value heads.
WIDE = dataclasses.replace(CASES["qwen3_tied"], heads=32, kv_heads=4)


def mesh(tensor):
    sizes = tuple(tensor if axis == "tensor" else 1 for axis in AXES)
    return AbstractMesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES))


@pytest.mark.parametrize("tensor, copies", [(1, 1), (2, 1), (4, 1), (8, 2), (16, 4), (32, 8)])
def test_a_rank_holds_what_its_query_heads_need(tensor, copies):
    assert kv_copies(WIDE.kv_heads, mesh(tensor)) == copies
    held, queries = WIDE.kv_heads * copies, WIDE.heads // tensor
    assert held % tensor == 0 and WIDE.heads % held == 0
    for rank in range(tensor):
        needed = {(rank * queries + i) * WIDE.kv_heads // WIDE.heads for i in range(queries)}
        of_rank = range(rank * held // tensor, (rank + 1) * held // tensor)
        assert needed == {head // copies for head in of_rank}
    assert kv_copies(3, mesh(tensor)) == math.lcm(3, tensor) // 3


def test_parameters_of_odd_heads_are_whole_and_those_of_others_are_split():
    for tensor, split in ((4, "tensor"), (8, None)):
        train = param_shardings(WIDE, mesh(tensor))["layers"]["attention"]
        decode = abstract_weights(WIDE, mesh(tensor), jax.numpy.float32, False)["layers"][0]
        for name in ("key", "value"):
            assert train[name].spec[2] == split
            assert decode["attention"][name].sharding.spec[0] == split
        assert train["query"].spec[2] == decode["attention"]["query"].sharding.spec[0] == "tensor"


GRADIENTS = """
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from model_cases import CASES, random_params
from gopd_jax.kernels.packed_attention_xla import xla_cpu
from gopd_jax.models.decoder import Decoder, param_shardings
from gopd_jax.runtime.mesh import make_mesh

model = dataclasses.replace(CASES["qwen3_tied"], heads=8, kv_heads=4)
rng = np.random.default_rng(0)
tokens = rng.integers(0, 96, (4, 192)).astype(np.int32)
segments = np.sort(rng.integers(1, 5, tokens.shape), axis=1).astype(np.int32)
positions = np.tile(np.arange(192, dtype=np.int32), (4, 1))
wanted = rng.normal(size=(4, 192, model.width)).astype(np.float32)


def loss(params):
    decoder = Decoder(model, attention=xla_cpu)
    return jnp.sum(decoder.apply({"params": params}, tokens, positions, segments) * wanted)


found = []
for sizes in ({"devices": jax.devices()[:1]}, {"tensor": 8, "fsdp": 1}, {"tensor": 4, "fsdp": 2}):
    mesh = make_mesh(**sizes)
    where = param_shardings(model, mesh)
    with jax.set_mesh(mesh):
        params = jax.device_put(random_params(model), where)
        run = jax.jit(jax.value_and_grad(loss), out_shardings=(None, where))
        found.append(jax.device_get(run(params)))
(one, grads), *others = found
for value, others_grads in others:
    np.testing.assert_allclose(value, one, rtol=1e-5)
    for x, y in zip(jax.tree.leaves(grads), jax.tree.leaves(others_grads), strict=True):
        np.testing.assert_allclose(y, x, atol=1e-5 * np.abs(x).max())
"""


@pytest.mark.slow
def test_the_gradients_are_those_of_one_device(run_on_fake_devices):
    run_on_fake_devices(GRADIENTS)
