"""Rows that are split along their length over devices: the order of tokens, and their attention.

A row is cut into 2C pieces for the C devices of the context axis. In its own order device i holds
the pieces 2i and 2i + 1, and under a causal mask the last device would have nearly all the work. In
balanced order it holds the pieces i and 2C - 1 - i: an early one, which attends to little, and a
late one, which attends to much, so that all devices have the same work.

In attention each device gathers the keys and values of the whole row, puts them in the row's own
order, and runs the kernel once for each of its two pieces. The kernel gets the keys up to the end
of the piece, behind padding, so that the queries are the last of the keys as `SegmentMask` says;
what comes later is never computed. In the backward pass the gradients of keys and values go back to
the devices that hold these tokens and are summed there.
"""

import functools

import jax
import jax.numpy as jnp

from gopd_jax.kernels.packed_attention import PackedAttention, SegmentMask
from gopd_jax.runtime.mesh import on_each_device, ways

AXIS = "context"

# Logical axes of the arrays. Query heads are split as their key heads are.
QUERY = ("batch", "length", "kv_heads", None)
KEY = ("batch", "kv_heads", "length", None)
SEGMENTS = ("batch", "length")


def context_ways(length: int) -> int:
    """Number of devices that a row of this length is split over; 1 where they do not divide it."""
    parts = ways("length")
    return 1 if length % (2 * parts) else parts


def _holder(piece: int, parts: int) -> int:
    """The device that holds a piece in balanced order."""
    return min(piece, 2 * parts - 1 - piece)


def balanced(x_RS: jax.Array) -> jax.Array:
    """[R, S, ...] in balanced order, from the rows' own."""
    parts = context_ways(x_RS.shape[1])
    axes = (*SEGMENTS, *[None] * (x_RS.ndim - 2))
    function = functools.partial(_to_balanced, parts=parts)
    return x_RS if parts == 1 else on_each_device(function, (axes,), axes)(x_RS)


def in_order(x_RS: jax.Array) -> jax.Array:
    """[R, S, ...] in the rows' own order, from balanced order."""
    parts = context_ways(x_RS.shape[1])
    axes = (*SEGMENTS, *[None] * (x_RS.ndim - 2))
    function = functools.partial(_to_own, parts=parts)
    return x_RS if parts == 1 else on_each_device(function, (axes,), axes)(x_RS)


def _to_balanced(x: jax.Array, *, parts: int) -> jax.Array:
    received = [
        jax.lax.ppermute(half, AXIS, [(i, _holder(2 * i + odd, parts)) for i in range(parts)])
        for odd, half in enumerate(jnp.split(x, 2, axis=1))
    ]
    return jnp.concatenate(_swapped(received), axis=1)


def _to_own(x: jax.Array, *, parts: int) -> jax.Array:
    received = [
        jax.lax.ppermute(half, AXIS, [(_holder(2 * i + odd, parts), i) for i in range(parts)])
        for odd, half in enumerate(_swapped(jnp.split(x, 2, axis=1)))
    ]
    return jnp.concatenate(received, axis=1)


def _swapped(pair: list[jax.Array]) -> list[jax.Array]:
    """(even piece, odd piece) as (early, late), and the reverse: an odd device's early one is odd.

    Of the pieces i and 2C - 1 - i, one is even and one is odd.
    """
    even = jax.lax.axis_index(AXIS) % 2 == 0
    return [jnp.where(even, *pair), jnp.where(even, *pair[::-1])]


def attention(
    kernel: PackedAttention,
    query_BTNH: jax.Array,
    key_BKTH: jax.Array,
    value_BKTH: jax.Array,
    segments_BT: jax.Array,
) -> jax.Array:
    """Attention among the tokens of rows in balanced order, [B, T, N, H]; see `PackedAttention`."""
    parts = context_ways(query_BTNH.shape[1])
    if parts == 1:
        index_T = jnp.arange(query_BTNH.shape[1])
        mask = SegmentMask(segments_BT, segments_BT, index_T, index_T)
        return kernel(query_BTNH, key_BKTH, value_BKTH, mask)
    function = functools.partial(_on_device, kernel=kernel, parts=parts)
    run = on_each_device(function, (QUERY, KEY, KEY, SEGMENTS), QUERY)
    return run(query_BTNH, key_BKTH, value_BKTH, segments_BT)


def _on_device(query, key, value, segments, *, kernel: PackedAttention, parts: int) -> jax.Array:
    """Attention of the two pieces that a device holds."""
    size, device = query.shape[1] // 2, jax.lax.axis_index(AXIS)
    whole = [
        (_own_order(gather(x, axis, parts), axis, parts), axis)
        for gather, x, axis in (
            (_gather, key, 2),
            (_gather, value, 2),
            (_gather_fixed, segments, 1),
        )
    ]
    found = []
    # An early piece ends in the first half of the row, so that it needs no keys of the second.
    for number, pieces in ((device, parts), (parts - 1 - device, 2 * parts)):
        own = slice(len(found) * size, (len(found) + 1) * size)
        # The first of the devices ends before all others, and the keys of that piece end the array.
        later = number * size
        keys, values, theirs = (
            _up_to(x, axis, pieces * size, later, (parts - 1) * size) for x, axis in whole
        )
        index = jnp.arange(pieces * size)
        mask = SegmentMask(segments[:, own], theirs, index[-size:], index)
        found.append(kernel(query[:, own], keys, values, mask))
    return jnp.concatenate(found, axis=1)


def _up_to(x: jax.Array, axis: int, length: int, later: jax.Array, most: int) -> jax.Array:
    """As many entries, which end `most - later` before the end of the first `length`; 0 in front.

    Args:
        later: from 0 to `most`.
    """
    x = jax.lax.slice_in_dim(x, 0, length, axis=axis)
    widths = [(most if i == axis else 0, 0) for i in range(x.ndim)]
    return jax.lax.dynamic_slice_in_dim(jnp.pad(x, widths), later, length, axis)


def _own_order(x: jax.Array, axis: int, parts: int) -> jax.Array:
    """The pieces of all devices, in the row's own order."""
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    x = x.reshape(*before, parts, 2, -1, *after)
    early, late = (jax.lax.index_in_dim(x, i, axis + 1, keepdims=False) for i in range(2))
    pieces = jnp.concatenate([early, jnp.flip(late, axis)], axis)
    return pieces.reshape(*before, -1, *after)


def _gather_fixed(x: jax.Array, axis: int, parts: int) -> jax.Array:
    """What all devices hold, one after the other along `axis`."""
    return jax.lax.all_gather(x, AXIS, axis=axis, tiled=True)


_gather = jax.custom_vjp(_gather_fixed, nondiff_argnums=(1, 2))


def _forward(x, axis, parts):
    return _gather_fixed(x, axis, parts), None


def _backward(axis, parts, _, grad):
    # Not psum_scatter: the TPU compiler makes an all-reduce of it, twice the traffic.
    grad = grad.reshape(*grad.shape[:axis], parts, -1, *grad.shape[axis + 1 :])
    found = jax.lax.all_to_all(grad, AXIS, split_axis=axis, concat_axis=axis)
    return (jnp.sum(found.astype(jnp.float32), axis=axis).astype(grad.dtype),)


_gather.defvjp(_forward, _backward)
