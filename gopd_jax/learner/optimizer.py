"""AdamW with clipping by global norm and a learning-rate schedule, all from optax."""

import jax
from jax.sharding import Mesh
import optax

from gopd_jax.runtime.mesh import replicated

SCHEDULES = ("constant", "cosine", "linear")


def make_schedule(kind: str, peak: float, steps: int, warmup_steps: int) -> optax.Schedule:
    """Learning rate by step: linear warm-up from 0 over `warmup_steps`, then constant, or falling to 0 at `steps`."""
    if kind not in SCHEDULES:
        raise ValueError(f"schedule={kind!r}: wanted one of {list(SCHEDULES)}")
    rest = max(1, steps - warmup_steps)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }[kind]()
    if not warmup_steps:
        return after
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup_steps), after], [warmup_steps]
    )


def make_optimizer(
    schedule: optax.Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
) -> optax.GradientTransformation:
    """Clip by global norm (0: no clipping), then AdamW; weight decay applies to every parameter, as in the paper's runs."""
    adamw = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw) if clip_norm else adamw


def opt_state_shardings(
    optimizer: optax.GradientTransformation, abstract, param_shardings, mesh: Mesh
):
    """Moments are sharded like their parameters, counters are replicated."""
    return optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract),
        param_shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
