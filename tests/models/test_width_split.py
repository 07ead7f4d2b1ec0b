"""A table that is split by width over devices: same numbers, and no device holds it whole."""

import pytest

ON_EIGHT = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec
from gopd_jax.models import head_blocks
from gopd_jax.models.embedding import embed
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.runtime.mesh import RULES, make_mesh

head_blocks.chunk_tokens = lambda _: 7
head_blocks.CPU_LOGIT_ELEMENTS = 7 * 20  # blocks of 20 ids
S, D, V = 10, 16, 62
rng = np.random.default_rng(0)

def run(mesh, rows, num_ids):
    hidden, table = (rng.normal(size=s).astype(np.float32) for s in ((rows, S, D), (V, D)))
    coefficients = rng.normal(size=(rows, S)).astype(np.float32)
    targets = rng.integers(0, 60, (rows, S), dtype=np.int32)
    wanted = rng.random((rows, S)) < 0.6

    def total(hidden, table):
        hidden += embed(table, targets, jnp.float32)
        values, entropy = token_logprobs(hidden, table, targets, wanted, num_ids=num_ids)
        return jnp.sum(coefficients * values), (values, entropy)

    def placed(x, spec):
        return jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))

    program = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    by_width = PartitionSpec(RULES["vocab"], RULES["embed"])
    given = hidden, placed(table, by_width)
    if rows == 8:
        by_row = PartitionSpec(RULES["batch"])
        given = placed(hidden, by_row), given[1]
    with jax.set_mesh(mesh):
        compiled = program.lower(*given).compile()
        return jax.device_get(compiled(*given)), compiled.as_text()

alone = make_mesh(devices=jax.devices()[:1])
for rows, num_ids in ((8, None), (8, 60), (3, 60)):
    for sizes in ((2, 2, 2), (1, 8, 1), (8, 1, 1)):
        state = rng.bit_generator.state
        one, _ = run(alone, rows, num_ids)
        rng.bit_generator.state = state
        many, text = run(make_mesh(*sizes), rows, num_ids)
        for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True):
            assert np.linalg.norm(a - b) < 5e-6 * np.linalg.norm(b)
        if sizes == (1, 8, 1):
            print(f"f32[{V},{D}]" in text)
"""


@pytest.mark.slow
def test_many_devices_find_what_one_does_without_the_whole_table(run_on_fake_devices):
    """With rows that the devices divide, and with 3 rows, which every device runs."""
    assert run_on_fake_devices(ON_EIGHT).split() == ["False", "False", "True"]
