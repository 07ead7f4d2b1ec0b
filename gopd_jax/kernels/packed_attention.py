"""Masked softmax attention with grouped key/value heads, in plain XLA.

One function serves packed training rows and prefill: who may look at whom is said by segment ids and indices.
"""

import jax
import jax.numpy as jnp

QUERY_CHUNK = 512  # [B, N, 512, S] scores at a time, recomputed in the backward pass: a 16k row never holds 16k x 16k


def attend(query_BTNH: jax.Array, key_BKSH: jax.Array, value_BKSH: jax.Array, layout) -> jax.Array:
    """softmax(q k^T / sqrt(H) + mask) v, scores and softmax in float32. Returns [B, T, N, H] in the query's dtype."""
    B, T, N, H = query_BTNH.shape
    K = key_BKSH.shape[1]
    query_BTKGH = query_BTNH.reshape(B, T, K, N // K, H)

    def chunk(query_BtKGH, segments_Bt, index_t):
        scores_BKGtS = jnp.einsum("btkgh,bksh->bkgts", query_BtKGH, key_BKSH, preferred_element_type=jnp.float32)
        sees_BtS = (segments_Bt[:, :, None] == layout.key_segments[:, None, :]) & (
            layout.key_index[None, None, :] <= index_t[None, :, None]
        )
        scores_BKGtS = jnp.where(sees_BtS[:, None, None], scores_BKGtS * H**-0.5, -1e30)
        weights_BKGtS = jax.nn.softmax(scores_BKGtS, axis=-1).astype(value_BKSH.dtype)
        return jnp.einsum("bkgts,bksh->btkgh", weights_BKGtS, value_BKSH)

    if T <= QUERY_CHUNK:
        out = chunk(query_BTKGH, layout.query_segments, layout.query_index)
        return out.reshape(B, T, N, H)

    pad = -T % QUERY_CHUNK

    def split(x, axis):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, pad)
        x = jnp.pad(x, widths)
        x = x.reshape(*x.shape[:axis], -1, QUERY_CHUNK, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    chunks = split(query_BTKGH, 1), split(layout.query_segments, 1), split(layout.query_index, 0)
    out = jax.lax.map(lambda args: jax.checkpoint(chunk)(*args), chunks)
    return jnp.moveaxis(out, 0, 1).reshape(B, T + pad, N, H)[:, :T]
