"""Rows that are split along their length: the order of tokens, equal work, equal attention."""

import pytest

BALANCE = """
import jax, jax.numpy as jnp, numpy as np
from gopd_jax.kernels import context
from gopd_jax.kernels.block_pairs import block_pairs
from gopd_jax.runtime.mesh import make_mesh, token_sharding

LENGTH = 16384

def pairs(query, key, value, mask):
    return jnp.broadcast_to(block_pairs(mask)[0].count.astype(jnp.float32), query.shape)

x = np.zeros((1, LENGTH, 1, 1), np.float32)
segments = np.ones((1, LENGTH), np.int32)
for parts in (2, 4, 8):
    mesh = make_mesh(fsdp=1, context=parts, devices=jax.devices()[:parts])
    with jax.set_mesh(mesh):
        rows = jax.device_put(np.arange(LENGTH, dtype=np.int32)[None], token_sharding(mesh))
        back = jax.jit(lambda x: context.in_order(context.balanced(x)))(rows)
        assert (np.asarray(back) == np.asarray(rows)).all()
        held = [np.asarray(s.data) for s in jax.jit(context.balanced)(rows).addressable_shards]
        key = x.swapaxes(1, 2)
        out = jax.jit(lambda: context.attention(pairs, x, key, key, segments))()
    means = [part.mean() for part in held]
    assert max(means) == min(means), means
    # The count of each of the two pieces stands where its output would.
    work = [float(np.unique(s.data[:, [0, -1]]).sum()) for s in out.addressable_shards]
    assert len(work) == parts
    print(max(work) / np.mean(work), sum(work))
"""


def test_every_device_has_the_same_work(run_on_fake_devices):
    """Pairs of blocks of one long segment; together they are those of the whole row."""
    found = [line.split() for line in run_on_fake_devices(BALANCE).splitlines()]
    blocks = 16384 // 512
    assert len(found) == 3
    for unequal, pairs in found:
        assert float(unequal) < 1.1 and float(pairs) == blocks * (blocks + 1) / 2


EQUAL = """
import functools, sys
sys.path.insert(0, "tests/kernels")
import jax, jax.numpy as jnp, numpy as np
from attention_cases import make_case
from gopd_jax.kernels import context
from gopd_jax.kernels.packed_attention import plain
from gopd_jax.kernels.packed_attention_gpu import pallas_gpu
from gopd_jax.kernels.packed_attention_tpu import pallas_tpu
from gopd_jax.kernels.packed_attention_xla import Xla
from gopd_jax.runtime.mesh import make_mesh

KERNELS = {
    "plain": plain,
    "xla": Xla(2, (4, 2, 1)),
    "pallas_tpu": functools.partial(pallas_tpu, interpret=True),
    "pallas_gpu": functools.partial(pallas_gpu, interpret=True),
}
# Prefixes and segments that are longer and shorter than a piece, a row without any, and padding.
ROWS = [(20, 5, 9, 4)], [(3, 4, 7), (17, 6, 2)], [], [9, (4, 12, 2, 10), 8]
*arrays, mask, direction = make_case(rows=ROWS, keys=48)
segments = mask.query_segments
live = (segments > 0)[:, :, None, None]

def total(query, key, value, kernel):
    key, value = (context.balanced(x.swapaxes(1, 2)).swapaxes(1, 2) for x in (key, value))
    given = context.balanced(query), key, value, context.balanced(segments)
    out = jnp.where(live, context.in_order(context.attention(kernel, *given)), 0)
    return jnp.sum(jnp.sin(out) * direction), out

def run(kernel):
    program = jax.value_and_grad(functools.partial(total, kernel=kernel), (0, 1, 2), has_aux=True)
    return jax.tree.leaves(jax.device_get(jax.jit(program)(*arrays)))

expected = run(plain)
for name in sys.argv[1:]:
    for sizes in (dict(context=4), dict(fsdp=2, context=2, tensor=2)):
        devices = jax.devices()[: int(np.prod(list(sizes.values())))]
        with jax.set_mesh(make_mesh(**({"fsdp": 1} | sizes), devices=devices)):
            for found, right in zip(run(KERNELS[name]), expected, strict=True):
                assert np.linalg.norm(found - right) < 1e-6 * np.linalg.norm(right), (name, sizes)
    print(name)
"""


@pytest.mark.parametrize(
    "kernels",
    [("plain", "xla"), pytest.param(("pallas_tpu", "pallas_gpu"), marks=pytest.mark.slow)],
)
def test_split_rows_attend_as_whole_ones(run_on_fake_devices, kernels):
    """Output and gradients, with shared prefixes; the pieces have 6 and 12 tokens."""
    assert tuple(run_on_fake_devices(EQUAL, *kernels).split()) == kernels
