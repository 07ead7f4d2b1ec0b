"""The memory that a run takes at least, by phase and part, from the config and the models' shapes.

In: the config and architectures. Out: the parts, or one sentence when a device cannot hold them.
The phases of a step share the memory: cache and decode weights are gone when it scores, and what is
parked is on the devices only while it is used. What is left out makes the sum a lower bound:
activations, temporaries of the compiler.
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
from gopd_jax.rollout.memory import cache_part, choose_layout, weights_part
from gopd_jax.runtime.memory import Part, check_fits, device_bytes, device_memory
from gopd_jax.runtime.mesh import (
    compute_dtype,
    make_mesh,
    row_layout,
    rows_multiple,
    with_shardings,
)
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
        memory = device_memory(mesh)
        phases = run_phases(config, roles, models, mesh, dtype, memory).values()
        largest = max(phases, key=lambda parts: sum(part.bytes for part in parts))
        check_fits(largest, mesh, memory)
    return ProgramTable(mesh), dtype


def run_phases(
    config: Config,
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    mesh: Mesh,
    dtype: jnp.dtype,
    memory: int | None = None,
) -> dict[str, list[Part]]:
    """What a device holds in each phase of a step: "rollout", "score" and "update".

    Args:
        roles: path of the model in each role, the student first.
        models: architecture by path.
        mesh: the devices.
        dtype: compute dtype.
        memory: bytes of one device, which decide the layout of the decode weights; None stands for
            enough.
    """
    student, rollout = models[config.student], config.rollout
    resting, frozen, scoring = _resident(config, roles, models, mesh, dtype)
    beside = [resting, *(scoring if config.learner.score_early else frozen)]
    shape = {
        "slots": rollout.slots,
        "max_tokens": config.data.max_prompt_tokens + rollout.max_response_tokens,
        "dtype": dtype,
        "options": rollout.options,
    }
    cache = cache_part(student, mesh, **shape, setting=f"config.rollout.slots={rollout.slots}")
    room = room_to_draw(config, roles, models, mesh, dtype, memory)
    gathered = choose_layout(student, mesh, **shape, room=room).gathered
    name = f"student {config.student!r}"
    weights = weights_part(student, mesh, dtype, rollout.options, name, gathered)
    return {
        "rollout": [*beside, cache, weights],
        "score": [resting, *scoring],
        "update": [
            _state(config, student, mesh),
            *frozen,
            _packed(config, roles, mesh),
            *_hidden_states(config, roles, models, mesh, dtype),
        ],
    }


def room_to_draw(
    config: Config,
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    mesh: Mesh,
    dtype: jnp.dtype,
    memory: int | None,
) -> int | None:
    """Bytes of a device that decode weights and cache may take; None if the memory is not known.

    The arguments are those of `run_phases`.
    """
    resting, frozen, scoring = _resident(config, roles, models, mesh, dtype)
    beside = [resting, *(scoring if config.learner.score_early else frozen)]
    return None if memory is None else memory - sum(part.bytes for part in beside)


def _resident(
    config: Config,
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    mesh: Mesh,
    dtype: jnp.dtype,
) -> tuple[Part, list[Part], list[Part]]:
    """The student between updates, frozen models that stay, and those that are there to score.

    The devices of a CPU are no better off with what is parked: it is the same memory.
    """
    settings, on_cpu = config.learner, mesh.devices.flat[0].platform == "cpu"
    moments = on_cpu or not settings.park_optimizer
    resting = _state(config, models[config.student], mesh, moments, gradient=False)
    paths = {p: r for r, p in reversed(roles.items()) if r != "student"}
    if config.lora.rank:  # the student is frozen, too, and is there once for all of its roles
        paths[config.student] = "student"
    frozen = []
    for path, role in paths.items():
        model = models[path]
        held = device_bytes(frozen_params(model, mesh, dtype))
        needs = f"{model.num_params:,} parameters x {jnp.dtype(dtype).itemsize} bytes"
        frozen.append(Part(role, needs, held, f"{role} {path!r}"))
    if on_cpu or not settings.park_frozen:
        return resting, frozen, frozen
    base = [part for part in frozen if part.what == "student"]  # is never parked
    others = sorted((part for part in frozen if part not in base), key=lambda part: -part.bytes)
    return resting, base, [*base, *others[:1]]


def _state(
    config: Config, student: ModelConfig, mesh: Mesh, moments: bool = True, gradient: bool = True
) -> Part:
    """What is trained of the student and its gradients, float32, and the moments of AdamW."""
    settings, shapes = config.learner.optimizer, trained_params(student, config.lora, mesh)
    optimizer = make_optimizer(settings, make_schedule(settings, updates=1))
    where = jax.tree.map(lambda x: x.sharding, shapes)
    state = with_shardings(
        jax.eval_shape(optimizer.init, shapes), opt_state_shardings(optimizer, shapes, where, mesh)
    )
    copies = ["itself", *["gradient"] * gradient]
    held = len(copies) * device_bytes(shapes)
    held += device_bytes(state) if moments else 0
    number = len(copies) + 2 * moments
    copies += ["two moments"] * moments
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    needs = f"{parameters:,} parameters x {number} ({', '.join(copies)}) x 4 bytes"
    what = "adapter" if config.lora.rank else "student"
    of = "adapter of the student" if config.lora.rank else "student"
    return Part(what, needs, held, f"{of} {config.student!r}")


def _packed(config: Config, roles: Mapping[str, str], mesh: Mesh) -> Part:
    """The packed batches of a step, which are all on the devices before its first update."""
    learner, rollout = config.learner, config.rollout
    buckets = make_buckets(batch_shape(config), len(config.domains), *row_layout(mesh))
    arrays = ARRAYS + (config.method != "sft") + (config.method == "gopd")
    arrays += ("reference" in roles) + config.shaping.trust_region
    old = learner.updates_per_batch - 1 if config.method != "sft" else 0
    parts = _splits(mesh)
    tokens = sum(b.micro_batches * b.rows * b.length for b in buckets)
    held = tokens * 4 * (arrays * learner.updates_per_batch + old + RETURNED) // parts
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


def _hidden_states(
    config: Config,
    roles: Mapping[str, str],
    models: Mapping[str, ModelConfig],
    mesh: Mesh,
    dtype: jnp.dtype,
) -> list[Part]:
    """What teachers and reference hand over to an exact estimator, for each token of a step."""
    if not config.objective.exact:
        return []
    buckets = make_buckets(batch_shape(config), len(config.domains), *row_layout(mesh))
    tokens = sum(b.micro_batches * b.rows * b.length for b in buckets)
    widths = {role: models[path].width for role, path in roles.items() if role != "student"}
    reference = [widths.pop("reference")] if "reference" in widths else []
    each = [max(widths.values()), *reference]  # of the token's own teacher, and of the reference
    size, updates = jnp.dtype(dtype).itemsize, config.learner.updates_per_batch
    held = updates * tokens * sum(each) * size // _splits(mesh)
    needs = (
        f"{updates} update(s) x {tokens:,} tokens x ({' + '.join(map(str, each))} wide) x {size} "
        "bytes"
    )
    setting = f"config.objective.estimator={config.objective.estimator!r}"
    return [Part("hidden states", needs, held, setting)]


def _splits(mesh: Mesh) -> int:
    """Devices over which the tokens of a batch are split."""
    return rows_multiple(mesh) * mesh.shape["context"]
