"""What the backward pass keeps of a block, and what it computes again."""

from collections.abc import Callable
from typing import Any

import jax

from gopd_jax.kernels.packed_attention import SAVED
from gopd_jax.models.settings import Remat

# What a rematerialised block begins with, by `checkpoint_name`.
LAYER_INPUT = "layer input"


def kept(remat: Remat) -> Callable[..., Any] | None:
    """What the backward pass finds of a block, as a policy; None keeps its input alone."""
    policies = jax.checkpoint_policies
    if remat == "attention":
        return policies.save_only_these_names(SAVED)
    if remat == "offload":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None
