"""What the machine is able to do, and how much memory this process took of it."""

from collections.abc import Callable
import resource
import sys
import time

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

SIZES = {"cpu": 2048}  # of the measured matrices; larger ones only take longer
ACCELERATOR_SIZE = 8192
TRIES, PRODUCTS = 10, 4


def matmul_peak(dtype: DTypeLike) -> float:
    """Operations per second of all devices in the product of two large square matrices.

    One is measured; those of a CPU share its cores. It is the best of several tries, each of which
    waits once for several products, so that the time between two of them does not count.
    """
    n = SIZES.get(jax.default_backend(), ACCELERATOR_SIZE)
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)
    product = jax.jit(jnp.matmul)
    seconds = best_seconds(lambda: [product(a, a) for _ in range(PRODUCTS)])
    devices = 1 if jax.default_backend() == "cpu" else jax.device_count()
    return 2 * n**3 * PRODUCTS / seconds * devices


def best_seconds(run: Callable[[], object]) -> float:
    """The least time that a computation takes of several tries, after one that compiles it."""
    jax.block_until_ready(run())
    best = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - start)
    return best


def peak_bytes() -> int:
    """The most memory in use so far: of the first device, or of the process on a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
