"""Grouped matrix product for TPUs: `ragged_dot` forward, megablox kernels backward.

In and out: as in `grouped_matmul`. The compiler makes a kernel of `ragged_dot` that visits the real
rows only. Of its gradient in the matrices it makes one masked product of all rows for each group:
with 128 groups, 128 times the operations. For the gradient in the rows it writes a transposed copy
of all matrices first. The megablox kernels of JAX do neither.
"""

import functools

import jax
from jax.experimental.pallas.ops.tpu.megablox.gmm import gmm, tgmm
import jax.numpy as jnp
import numpy as np

# Tiles of rows, of the axis that is summed over, and of columns: within the 16 MB of VMEM that the
# compiler gives a kernel on v5e, and multiples of 128, which the TPU's registers ask for.
TILES = (512, 1024, 768)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pallas_tpu(
    rows_mD: jax.Array, matrices_EDF: jax.Array, sizes_E: jax.Array, interpret: bool = False
) -> jax.Array:
    """`GroupedMatmul` on TPU; `interpret` runs the kernels on any device, for tests."""
    del interpret
    return jax.lax.ragged_dot(rows_mD, matrices_EDF, sizes_E)


def _forward(rows_mD, matrices_EDF, sizes_E, interpret):
    out_mF = pallas_tpu(rows_mD, matrices_EDF, sizes_E, interpret)
    return out_mF, (rows_mD, matrices_EDF, sizes_E)


def _backward(interpret, saved, grad_mF):
    rows_mD, matrices_EDF, sizes_E = saved
    m, (_, D, F) = len(rows_mD), matrices_EDF.shape
    tile = min(TILES[0], -(-m // 128) * 128)
    grad, rows = _whole_tiles(grad_mF, tile), _whole_tiles(rows_mD, tile)
    run = {"interpret": interpret}
    grad_rows = gmm(
        *(grad, matrices_EDF, sizes_E, rows.dtype),
        (tile, min(TILES[1], F), min(TILES[2], D)),
        transpose_rhs=True,
        **run,
    )[:m]
    tiles = tile, min(TILES[1], D), min(TILES[2], F)
    grad_matrices = tgmm(rows.T, grad, sizes_E, matrices_EDF.dtype, tiles, **run)
    return grad_rows, grad_matrices, np.zeros(sizes_E.shape, jax.dtypes.float0)


pallas_tpu.defvjp(_forward, _backward)


def _whole_tiles(rows: jax.Array, tile: int) -> jax.Array:
    """The rows, and rows of zeros up to a multiple of the tile."""
    return jnp.pad(rows, ((0, -len(rows) % tile), (0, 0)))
