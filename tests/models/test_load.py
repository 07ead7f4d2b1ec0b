"""A whole model in one call."""

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax import tiny
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.load import load_model
from gopd_jax.runtime.mesh import make_mesh


def test_a_model_is_its_architecture_and_its_parameters_sharded_for_training():
    mesh, folder = make_mesh(), tiny.model("base")
    config, params = load_model(folder)
    assert config == load_config(folder)
    shardings = param_shardings(config, mesh)
    expected = load_params(folder, config, jnp.float32, shardings)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert jax.tree.all(jax.tree.map(lambda p, s: p.sharding == s, params, shardings))
    halved = load_model(folder, mesh, jnp.bfloat16)[1]
    assert {p.dtype for p in jax.tree.leaves(halved)} == {jnp.dtype(jnp.bfloat16)}
