"""Expert parallelism: experts split among the devices of a mesh axis, each with its own tokens.

In: the tokens of one device with the experts they go to, and the experts that this device holds.
Out: for each of its tokens the weighted sum of its experts. For use within `jax.shard_map`.

Every device of the axis is given the tokens of all of them, multiplies those that go to its own
experts, and an all-to-all returns each device's sums to the owners of the tokens, who add them up.
No token is dropped, whatever the router does, and the shapes are fixed. An all-to-all of the single
pairs would need room for the worst case, in which all tokens go to one device: with 16 devices of
18,432 tokens, 8 experts for each and a width of 2,048, 9.7 GB in bfloat16. docs/performance.md
compares the bytes.
"""

import functools

import jax
import jax.numpy as jnp

from gopd_jax.kernels.grouped_matmul import GroupedMatmul
from gopd_jax.models.experts import at_once, in_rounds

# Tokens of all devices of the axis that are exchanged at a time: 134 MB in bfloat16 with a width of
# 2,048. More than that needs more memory and is no faster.
TOKENS_AT_ONCE = 32768
# Pairs of a token and an expert that are multiplied at a time are a multiple of this, or all.
PAIRS = 4096


def exchanged(
    x_nD: jax.Array,
    share_nk: jax.Array,
    expert_nk: jax.Array,
    gate_eDF: jax.Array,
    up_eDF: jax.Array,
    down_eFD: jax.Array,
    *,
    matmul: GroupedMatmul,
    axis: str,
) -> jax.Array:
    """sum_k share_k * expert_k(x) of each token of this device.

    Args:
        x_nD: the device's tokens.
        share_nk: float32, the weight of each of a token's experts.
        expert_nk: int32, their numbers among the experts of all devices.
        gate_eDF, up_eDF, down_eFD: the e experts of this device.
        matmul: multiplies them.
        axis: the mesh axis that the experts are split over.

    Returns:
        float32 [n, D]. Each device's sum of a token is rounded to the dtype of x once.
    """
    n, devices = len(x_nD), jax.lax.axis_size(axis)
    chunks = -(-n * devices // TOKENS_AT_ONCE)
    run = functools.partial(_chunk, matmul=matmul, axis=axis)
    weights = gate_eDF, up_eDF, down_eFD
    if chunks == 1:
        return run((x_nD, share_nk, expert_nk), *weights)
    padding = -n % chunks

    def split(x, fill):
        x = jnp.pad(x, ((0, padding), (0, 0)), constant_values=fill)
        return x.reshape(chunks, -1, x.shape[1])

    # Expert -1 is on no device. The tokens of the others are asked for again in the backward pass
    # and not kept.
    tokens = split(x_nD, 0), split(share_nk, 0), split(expert_nk, -1)
    out = jax.lax.map(jax.checkpoint(lambda chunk: run(chunk, *weights)), tokens)
    return out.reshape(n + padding, -1)[:n]


def _chunk(
    tokens: tuple[jax.Array, jax.Array, jax.Array],
    *weights: jax.Array,
    matmul: GroupedMatmul,
    axis: str,
) -> jax.Array:
    """`exchanged`, of some of the tokens."""
    x_ND, share_Nk = (_of_all(x, axis) for x in tokens[:2])
    expert_Nk = jax.lax.all_gather(tokens[2], axis, tiled=True)
    own_Nk = expert_Nk - jax.lax.axis_index(axis) * len(weights[0])
    pairs = _pairs_at_once(own_Nk.size, jax.lax.axis_size(axis))
    args = x_ND, share_Nk, own_Nk, *weights, matmul
    few = pairs == own_Nk.size
    out_ND = at_once(*args, some=True) if few else in_rounds(*args, pairs)
    return _summed(out_ND.astype(x_ND.dtype), axis)


def _pairs_at_once(pairs: int, devices: int) -> int:
    """Pairs that a device multiplies at a time: about a quarter of those it has on average."""
    size = -(-pairs // devices // 4 // PAIRS) * PAIRS
    return min(pairs, max(size, PAIRS))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _of_all(x: jax.Array, axis: str) -> jax.Array:
    """The tokens [N, ...] of all devices of the axis."""
    return jax.lax.all_gather(x, axis, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _summed(x: jax.Array, axis: str) -> jax.Array:
    """For each token of this device, float32, the sum of what all devices of the axis have."""
    # Not psum_scatter: the TPU compiler makes an all-reduce of it, twice the traffic.
    parts = x.reshape(jax.lax.axis_size(axis), -1, *x.shape[1:])
    parts = jax.lax.all_to_all(parts, axis, split_axis=0, concat_axis=0)
    return jnp.sum(parts.astype(jnp.float32), axis=0)


# Each is the transpose of the other.
_of_all.defvjp(
    lambda x, axis: (_of_all(x, axis), None),
    lambda axis, _, grad: (_summed(grad, axis).astype(grad.dtype),),
)
_summed.defvjp(
    lambda x, axis: (_summed(x, axis), jnp.zeros((), x.dtype)),
    lambda axis, like, grad: (_of_all(grad.astype(like.dtype), axis),),
)
