"""Who attends to whom in packed rows: rotation, segments and the causal order."""

from flax import struct
import jax

from gopd_jax.kernels import context, packed_attention_xla
from gopd_jax.kernels.packed_attention import PackedAttention, SegmentMask


@struct.dataclass
class Layout:
    """Where the queries and keys of one call stand, and the kernel that attends.

    cos, sin: float32 [B, T, H/2], rotation of the queries, and of the keys this call computes.
    query_segments, key_segments, query_index, key_index: see `SegmentMask`.
    kernel: the attention kernel.
    """

    cos: jax.Array
    sin: jax.Array
    query_segments: jax.Array
    key_segments: jax.Array
    query_index: jax.Array
    key_index: jax.Array
    kernel: PackedAttention = struct.field(pytree_node=False, default=packed_attention_xla.xla)

    def attend(
        self, query_BTNH: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array, cache: None
    ) -> tuple[jax.Array, None]:
        """Attention among the tokens of this call; nothing is cached."""
        mask = SegmentMask(self.query_segments, self.key_segments, self.query_index, self.key_index)
        keys, values = key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2)
        return self.kernel(query_BTNH, keys, values, mask), cache


@struct.dataclass
class PackedLayout:
    """Packed rows in balanced order, see `kernels.context`, and the kernel that attends.

    cos, sin: float32 [B, T, H/2], rotation of queries and keys.
    segments: int32 [B, T]; see `SegmentMask`.
    kernel: the attention kernel.
    """

    cos: jax.Array
    sin: jax.Array
    segments: jax.Array
    kernel: PackedAttention = struct.field(pytree_node=False, default=packed_attention_xla.xla)

    def attend(
        self, query_BTNH: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array, cache: None
    ) -> tuple[jax.Array, None]:
        """Attention among the tokens of each row; nothing is cached."""
        keys, values = key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2)
        return context.attention(self.kernel, query_BTNH, keys, values, self.segments), cache
