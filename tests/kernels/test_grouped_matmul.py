"""The grouped matrix product against one product per row, with gradients.

The kernels for TPU and GPU run in interpret mode.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import grouped_matmul
from gopd_jax.kernels.grouped_matmul_gpu import pallas_gpu
from gopd_jax.kernels.grouped_matmul_tpu import pallas_tpu

KERNELS = {
    "xla": grouped_matmul.xla,
    "pallas_tpu": functools.partial(pallas_tpu, interpret=True),
    "pallas_gpu": functools.partial(pallas_gpu, interpret=True),
}


def arrays(rows, width, columns):
    rng = np.random.default_rng(0)
    shapes = (rows, width), (3, width, columns), (rows, columns)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def run(product, rows, matrices, direction, real):
    """Values and gradients; 0 in rows that belong to no group."""

    def total(rows, matrices):
        out = jnp.where(real[:, None], product(rows, matrices), 0)
        return jnp.sum(out * direction), out

    gradients, out = jax.jit(jax.grad(total, (0, 1), has_aux=True))(rows, matrices)
    return out, jnp.where(real[:, None], gradients[0], 0), gradients[1]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "sizes, rows, width, columns",
    [
        ((3, 4, 5), 12, 6, 5),
        ((0, 12, 0), 12, 6, 5),
        ((0, 5, 7), 12, 6, 5),
        ((70, 0, 75), 150, 70, 140),  # several tiles on every axis, and five rows of no group
    ],
)
def test_each_row_is_multiplied_by_the_matrix_of_its_group(kernel, sizes, rows, width, columns):
    x, matrices, direction = arrays(rows, width, columns)
    groups = np.repeat(np.arange(4), (*sizes, rows - sum(sizes))) % 3
    real = np.arange(rows) < sum(sizes)

    def grouped(rows, matrices):
        return KERNELS[kernel](rows, matrices, jnp.array(sizes, jnp.int32))

    def one_by_one(rows, matrices):
        return jnp.einsum("md,mdf->mf", rows, matrices[groups])

    found, expected = (run(f, x, matrices, direction, real) for f in (grouped, one_by_one))
    for a, b in zip(found, expected, strict=True):
        assert np.abs(b).max() > 0.5
        np.testing.assert_allclose(a, b, atol=1e-6 * max(10, np.abs(b).max()))
