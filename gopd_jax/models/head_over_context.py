"""The head where rows are split along their length: the devices of a row share the vocabulary.

Each device of the context axis has a part of a row, and a part of the head's width. With its own
tokens alone it would need the whole head, and would exchange a gradient of the whole head for few
tokens. So the devices gather the hidden states of their row, and each takes a part of the
vocabulary for all tokens of the row: of C devices, each gathers 1/C of the head and exchanges 1/C
of its gradient. All have the same work, wherever in the row the wanted tokens are.
"""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gopd_jax.runtime.mesh import WidthSplit, ways

AXIS = "context"


def shared(split: WidthSplit | None, ids: int) -> WidthSplit | None:
    """How the width is split within a part of the vocabulary; None where it is not shared.

    Args:
        split: how the width is split over all devices, see `mesh.width_split`.
        ids: V.
    """
    if split is None or ways("length") == 1 or ids % (ways("vocab") * ways("length")):
        return None
    return WidthSplit(tuple(a for a in split.width if a != AXIS), split.others)


def _of_row(hidden_RSD, part_Vd, ids_V, *of_tokens):
    """What a device gets of the row, and of the head: hidden states, head, ids, tokens' numbers."""
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
    part_Vd = jax.lax.all_to_all(part_Vd, AXIS, split_axis=0, concat_axis=1, tiled=True)
    start = jax.lax.axis_index(AXIS) * len(part_Vd)
    ids_V = jax.lax.dynamic_slice_in_dim(ids_V, start, len(part_Vd))
    return gather(hidden_RSD), part_Vd, ids_V, *map(gather, of_tokens)


def forward(*given: jax.Array, run: Callable[..., Any]) -> Any:
    """What `run` finds in a part of the vocabulary for all tokens of the row."""
    return run(*_of_row(*given))


def backward(*given: jax.Array, run: Callable[..., Any]) -> tuple[jax.Array, ...]:
    """The gradients of a device's own tokens and of its own part of the head.

    Returns:
        float32 [1, R, S, D] and [V, d], for the S tokens and the width d that the device holds; no
        second one where the head is frozen.
    """
    of_row_1RSD, *of_part_Vd = run(*_of_row(*given))
    parts = jax.lax.axis_size(AXIS)
    one, R, S, D = of_row_1RSD.shape
    of_row = of_row_1RSD.reshape(one, R, parts, S // parts, D)
    found = jax.lax.all_to_all(of_row, AXIS, split_axis=2, concat_axis=2)
    exchange = functools.partial(
        jax.lax.all_to_all, axis_name=AXIS, split_axis=1, concat_axis=0, tiled=True
    )
    return jnp.sum(found, axis=2), *map(exchange, of_part_Vd)
