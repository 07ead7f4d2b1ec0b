"""Decode attention on GPUs: the Triton kernel that comes with JAX, behind our interface."""

import jax
from jax.experimental.pallas.ops.gpu import decode_attention as gpu_decode
import jax.numpy as jnp

from gopd_jax.kernels.decode_attention import MASKED, CacheBlock, Part

COLUMNS = 128  # that the kernel reads at a time; a block must hold a multiple of it


def pallas_gpu(
    query_BKGH: jax.Array, block: CacheBlock, lengths_B: jax.Array, *, interpret: bool = False
) -> Part:
    """`DecodeAttention` by `jax.experimental.pallas.ops.gpu.decode_attention`.

    It skips columns beyond a slot's length. The block has to be floating point and to hold a
    multiple of 128 columns. It adds a mask to the scores, so that NaN in the 128 columns around the
    length reaches the result. `interpret` runs the kernel in the Pallas interpreter, on any device.
    """
    B, K, G, H = query_BKGH.shape
    C = block.keys.shape[2]
    splits = max(1, min(16, C // COLUMNS))
    summed, (total, largest) = gpu_decode.gqa(
        query_BKGH.reshape(B, K * G, H).astype(block.keys.dtype),
        # gqa swaps the axes back, so this copies nothing.
        block.keys.swapaxes(1, 2),
        block.values.swapaxes(1, 2),
        kv_seq_len=jnp.clip(lengths_B, 0, C),
        sm_scale=H**-0.5,
        k_splits=splits,
        block_k=min(COLUMNS, C // splits),
        return_residuals=True,
        normalize_output=False,
        interpret=interpret,
    )
    # For a length of 0, gqa returns the smallest float. MASKED keeps differences in `join` finite.
    largest = jnp.maximum(largest, MASKED)
    return Part(
        summed.reshape(B, K, G, H).astype(jnp.float32),
        total.reshape(B, K, G),
        largest.reshape(B, K, G),
    )
