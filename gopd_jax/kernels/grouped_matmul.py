"""Grouped matrix product: the interface, and its version in plain XLA.

In: rows sorted by group, one matrix per group, and the number of rows in each group. Out: every row
times the matrix of its group. Does not route or sort tokens.
"""

from typing import Protocol

import jax


class GroupedMatmul(Protocol):
    """out[i] = rows[i] @ matrices[group of i], differentiable in rows and matrices.

    It is called with the rows and matrices of one device, either outside any mesh or inside
    `jax.shard_map`, so it does not have to shard itself.
    """

    def __call__(
        self, rows_mD: jax.Array, matrices_EDF: jax.Array, sizes_E: jax.Array
    ) -> jax.Array:
        """Multiplies the first `sizes[0]` rows by matrix 0, the next `sizes[1]` by matrix 1, etc.

        Args:
            rows_mD: [m, D], sorted by group.
            matrices_EDF: [E, D, F], in the dtype of the rows.
            sizes_E: int32 [E], which sums to at most m; a group may be empty.

        Returns:
            [m, F] in the dtype of the rows. Rows behind the last group may hold anything, and so
            may their gradients; they have no part in the gradient of the matrices.
        """
        ...


def xla(rows_mD: jax.Array, matrices_EDF: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """`GroupedMatmul` as `jax.lax.ragged_dot`."""
    return jax.lax.ragged_dot(rows_mD, matrices_EDF, sizes_E)
