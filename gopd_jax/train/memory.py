"""The memory that a run takes at least, by part, from the config and the models' shapes.

In: the config and architectures. Out: the parts, or one sentence when a device cannot hold them.
What is left out makes the sum a lower bound: activations, decode weights, narrower caches,
temporaries of the compiler.
"""

from collections.abc import Mapping
import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gopd_jax.config import Config
from gopd_jax.learner.adapters import frozen_params, trained_params
from gopd_jax.learner.optimizer import make_optimizer, make_schedule, opt_state_shardings
from gopd_jax.learner.packing import make_buckets
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.rollout.memory import cache_part
from gopd_jax.runtime.memory import Part, check_fits, device_bytes, device_memory
from gopd_jax.runtime.mesh import compute_dtype, make_mesh, rows_multiple, with_shardings
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.run_folder import read_summary
from gopd_jax.train.models import batch_shape
from gopd_jax.train.prepare import roles_of

# Of a packed batch: what the model reads and predicts, weights, lambda, advantages; and what the
# train step returns of each token.
ARRAYS, RETURNED = 7, 2


def devices_for(config: Config, workdir: str) -> tuple[ProgramTable, jnp.dtype]:
    """The table of programs on the devices of a run, and its compute dtype.

    Raises:
        ValueError: the mesh does not fit the devices, a model's config cannot be read, or a device
            certainly cannot hold the run (with the arithmetic). A finished run needs no memory.
    """
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    dtype = compute_dtype(config.compute_dtype)
    if read_summary(workdir, config.steps) is None:
        roles = roles_of(config)
        models = {path: load_config(path) for path in dict.fromkeys(roles.values())}
        check_fits(run_parts(config, roles, models, mesh, dtype), mesh, device_memory(mesh))
    return ProgramTable(mesh), dtype


def run_parts(
    config: Config,
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    mesh: Mesh,
    dtype: jnp.dtype,
) -> list[Part]:
    """What a device holds during an update.

    Args:
        roles: path of the model in each role, the student first.
        models: architecture by path.
        mesh: the devices.
        dtype: compute dtype.
    """
    student, rollout = models[config.student], config.rollout
    parts = [_state(config, student, mesh)]
    frozen = {path: role for role, path in reversed(roles.items()) if role != "student"}
    if config.lora.rank:  # the student is frozen, too, and is there once for all of its roles
        frozen[config.student] = "student"
    for path, role in frozen.items():
        model = models[path]
        held = device_bytes(frozen_params(model, mesh, dtype))
        needs = f"{model.num_params:,} parameters x {jnp.dtype(dtype).itemsize} bytes"
        parts.append(Part(role, needs, held, f"{role} {path!r}"))
    cache = cache_part(
        student,
        mesh,
        slots=rollout.slots,
        max_tokens=config.data.max_prompt_tokens + rollout.max_response_tokens,
        dtype=dtype,
        options=rollout.options,
        setting=f"config.rollout.slots={rollout.slots}",
    )
    return [*parts, cache, _packed(config, roles, mesh)]


def _state(config: Config, student: ModelConfig, mesh: Mesh) -> Part:
    """What is trained of the student and its gradients, float32, and the moments of AdamW."""
    settings, shapes = config.learner.optimizer, trained_params(student, config.lora, mesh)
    optimizer = make_optimizer(settings, make_schedule(settings, updates=1))
    where = jax.tree.map(lambda x: x.sharding, shapes)
    moments = with_shardings(
        jax.eval_shape(optimizer.init, shapes), opt_state_shardings(optimizer, shapes, where, mesh)
    )
    held = 2 * device_bytes(shapes) + device_bytes(moments)
    number = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    needs = f"{number:,} parameters x 4 (itself, gradient, two moments) x 4 bytes"
    name = f"adapter of the student {config.student!r}" if config.lora.rank else None
    return Part(
        "adapter" if name else "student", needs, held, name or f"student {config.student!r}"
    )


def _packed(config: Config, roles: Mapping[str, str], mesh: Mesh) -> Part:
    """The packed batches of a step, which are all on the devices before its first update."""
    learner, rollout = config.learner, config.rollout
    devices = rows_multiple(mesh)
    buckets = make_buckets(batch_shape(config), len(config.domains), devices)
    arrays = ARRAYS + (config.method != "sft") + (config.method == "gopd")
    arrays += "reference" in roles
    old = learner.updates_per_batch - 1 if config.method != "sft" else 0
    tokens = sum(b.micro_batches * b.rows * b.length for b in buckets)
    held = tokens * 4 * (arrays * learner.updates_per_batch + old + RETURNED) // devices
    rows = " and ".join(f"{b.micro_batches * b.rows:,} rows of {b.length:,}" for b in buckets)
    needs = (
        f"{learner.updates_per_batch} update(s) x ({rows} tokens) x {arrays} arrays x 4 bytes, and "
        f"{old + RETURNED} more of one"
    )
    setting = (
        f"config.rollout.prompts_per_step={rollout.prompts_per_step} "
        f"x samples_per_prompt={rollout.samples_per_prompt}"
    )
    return Part("packed batch", needs, held, setting)
