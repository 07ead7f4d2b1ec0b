"""The head where rows are split along their length: the devices of a row share the vocabulary.

Each device of the context axis has a part of a row, and a part of the head's width. With its own
tokens alone it would need the whole head, and would exchange a gradient of the whole head for few
tokens. So the devices gather the hidden states of their row, and each takes a part of the
vocabulary for all tokens of the row: of C devices, each gathers 1/C of the head and exchanges 1/C
of its gradient. All have the same work, wherever in the row the wanted tokens are.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gopd_jax.models.head_pass import STUDENT, Heads
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


def _of_row(heads: Heads, tokens: Any) -> tuple[Heads, Any]:
    """What a device gets: a part of the ids, and the hidden states and numbers of its row."""
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, axis=1, tiled=True)
    exchange = functools.partial(
        jax.lax.all_to_all, axis_name=AXIS, split_axis=0, concat_axis=1, tiled=True
    )
    weights = jax.tree.map(exchange, heads.weights)
    size = len(weights[STUDENT][0])
    ids = jax.lax.dynamic_slice_in_dim(heads.ids, jax.lax.axis_index(AXIS) * size, size)
    hidden = jax.tree.map(gather, heads.hidden)
    of_row = dataclasses.replace(heads, hidden=hidden, weights=weights, ids=ids)
    return of_row, jax.tree.map(gather, tokens)


def forward(heads: Heads, *tokens: Any, run: Callable[..., Any]) -> Any:
    """What `run` finds in a part of the vocabulary for all tokens of the row."""
    heads, tokens = _of_row(heads, tokens)
    return run(heads, *tokens)


def backward(heads: Heads, *tokens: Any, run: Callable[..., Any]) -> tuple[jax.Array, ...]:
    """The gradients of a device's own tokens and of its own part of the head.

    Returns:
        float32 [1, R, S, D] and [V, d], for the S tokens and the width d that the device holds; no
        second one where the head is frozen.
    """
    heads, tokens = _of_row(heads, tokens)
    of_row_1RSD, *of_part_Vd = run(heads, *tokens)
    parts = jax.lax.axis_size(AXIS)
    one, R, S, D = of_row_1RSD.shape
    of_row = of_row_1RSD.reshape(one, R, parts, S // parts, D)
    found = jax.lax.all_to_all(of_row, AXIS, split_axis=2, concat_axis=2)
    exchange = functools.partial(
        jax.lax.all_to_all, axis_name=AXIS, split_axis=1, concat_axis=0, tiled=True
    )
    return jnp.sum(found, axis=2), *map(exchange, of_part_Vd)
