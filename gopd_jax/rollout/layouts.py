"""Attention with a cache: one new token of every slot, or a chunk of some prompts.

These are the layouts that `models.decoder.decode` is given: rotary angles of the new tokens, and
`attend`, which joins new keys and values with those of the cache. The packed rows of training and
scoring use `models.attention.Layout`.
"""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.kernels import packed_attention_xla
from gopd_jax.kernels.decode_attention import CacheBlock, DecodeAttention, join, xla
from gopd_jax.kernels.packed_attention import SegmentMask
from gopd_jax.rollout.cache import AXES, as_block, as_floats
from gopd_jax.runtime.mesh import on_each_device


@struct.dataclass
class OneToken:
    """One token of every slot, at the same step of a dispatch.

    cos, sin: float32 [B, 1, H/2].
    lengths_B: int32, columns of the blocks that the slot sees; 0 for an idle slot.
    step: int32 scalar, column of the fresh block.
    kernel: how the blocks are read.
    """

    cos: jax.Array
    sin: jax.Array
    lengths_B: jax.Array
    step: jax.Array
    kernel: DecodeAttention = struct.field(pytree_node=False)

    rows = "slots"

    def attend(
        self,
        query_B1NH: jax.Array,
        key_B1KH: jax.Array,
        value_B1KH: jax.Array,
        cache: tuple[Sequence[CacheBlock], CacheBlock],
    ) -> tuple[jax.Array, CacheBlock]:
        """Attention to the columns of the slot and to its fresh ones.

        Args:
            query_B1NH, key_B1KH, value_B1KH: of the new tokens.
            cache: the layer's blocks and its fresh block.

        Returns:
            [B, 1, N, H] in the query's dtype, and the fresh block with the new tokens.
        """
        blocks, fresh = cache
        B, _, N, H = query_B1NH.shape
        K = key_B1KH.shape[2]

        def put(columns, new):
            return jax.lax.dynamic_update_slice_in_dim(columns, new, self.step, axis=2)

        fresh = jax.tree.map(put, fresh, as_block(key_B1KH, value_B1KH, fresh))
        query_BKGH = query_B1NH.reshape(B, K, N // K, H)
        parts, offset = [], 0
        for block in blocks:
            parts.append(self.kernel(query_BKGH, block, self.lengths_B - offset))
            offset += block.keys.shape[2]
        parts.append(xla(query_BKGH, fresh, jnp.full((B,), self.step + 1)))
        return join(parts).reshape(B, 1, N, H).astype(query_B1NH.dtype), fresh


@struct.dataclass
class PrefillChunk:
    """T tokens of some prompts, after `starts_R` tokens that are in the cache already.

    cos, sin: float32 [R, T, H/2].
    lengths_R: int32, number of the T tokens that are real.
    starts_R: int32, number of prompt tokens before the chunk.
    """

    cos: jax.Array
    sin: jax.Array
    lengths_R: jax.Array
    starts_R: jax.Array

    rows = "slots"

    def attend(
        self,
        query_RTNH: jax.Array,
        key_RTKH: jax.Array,
        value_RTKH: jax.Array,
        prefix: Sequence[CacheBlock],
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attention to the prefix and, causally, to the chunk itself.

        Args:
            query_RTNH, key_RTKH, value_RTKH: of the chunk.
            prefix: the layer's blocks, with the rows of these prompts only.

        Returns:
            [R, T, N, H], and in place of a cache the new keys and values [R, T, K, H].
        """
        R, T = query_RTNH.shape[:2]
        floats = [as_floats(block, key_RTKH.dtype) for block in prefix]
        keys = jnp.concatenate([k for k, _ in floats] + [key_RTKH.swapaxes(1, 2)], axis=2)
        values = jnp.concatenate([v for _, v in floats] + [value_RTKH.swapaxes(1, 2)], axis=2)
        columns = keys.shape[2] - T
        in_prefix = jnp.arange(columns) < self.starts_R[:, None]
        in_chunk = jnp.arange(T) < self.lengths_R[:, None]
        # Attention is within segments: 1 for every query and every real key, 0 for padding.
        segments = jnp.concatenate([in_prefix, in_chunk], axis=1).astype(jnp.int32)
        # What stands beyond the prefix may be NaN, and a weight of 0 times NaN is NaN.
        values = jnp.where(segments[:, None, :, None] > 0, values, 0)
        ones, key_index = jnp.ones((R, T), jnp.int32), jnp.arange(columns + T)
        query_index = columns + jnp.arange(T)

        def one_device(query, keys, values, ones, segments):
            mask = SegmentMask(ones, segments, query_index, key_index)
            return packed_attention_xla.xla(query, keys, values, mask)

        new, cached, row = ("slots", None, "kv_heads", None), AXES, ("slots", None)
        run = on_each_device(one_device, (new, cached, cached, row, row), new)
        return run(query_RTNH, keys, values, ones, segments), (key_RTKH, value_RTKH)
