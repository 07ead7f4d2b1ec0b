"""What `models.decode` attends to when there is a cache: one new token of every slot, or a piece of some prompts."""

from collections.abc import Sequence

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.kernels.decode_attention import Kernel, join, xla
from gopd_jax.models.attention import Layout
from gopd_jax.rollout.cache import Block, as_block, as_floats


@struct.dataclass
class OneToken:
    """One token of every slot, at the same step of a dispatch.

    cos, sin: float32 [B, 1, H/2]. lengths_B: int32, columns of the blocks that a slot may see, 0 for a slot that is not in use.
    step: int32 scalar, column of the fresh block. kernel: how the blocks are read.
    """

    cos: jax.Array
    sin: jax.Array
    lengths_B: jax.Array
    step: jax.Array
    kernel: Kernel = struct.field(pytree_node=False)

    def attend(
        self,
        query_B1NH: jax.Array,
        key_B1KH: jax.Array,
        value_B1KH: jax.Array,
        cache: tuple[Sequence[Block], Block],
    ) -> tuple[jax.Array, Block]:
        """Attention to the slot's columns and its own fresh ones. `cache`: (blocks of the layer, its fresh block), the fresh
        block is returned with the new token in it."""
        blocks, fresh = cache
        B, _, N, H = query_B1NH.shape
        K = key_B1KH.shape[2]

        def put(column, new):
            return jax.lax.dynamic_update_slice_in_dim(column, new, self.step, axis=2)

        fresh = jax.tree.map(put, fresh, as_block(key_B1KH, value_B1KH, fresh))
        query_BKGH = query_B1NH.reshape(B, K, N // K, H)
        parts, offset = [], 0
        for block in blocks:
            parts.append(self.kernel(query_BKGH, block, self.lengths_B - offset))
            offset += block.keys.shape[2]
        parts.append(xla(query_BKGH, fresh, jnp.full((B,), self.step + 1)))
        return join(parts).reshape(B, 1, N, H).astype(query_B1NH.dtype), fresh


@struct.dataclass
class Piece:
    """T tokens of some prompts, after `starts_R` tokens that are in the cache already.

    cos, sin: float32 [R, T, H/2]. lengths_R: int32, how many of the T tokens are real. starts_R: int32.
    """

    cos: jax.Array
    sin: jax.Array
    lengths_R: jax.Array
    starts_R: jax.Array

    def attend(
        self,
        query_RTNH: jax.Array,
        key_RTKH: jax.Array,
        value_RTKH: jax.Array,
        prefix: Sequence[Block],
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Attention to the prefix (the rows' own columns of the cache) and, causally, to the piece itself. Returns the new
        keys and values [R, T, K, H] in place of a cache."""
        R, T = query_RTNH.shape[:2]
        floats = [as_floats(block, key_RTKH.dtype) for block in prefix]
        keys = jnp.concatenate([k for k, _ in floats] + [key_RTKH.swapaxes(1, 2)], axis=2)
        values = jnp.concatenate([v for _, v in floats] + [value_RTKH.swapaxes(1, 2)], axis=2)
        columns = keys.shape[2] - T
        index = jnp.arange(columns + T)
        real = jnp.concatenate(
            [jnp.arange(columns) < self.starts_R[:, None], jnp.arange(T) < self.lengths_R[:, None]],
            axis=1,
        ).astype(jnp.int32)
        layout = Layout(
            self.cos, self.sin, jnp.ones((R, T), jnp.int32), real, columns + jnp.arange(T), index
        )
        out, _ = layout.attend(query_RTNH, keys.swapaxes(1, 2), values.swapaxes(1, 2), None)
        return out, (key_RTKH, value_RTKH)
