"""Grouped matrix product on NVIDIA GPUs: Pallas kernels on the Triton backend.

In and out: as in `grouped_matmul`. On CUDA the compiler makes of `ragged_dot` a product of all rows
with every matrix. Here a program multiplies a block of rows with the matrix of one group; a block
that several groups share has a program for each of them. The gradient of the matrices is a kernel
of its own, whose programs loop over the rows of one group, so nothing is added atomically and
results repeat to the bit.
"""

import functools

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
import jax.numpy as jnp
import numpy as np

# Rows, terms of a sum, and columns of a tile. A guess: the kernels have not run on a GPU yet.
ROWS, TERMS, COLUMNS = 64, 64, 128


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def pallas_gpu(
    rows_mD: jax.Array, matrices_EDF: jax.Array, sizes_E: jax.Array, interpret: bool = False
) -> jax.Array:
    """`GroupedMatmul` on GPU; `interpret` runs the kernels on any device, for tests."""
    return _product(rows_mD, matrices_EDF, sizes_E, False, interpret)


def _forward(rows_mD, matrices_EDF, sizes_E, interpret):
    out_mF = _product(rows_mD, matrices_EDF, sizes_E, False, interpret)
    return out_mF, (rows_mD, matrices_EDF, sizes_E)


def _backward(interpret, saved, grad_mF):
    rows_mD, matrices_EDF, sizes_E = saved
    grad_rows = _product(grad_mF, matrices_EDF, sizes_E, True, interpret)
    grad_matrices = _matrix_gradient(rows_mD, grad_mF, sizes_E, matrices_EDF.dtype, interpret)
    return grad_rows, grad_matrices, np.zeros(sizes_E.shape, jax.dtypes.float0)


pallas_gpu.defvjp(_forward, _backward)


def _programs(sizes_E: jax.Array, m: int) -> jax.Array:
    """For each program of `_product` its group, block, and first and last row + 1; int32 [P, 4].

    P is enough for any sizes. The programs that are left over have no rows.
    """
    E, most = len(sizes_E), pl.cdiv(m, ROWS) + len(sizes_E)
    ends_E = jnp.cumsum(sizes_E)
    starts_E = ends_E - sizes_E
    blocks_E = jnp.where(sizes_E > 0, (ends_E - 1) // ROWS - starts_E // ROWS + 1, 0)
    after_E = jnp.cumsum(blocks_E)
    program = jnp.arange(most)
    group = jnp.minimum(jnp.searchsorted(after_E, program, side="right"), E - 1)
    block = starts_E[group] // ROWS + program - (after_E - blocks_E)[group]
    used = program < after_E[-1]
    columns = group, block, starts_E[group], ends_E[group]
    return jnp.stack([jnp.where(used, x, 0) for x in columns], axis=1).astype(jnp.int32)


def _at(start: jax.Array, size: int) -> jax.Array:
    return start + jax.lax.broadcasted_iota(jnp.int32, (size,), 0)


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    """The product of two tiles over these axes, in float32; exact for float32."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dims = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)


def _product_kernel(programs_ref, rows_ref, matrices_ref, out_ref, *, transposed: bool):
    program, columns = pl.program_id(0), pl.program_id(1) * COLUMNS
    group, block, low, high = (programs_ref[program, jnp.int32(i)] for i in range(4))
    terms = rows_ref.shape[1]
    row_t, column_c = _at(block * ROWS, ROWS), _at(columns, COLUMNS)
    real_t, real_c = (row_t >= low) & (row_t < high), column_c < out_ref.shape[1]

    def body(i, out_tc):
        here = pl.ds(i * TERMS, TERMS)
        real_k = _at(i * TERMS, TERMS) < terms
        tile = rows_ref.at[pl.ds(block * ROWS, ROWS), here]
        rows_tk = plgpu.load(tile, mask=real_t[:, None] & real_k[None], other=0.0)
        if transposed:
            tile, mask = matrices_ref.at[group, pl.ds(columns, COLUMNS), here], real_c[:, None]
            matrix = plgpu.load(tile, mask=mask & real_k[None], other=0.0)
        else:
            tile, mask = matrices_ref.at[group, here, pl.ds(columns, COLUMNS)], real_c[None]
            matrix = plgpu.load(tile, mask=mask & real_k[:, None], other=0.0)
        return out_tc + _dot(rows_tk, matrix, 1, 1 if transposed else 0)

    loops = jnp.minimum(high - low, 1) * pl.cdiv(terms, TERMS)  # none without rows
    out_tc = jax.lax.fori_loop(0, loops, body, jnp.zeros((ROWS, COLUMNS), jnp.float32))
    there = out_ref.at[pl.ds(block * ROWS, ROWS), pl.ds(columns, COLUMNS)]
    plgpu.store(there, out_tc.astype(out_ref.dtype), mask=real_t[:, None] & real_c[None])


def _product(
    rows_mD: jax.Array,
    matrices_EDF: jax.Array,
    sizes_E: jax.Array,
    transposed: bool,
    interpret: bool,
) -> jax.Array:
    """The rows times the matrices of their groups, or times the transposed matrices."""
    columns = matrices_EDF.shape[1 if transposed else 2]
    programs = _programs(sizes_E, len(rows_mD))
    return pl.pallas_call(
        functools.partial(_product_kernel, transposed=transposed),
        grid=(len(programs), pl.cdiv(columns, COLUMNS)),
        out_shape=jax.ShapeDtypeStruct((len(rows_mD), columns), rows_mD.dtype),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="grouped_matmul",
    )(programs, rows_mD, matrices_EDF)


def _gradient_kernel(starts_ref, rows_ref, grad_ref, out_ref):
    group, first, columns = pl.program_id(0), pl.program_id(1) * TERMS, pl.program_id(2) * COLUMNS
    low, high = starts_ref[group], starts_ref[group + 1]
    real_k = _at(first, TERMS) < rows_ref.shape[1]
    real_c = _at(columns, COLUMNS) < grad_ref.shape[1]

    def body(i, out_kc):
        start = low + i * ROWS
        here, real_t = pl.ds(start, ROWS), _at(start, ROWS) < high
        rows, grads = (
            rows_ref.at[here, pl.ds(first, TERMS)],
            grad_ref.at[here, pl.ds(columns, COLUMNS)],
        )
        rows_tk = plgpu.load(rows, mask=real_t[:, None] & real_k[None], other=0.0)
        grad_tc = plgpu.load(grads, mask=real_t[:, None] & real_c[None], other=0.0)
        return out_kc + _dot(rows_tk, grad_tc, 0, 0)

    loops = jax.lax.div(high - low + ROWS - 1, ROWS)
    out_kc = jax.lax.fori_loop(0, loops, body, jnp.zeros((TERMS, COLUMNS), jnp.float32))
    there = out_ref.at[group, pl.ds(first, TERMS), pl.ds(columns, COLUMNS)]
    plgpu.store(there, out_kc.astype(out_ref.dtype), mask=real_k[:, None] & real_c[None])


def _matrix_gradient(
    rows_mD: jax.Array, grad_mF: jax.Array, sizes_E: jax.Array, dtype: jnp.dtype, interpret: bool
) -> jax.Array:
    """rows^T grad of each group, [E, D, F]; 0 for an empty one."""
    E, D, F = len(sizes_E), rows_mD.shape[1], grad_mF.shape[1]
    starts = jnp.pad(jnp.cumsum(sizes_E), (1, 0)).astype(jnp.int32)
    return pl.pallas_call(
        _gradient_kernel,
        grid=(E, pl.cdiv(D, TERMS), pl.cdiv(F, COLUMNS)),
        out_shape=jax.ShapeDtypeStruct((E, D, F), dtype),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=4, num_stages=3),
        interpret=interpret,
        name="grouped_matmul_gradient",
    )(starts, rows_mD, grad_mF)
