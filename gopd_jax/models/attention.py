"""Who attends to whom in packed rows: rotation, segments and the causal order."""

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.kernels import packed_attention_xla
from gopd_jax.kernels.packed_attention import PackedAttention, SegmentMask
from gopd_jax.runtime.mesh import constrain, kv_copies


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

    rows = "batch"  # logical axis of B

    def attend(
        self, query_BTNH: jax.Array, key_BTKH: jax.Array, value_BTKH: jax.Array, cache: None
    ) -> tuple[jax.Array, None]:
        """Attention among the tokens of this call; nothing is cached."""
        mask = SegmentMask(self.query_segments, self.key_segments, self.query_index, self.key_index)
        keys, values = key_BTKH.swapaxes(1, 2), value_BTKH.swapaxes(1, 2)
        return self.kernel(query_BTNH, keys, values, mask), cache


def for_each_rank(x_BTKH: jax.Array, rows: str) -> jax.Array:
    """Keys or values with heads repeated, if there are fewer than the tensor axis divides.

    Args:
        rows: logical axis of B.

    Returns:
        [B, T, K * copies, H]; see `mesh.kv_copies`.
    """
    copies = kv_copies(x_BTKH.shape[2])
    if copies == 1:
        return x_BTKH
    return constrain(jnp.repeat(x_BTKH, copies, axis=2), (rows, None, "kv_heads", None))
