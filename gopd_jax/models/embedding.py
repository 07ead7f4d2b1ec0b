"""The hidden states that packed rows begin with: the embedding of each token.

In: the table, split by width over the devices, and rows of ids. Out: the rows of the table that the
ids name. The table is never gathered, and its gradient never exists as a whole: each device looks
up its part of the width for the rows of all, and the devices exchange what they found.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gopd_jax.runtime.mesh import WidthSplit, on_each_device, width_split


def embed(
    embedding_VD: jax.Array, tokens_RS: jax.Array, dtype: DTypeLike, rows: str = "batch"
) -> jax.Array:
    """The embedding of each token, [R, S, D] in `dtype`; NaN for ids that do not exist.

    `rows` is the logical axis of R.
    """
    split = width_split(tokens_RS.shape[0], embedding_VD.shape[1], rows)
    if split is None:
        return jnp.take(embedding_VD, tokens_RS, axis=0).astype(dtype)
    run = on_each_device(
        functools.partial(_exchanged, split=split, dtype=dtype),
        ((None, "embed"), (rows, None)),
        (rows, None, None),
    )
    return run(embedding_VD, tokens_RS)


def _exchanged(
    part_Vd: jax.Array, tokens_RS: jax.Array, *, split: WidthSplit, dtype: DTypeLike
) -> jax.Array:
    """One device: the whole width for its own rows."""
    tokens = jax.lax.all_gather(tokens_RS, split.width, axis=0, tiled=True)
    found = jnp.take(part_Vd, tokens, axis=0).astype(dtype)
    return jax.lax.all_to_all(found, split.width, split_axis=0, concat_axis=2, tiled=True)
