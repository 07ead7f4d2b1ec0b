"""AdamW with clipping by global norm and a learning-rate schedule, all from optax."""

from typing import get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from gopd_jax.learner.settings import OptimizerSettings, Schedule
from gopd_jax.runtime.mesh import replicated
from gopd_jax.types import Params, Tree

SCHEDULES = get_args(Schedule)


def make_schedule(settings: OptimizerSettings, updates: int) -> optax.Schedule:
    """The learning rate of each update.

    It rises linearly from 0 during the warm-up, then stays constant or falls to 0.

    Args:
        updates: optimizer updates of the whole run, where a falling schedule reaches 0.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    rest = max(1, updates - warmup)
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
        "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    }[settings.schedule]()
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def make_optimizer(
    settings: OptimizerSettings, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Clips by global norm, unless clip_norm is 0, then AdamW.

    Weight decay applies to every parameter, as in the paper's runs.
    """
    adamw = optax.adamw(
        schedule,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    if not settings.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), adamw)


def restart_schedule(opt_state: Tree) -> Tree:
    """The optimizer state with its learning rate at the first update again; moments stay."""

    def restarted(part: Tree) -> Tree:
        is_schedule = isinstance(part, optax.ScaleByScheduleState)
        return part._replace(count=jnp.zeros_like(part.count)) if is_schedule else part

    return jax.tree.map(
        restarted, opt_state, is_leaf=lambda part: isinstance(part, optax.ScaleByScheduleState)
    )


def opt_state_shardings(
    optimizer: optax.GradientTransformation, abstract: Params, param_shardings: Tree, mesh: Mesh
) -> Tree:
    """Shardings of the optimizer state: moments like their parameters, counters replicated."""
    return optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, abstract),
        param_shardings,
        transform_non_params=lambda _: replicated(mesh),
    )
