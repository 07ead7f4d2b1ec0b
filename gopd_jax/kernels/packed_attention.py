"""Attention among packed sequences: the interface, and its version in plain XLA.

In: queries, keys and values, and a `SegmentMask` that says which query attends to which key. Out:
one vector per query head. The same operation serves packed training rows and chunked prefill. Does
not rotate, project or cache anything.
"""

from typing import Protocol

from flax import struct
import jax
import jax.numpy as jnp

# Scores of 512 queries, [B, N, 512, S], exist at a time and are recomputed in the backward pass, so
# a row of 16k tokens never holds 16k x 16k scores.
QUERY_CHUNK = 512


@struct.dataclass
class SegmentMask:
    """Which query attends to which key.

    Query t of row b attends to key s if and only if
    `query_segments[b, t] == key_segments[b, s]` and `key_index[s] <= query_index[t]`.

    The queries are always the last T of the S keys: `key_index` is `arange(S)` and `query_index` is
    `S - T + arange(T)`. A kernel with a static causal mask may rely on this.

    query_segments: int32 [B, T].
    key_segments: int32 [B, S].
    query_index: int32 [T].
    key_index: int32 [S].
    """

    query_segments: jax.Array
    key_segments: jax.Array
    query_index: jax.Array
    key_index: jax.Array


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


def xla(
    query_BTNH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, mask: SegmentMask
) -> jax.Array:
    """`PackedAttention` in plain XLA, in chunks of queries."""
    B, T, N, H = query_BTNH.shape
    K = key_BKSH.shape[1]
    query_BTKGH = query_BTNH.reshape(B, T, K, N // K, H)

    def chunk(query_BtKGH, segments_Bt, index_t):
        scores_BKGtS = jnp.einsum(
            "btkgh,bksh->bkgts", query_BtKGH, key_BKSH, preferred_element_type=jnp.float32
        )
        same_BtS = segments_Bt[:, :, None] == mask.key_segments[:, None, :]
        attends_BtS = same_BtS & (mask.key_index[None, None, :] <= index_t[None, :, None])
        scores_BKGtS = jnp.where(attends_BtS[:, None, None], scores_BKGtS * H**-0.5, -1e30)
        weights_BKGtS = jax.nn.softmax(scores_BKGtS, axis=-1).astype(value_BKSH.dtype)
        return jnp.einsum("bkgts,bksh->btkgh", weights_BKGtS, value_BKSH)

    if T <= QUERY_CHUNK:
        out = chunk(query_BTKGH, mask.query_segments, mask.query_index)
        return out.reshape(B, T, N, H)

    pad = -T % QUERY_CHUNK

    def split(x, axis):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, pad)
        x = jnp.pad(x, widths)
        x = x.reshape(*x.shape[:axis], -1, QUERY_CHUNK, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    chunks = split(query_BTKGH, 1), split(mask.query_segments, 1), split(mask.query_index, 0)
    out = jax.lax.map(lambda args: jax.checkpoint(chunk)(*args), chunks)
    return jnp.moveaxis(out, 0, 1).reshape(B, T + pad, N, H)[:, :T]
