"""Who attends to whom in packed rows: rotation, segments, and the causal order."""

from flax import struct
import jax

from gopd_jax.kernels.packed_attention import attend


@struct.dataclass
class Layout:
    """Where the queries and keys of one call stand.

    cos, sin: float32 [B, T, H/2], rotation of the queries (and of the keys that this call computes).
    query_segments: int32 [B, T]; key_segments: int32 [B, S]. A query sees keys of its own segment only.
    query_index: int32 [T]; key_index: int32 [S]. A query sees keys whose index is not larger than its own.
    """

    cos: jax.Array
    sin: jax.Array
    query_segments: jax.Array
    key_segments: jax.Array
    query_index: jax.Array
    key_index: jax.Array

    def attend(self, query_BTNH: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array, cache: None) -> tuple[jax.Array, None]:
        """Attention among the tokens of this call; nothing is kept."""
        return attend(query_BTNH, key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2), self), cache
