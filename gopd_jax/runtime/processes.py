"""Starting and agreeing: one process on a laptop, one per host on a slice or cluster."""

import os

import jax
from jax.experimental import multihost_utils
from jax.typing import ArrayLike
import numpy as np

from gopd_jax.runtime.progress import speak_as


def start_processes() -> None:
    """Joins the other hosts when GOPD_DISTRIBUTED=1, which the scripts in tpu_scripts/ set.

    Must be called before JAX is used.
    """
    if os.environ.get("GOPD_DISTRIBUTED") == "1":
        # JAX would take SIGTERM for itself; `stopping` answers it.
        jax.config.update("jax_enable_preemption_service", False)
        jax.distributed.initialize()
        speak_as(jax.process_index(), jax.process_count())


def agree(value: ArrayLike) -> ArrayLike:
    """The first host's value, on every host.

    For decisions that depend on clocks or signals and must not differ between hosts.
    """
    if jax.process_count() == 1:
        return value
    return np.asarray(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def fetch(x: jax.Array) -> np.ndarray:
    """An array as numpy on every host, however it is sharded."""
    return np.asarray(
        x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)
    )
