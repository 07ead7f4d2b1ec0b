"""A device's experts on tokens: sorted by expert, multiplied in groups, weighted and added up.

In: tokens, the experts they go to, and matrices of experts, which are all experts or some. Out: the
weighted sum of each token. `at_once` multiplies all pairs of a token and an expert together;
`in_rounds` some at a time, only as many as there are.
"""

from collections.abc import Callable
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.kernels.grouped_matmul import GroupedMatmul


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


def at_once(
    x_ND: jax.Array,
    share_Nk: jax.Array,
    own_Nk: jax.Array,
    gate_eDF: jax.Array,
    up_eDF: jax.Array,
    down_eFD: jax.Array,
    matmul: GroupedMatmul,
    some: bool = False,
) -> jax.Array:
    """sum_k share_k * expert_k(x), over those of a token's experts that are here.

    Args:
        x_ND: tokens.
        share_Nk: float32, the weight of each of their experts.
        own_Nk: int32, their numbers; with `some`, a number outside of [0, e) is an expert of
            another device.
        gate_eDF, up_eDF, down_eFD: the experts.
        matmul: multiplies them.
        some: whether there may be such numbers.

    Returns:
        float32 [N, D].
    """
    k, e = own_Nk.shape[1], len(gate_eDF)
    own_m = _numbers(own_Nk, e) if some else own_Nk.reshape(-1)
    order_m = jnp.argsort(own_m, stable=True)  # by expert, then by token
    sizes_e = jnp.bincount(own_m, length=e + some)[:e].astype(jnp.int32)
    sorted_mD = jnp.take(x_ND, order_m // k, axis=0)
    if some:  # a kernel may leave anything in the rows of others, and in their gradients
        real_m1 = (jnp.arange(len(own_m)) < jnp.sum(sizes_e))[:, None]
        sorted_mD = jnp.where(real_m1, sorted_mD, 0)
    out_mD = feed_forward(sorted_mD, gate_eDF, up_eDF, down_eFD, sizes_e, matmul)
    if some:
        out_mD = jnp.where(real_m1, out_mD, 0)
    out_NkD = jnp.take(out_mD, jnp.argsort(order_m), axis=0).reshape(-1, k, out_mD.shape[-1])
    return jnp.sum(out_NkD.astype(jnp.float32) * share_Nk[..., None], axis=1)


def _numbers(own_Nk: jax.Array, experts: int) -> jax.Array:
    """The numbers of the experts, [m]; that of an expert of another device is `experts`."""
    own_m = own_Nk.reshape(-1)
    return jnp.where((own_m >= 0) & (own_m < experts), own_m, experts)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def in_rounds(
    x_ND: jax.Array,
    share_Nk: jax.Array,
    own_Nk: jax.Array,
    gate_eDF: jax.Array,
    up_eDF: jax.Array,
    down_eFD: jax.Array,
    matmul: GroupedMatmul,
    pairs: int,
) -> jax.Array:
    """`at_once` for some experts, in as many rounds of so many pairs as the device has.

    The backward pass keeps nothing of a round and multiplies again.
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
        own_Nk: see `in_rounds`.
        experts: of this device.
        pairs: of a round.
    """

    def __init__(self, own_Nk: jax.Array, experts: int, pairs: int):
        own_m = _numbers(own_Nk, experts)
        order_m = jnp.argsort(own_m, stable=True)
        self._order = jnp.pad(order_m, (0, -len(order_m) % pairs))
        self._ends = jnp.cumsum(jnp.bincount(own_m, length=experts + 1)[:experts])
        self._pairs = pairs

    def of(self, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pairs of a round, those that are real first, and how many each expert has."""
        pair_C = jax.lax.dynamic_slice_in_dim(self._order, i * self._pairs, self._pairs)
        ends_e = jnp.clip(self._ends - i * self._pairs, 0, self._pairs)
        return pair_C, jnp.diff(ends_e, prepend=0).astype(jnp.int32)

    def run(self, body: Callable[[jax.Array, Any], Any], start: Any) -> Any:
        """The rounds that have real pairs, one after the other."""
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


def _forward(x_ND, share_Nk, own_Nk, gate_eDF, up_eDF, down_eFD, matmul, pairs):
    args = x_ND, share_Nk, own_Nk, gate_eDF, up_eDF, down_eFD
    return in_rounds(*args, matmul, pairs), args


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


in_rounds.defvjp(_forward, _backward)
