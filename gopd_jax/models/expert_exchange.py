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

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.kernels.grouped_matmul import GroupedMatmul

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
    out_ND = own_experts(x_ND, share_Nk, own_Nk, *weights, matmul, pairs)
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def own_experts(
    x_ND: jax.Array,
    share_Nk: jax.Array,
    own_Nk: jax.Array,
    gate_eDF: jax.Array,
    up_eDF: jax.Array,
    down_eFD: jax.Array,
    matmul: GroupedMatmul,
    pairs: int,
) -> jax.Array:
    """The weighted sum, over those of a token's experts that this device has.

    The pairs of a token and one of these experts are sorted by expert and multiplied some at a
    time, in as many rounds as there are pairs. The backward pass keeps nothing of a round and
    multiplies again.

    Args:
        x_ND: tokens.
        share_Nk: float32, the weight of each of their experts.
        own_Nk: int32, their numbers; a number outside of [0, e) is an expert of another device.
        gate_eDF, up_eDF, down_eFD: the experts.
        matmul: multiplies them.
        pairs: how many are multiplied in a round.

    Returns:
        float32 [N, D].
    """
    plan = _Rounds(own_Nk, len(gate_eDF), pairs)

    def add(i, out_ND):
        pair_C, sizes_e = plan.of(i)
        token_C = pair_C // own_Nk.shape[1]
        rows = x_ND[token_C], share_Nk.reshape(-1)[pair_C]
        more = _weighted(*rows, gate_eDF, up_eDF, down_eFD, sizes_e=sizes_e, matmul=matmul)
        return out_ND.at[token_C].add(more)

    return plan.run(add, jnp.zeros(x_ND.shape, jnp.float32))


class _Rounds:
    """The rounds in which a device multiplies its pairs.

    Args:
        own_Nk: see `own_experts`.
        experts: of this device.
        pairs: of a round.
    """

    def __init__(self, own_Nk: jax.Array, experts: int, pairs: int):
        own_m = own_Nk.reshape(-1)
        own_m = jnp.where((own_m >= 0) & (own_m < experts), own_m, experts)
        order_m = jnp.argsort(own_m, stable=True)  # by expert, then by token
        self._order = jnp.pad(order_m, (0, -len(order_m) % pairs))
        self._ends = jnp.cumsum(jnp.bincount(own_m, length=experts + 1)[:experts])
        self._pairs, self._most = pairs, len(self._order) // pairs

    def of(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pairs of a round, those that are real first, and how many each expert has."""
        pair_C = jax.lax.dynamic_slice_in_dim(self._order, i * self._pairs, self._pairs)
        ends_e = jnp.clip(self._ends - i * self._pairs, 0, self._pairs)
        return pair_C, jnp.diff(ends_e, prepend=0).astype(jnp.int32)

    def run(self, body: Callable[[jax.Array, Any], Any], start: Any) -> Any:
        """The rounds that have real pairs, one after the other."""
        if self._most == 1:
            return body(jnp.int32(0), start)
        return jax.lax.fori_loop(0, -(-self._ends[-1] // self._pairs), body, start)


def _weighted(
    rows_CD: jax.Array,
    share_C: jax.Array,
    gate_eDF: jax.Array,
    up_eDF: jax.Array,
    down_eFD: jax.Array,
    *,
    sizes_e: jax.Array,
    matmul: GroupedMatmul,
) -> jax.Array:
    """float32 share * expert(row) of sorted rows; 0 in those behind the last expert's."""
    out_CD = feed_forward(rows_CD, gate_eDF, up_eDF, down_eFD, sizes_e, matmul)
    real_C = jnp.arange(len(rows_CD)) < jnp.sum(sizes_e)
    # Before anything else: a kernel may leave anything in the other rows.
    out_CD = jnp.where(real_C[:, None], out_CD, 0)
    return out_CD.astype(jnp.float32) * share_C[:, None]


def feed_forward(
    rows_mD: jax.Array,
    gate_EDF: jax.Array,
    up_EDF: jax.Array,
    down_EFD: jax.Array,
    sizes_E: jax.Array,
    matmul: GroupedMatmul,
) -> jax.Array:
    """down_e(silu(gate_e x) * up_e x) of rows sorted by expert, see `GroupedMatmul`."""

    def product(rows, matrices):
        return matmul(rows, matrices.astype(rows.dtype), sizes_E)

    return product(nn.silu(product(rows_mD, gate_EDF)) * product(rows_mD, up_EDF), down_EFD)


def _forward(x_ND, share_Nk, own_Nk, gate_eDF, up_eDF, down_eFD, matmul, pairs):
    args = x_ND, share_Nk, own_Nk, gate_eDF, up_eDF, down_eFD
    return own_experts(*args, matmul, pairs), args


def _backward(matmul, pairs, saved, grad_ND):
    x_ND, share_Nk, own_Nk, *weights = saved
    share_m = share_Nk.reshape(-1)
    plan = _Rounds(own_Nk, len(weights[0]), pairs)

    def add(i, grads):
        grad_x, grad_share, grad_weights = grads
        pair_C, sizes_e = plan.of(i)
        token_C = pair_C // own_Nk.shape[1]
        run = functools.partial(_weighted, sizes_e=sizes_e, matmul=matmul)
        _, pull = jax.vjp(run, x_ND[token_C], share_m[pair_C], *weights)
        rows, share, *more = pull(grad_ND[token_C])
        real_C = jnp.arange(pairs) < jnp.sum(sizes_e)
        rows = jnp.where(real_C[:, None], rows, 0).astype(jnp.float32)
        share = jnp.where(real_C, share, 0)
        return (
            grad_x.at[token_C].add(rows),
            grad_share.at[pair_C].add(share),
            [
                total + new.astype(jnp.float32)
                for total, new in zip(grad_weights, more, strict=True)
            ],
        )

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), (x_ND, share_m, weights))
    grad_x, grad_share, grads = plan.run(add, zeros)
    grads = [g.astype(w.dtype) for g, w in zip(grads, weights, strict=True)]
    no_grad = np.zeros(own_Nk.shape, jax.dtypes.float0)
    return grad_x.astype(x_ND.dtype), grad_share.reshape(share_Nk.shape), no_grad, *grads


own_experts.defvjp(_forward, _backward)
