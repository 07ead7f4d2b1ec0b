"""Attention among packed sequences: the interface, and its plain version for short rows.

In: queries, keys and values, and a `SegmentMask` that says which query attends to which key. Out:
one vector per query head. The same operation serves packed training rows and chunked prefill. Does
not rotate, project or cache anything.
"""

from typing import Protocol, TypeVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

# Segment numbers from here on have a group and a member: number = group * MEMBERS + member.
MEMBERS = 1 << 12
NEVER = -1e30  # a score that softmax turns into 0; -inf would make NaN of a row without keys
# What a rematerialised block may keep: outputs and normalisers, by `checkpoint_name`.
SAVED = "packed attention"


@struct.dataclass
class SegmentMask:
    """Which query attends to which key.

    Query t of row b attends to key s if and only if `key_index[s] <= query_index[t]` and
    `key_segments[b, s]` is `query_segments[b, t]` or `prefix_of(query_segments[b, t])`.

    So several samples share a prompt: it is member 0 of a group, and its samples, the segments that
    follow it, are the members 1, 2, ... Segments ascend along a row.

    The queries are always the last T of the S keys: `key_index` is `arange(S)` and `query_index` is
    `S - T + arange(T)`. A kernel may rely on this, and on segment 0 being padding, whose output
    means nothing.

    query_segments: int32 [B, T].
    key_segments: int32 [B, S].
    query_index: int32 [T].
    key_index: int32 [S].
    """

    query_segments: jax.Array
    key_segments: jax.Array
    query_index: jax.Array
    key_index: jax.Array


Segments = TypeVar("Segments", jax.Array, np.ndarray)


def prefix_of(segments: Segments) -> Segments:
    """The segment whose keys the queries of a segment see besides its own.

    It is member 0 of its group; a segment of a number below `MEMBERS` is a group of its own.
    """
    first = segments & -MEMBERS
    return first + segments * (first == 0)


class PackedAttention(Protocol):
    """softmax(q k^T / sqrt(H) + mask) v, differentiable, N / K query heads per key/value head.

    It is called inside jit, under the mesh in use. A kernel that the partitioner cannot split has
    to run itself on each device's rows and heads.
    """

    def __call__(
        self,
        query_BTNH: jax.Array,
        key_BKSH: jax.Array,
        value_BKSH: jax.Array,
        mask: SegmentMask,
    ) -> jax.Array:
        """Returns [B, T, N, H] in the dtype of the values; softmax is computed in float32.

        A query that may attend to no key (padding) gets arbitrary finite numbers.
        """
        ...


def plain(
    query_BTNH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, mask: SegmentMask
) -> jax.Array:
    """`PackedAttention` with all scores, [B, N, T, S], at once."""
    B, T, N, H = query_BTNH.shape
    K = key_BKSH.shape[1]
    query_BTKGH = query_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = jnp.einsum(
        "btkgh,bksh->bkgts", query_BTKGH, key_BKSH, preferred_element_type=jnp.float32
    )
    query_BT1, key_B1S = mask.query_segments[:, :, None], mask.key_segments[:, None, :]
    seen_BTS = (key_B1S == query_BT1) | (key_B1S == prefix_of(query_BT1))
    attends_BTS = seen_BTS & (mask.key_index[None, None, :] <= mask.query_index[None, :, None])
    scores_BKGTS = jnp.where(attends_BTS[:, None, None], scores_BKGTS * H**-0.5, NEVER)
    weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1).astype(value_BKSH.dtype)
    return jnp.einsum("bkgts,bksh->btkgh", weights_BKGTS, value_BKSH).reshape(B, T, N, H)
