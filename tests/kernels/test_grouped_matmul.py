"""The grouped matrix product against one product per row, with gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.kernels import grouped_matmul


@pytest.mark.parametrize("sizes", [(3, 4, 5), (0, 12, 0), (12, 0, 0), (0, 5, 7)])
def test_each_row_is_multiplied_by_the_matrix_of_its_group(sizes):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(sum(sizes), 6)).astype(np.float32)
    matrices = rng.normal(size=(3, 6, 5)).astype(np.float32)
    direction = rng.normal(size=(sum(sizes), 5)).astype(np.float32)
    groups = np.repeat(np.arange(3), sizes)

    def grouped(rows, matrices):
        return grouped_matmul.xla(rows, matrices, jnp.array(sizes, jnp.int32))

    def one_by_one(rows, matrices):
        return jnp.einsum("md,mdf->mf", rows, matrices[groups])

    def run(product):
        def total(rows, matrices):
            out = product(rows, matrices)
            return jnp.sum(out * direction), out

        return jax.jit(jax.grad(total, (0, 1), has_aux=True))(rows, matrices)

    for a, b in zip(jax.tree.leaves(run(grouped)), jax.tree.leaves(run(one_by_one)), strict=True):
        assert np.abs(b).max() > 0.5
        np.testing.assert_allclose(a, b, atol=1e-5)
