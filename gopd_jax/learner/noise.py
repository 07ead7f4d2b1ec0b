"""How much of a gradient is the noise of its samples, from the micro-batches that it is summed of.

In: gradients and token weights of micro-batches. Out: three sums, which merge, and a share.
"""

from flax import struct
import jax
import jax.numpy as jnp
import optax

from gopd_jax.types import Params


@struct.dataclass
class Parts:
    """Sums over the micro-batches of an update, float32 scalars.

    squares: of |g_m|^2, g_m the gradient of micro-batch m.
    weights: of f_m, the token weights of micro-batch m together.
    squared_weights: of f_m^2.
    """

    squares: jax.Array
    weights: jax.Array
    squared_weights: jax.Array


def no_parts() -> Parts:
    """The sums of no micro-batch."""
    return Parts(*(jnp.zeros(()) for _ in range(3)))


def part(grads: Params, weights_RS: jax.Array) -> Parts:
    """The sums of one micro-batch."""
    weight = jnp.sum(weights_RS)
    return Parts(jnp.square(optax.global_norm(grads)), weight, jnp.square(weight))


def noise_share(parts: Parts, grad_norm: jax.Array) -> jax.Array:
    """The share of the squared norm of a gradient that comes from which samples were drawn.

        g = sum_m g_m,   E|g_m|^2 = f_m^2 |G|^2 + f_m T,   E|g|^2 = |G|^2 + T,   sum_m f_m = 1
        T = (sum_m |g_m|^2 - F |g|^2) / (1 - F),   F = sum_m f_m^2

    G is the gradient that infinitely many samples would give, T / |g|^2 the result: 0 where all
    micro-batches agree, about 1 where they have nothing in common. Without bias for T, but noisy:
    it may leave [0, 1]. Micro-batches count as drawn independently of each other; samples of a
    prompt that are in several of them make T too small.

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training" (arXiv 1812.06162),
    appendix A.1, for parts of unlike sizes.

    Args:
        parts: of all micro-batches.
        grad_norm: |g|.

    Returns:
        float32 scalar; NaN for a single micro-batch or a gradient of 0.
    """
    largest = jnp.square(parts.weights)
    unlike = parts.squared_weights / largest  # F
    squared = jnp.square(grad_norm)
    noise = (parts.squares - unlike * squared) / (1 - unlike)
    alone = parts.squared_weights > (1 - 1e-6) * largest  # one micro-batch, or none
    return jnp.where(alone | (squared == 0), jnp.nan, noise / squared)
