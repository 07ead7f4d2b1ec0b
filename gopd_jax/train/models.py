"""The models of a run on the mesh: the learner, frozen models, and the samplers."""

from collections.abc import Mapping
import dataclasses
import types

import jax.numpy as jnp

from gopd_jax.config import Config
from gopd_jax.learner.adapters import frozen_params
from gopd_jax.learner.ahead import compile_ahead
from gopd_jax.learner.controls import random_teacher
from gopd_jax.learner.learner import BatchShape, FrozenModel, Learner
from gopd_jax.learner.parking import park
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.checkpoint import restore_state
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train.finite import not_finite
from gopd_jax.train.keys import adapter_key
from gopd_jax.train.prepare import RunInputs
from gopd_jax.types import Params, TrainState

NOTHING: Mapping[str, Params] = types.MappingProxyType({})


def make_learner(
    config: Config,
    student: ModelConfig,
    programs: ProgramTable,
    dtype: jnp.dtype,
    num_ids: int | None = None,
) -> Learner:
    """The learner of a run, given the numbers of the config that it needs.

    Args:
        num_ids: number of ids of the run's tokenizer; None stands for the whole vocabulary.
    """
    settings = config.learner
    return Learner(
        student,
        programs,
        settings,
        reward_scales=config.reward_scales,
        shape=batch_shape(config),
        updates=config.steps * settings.updates_per_batch,
        rule=config.rollout.rule,
        likelihood=config.method == "sft",
        estimator=config.objective,
        self_teacher=config.self_teacher,
        shaping=config.shaping,
        num_ids=num_ids,
        dtype=dtype,
        lora=config.lora,
    )


def batch_shape(config: Config) -> BatchShape:
    """What the rows of one update are made for."""
    return BatchShape(
        examples=config.rollouts_per_step // config.learner.updates_per_batch,
        longest=config.longest,
        rows=config.learner.rows_per_micro_batch,
        row_length=config.learner.row_length,
        samples=config.rollout.samples_per_prompt if config.learner.share_prompts else 1,
    )


def compile_learner_ahead(config: Config, inputs: RunInputs, learner: Learner) -> None:
    """Begins to compile what the first step will need, while models load and are evaluated."""
    models, policy = inputs.models, config.method != "sft"
    scoring = inputs.teachers.values() if config.method == "gopd" else ()
    read_abstract_heads(learner, inputs.teachers, inputs.reference, models)
    compile_ahead(
        learner,
        teachers={models[path] for path in scoring},
        reference=models[inputs.reference] if inputs.reference else None,
        old=policy and config.learner.updates_per_batch > 1,
        behaviour=policy,
        read=not config.control.of_advantages,
    )


def read_abstract_heads(
    learner: Learner,
    teachers: Mapping[str, str],
    reference: str | None,
    models: Mapping[str, ModelConfig],
) -> None:
    """`Learner.read_heads` with shapes, from the paths of the models and their architectures."""
    if not learner.estimator.exact:
        return
    paths = {*teachers.values(), *([reference] if reference else [])}
    shapes = {path: frozen_params(models[path], learner.mesh, learner.dtype) for path in paths}
    of_domains = {name: shapes[path] for name, path in teachers.items()}
    learner.read_heads(of_domains, shapes[reference] if reference else None)


def make_samplers(
    config: Config,
    inputs: RunInputs,
    programs: ProgramTable,
    dtype: jnp.dtype,
    room: int | None = None,
) -> Samplers:
    """The rollout engines of a run.

    That of the student is made at once, so that wrong options are found before any work. `room` is
    that of `RolloutEngine`.
    """
    samplers = Samplers(
        programs,
        inputs.tokenizer.stop_ids,
        slots=config.rollout.slots,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_response_tokens=config.rollout.max_response_tokens,
        num_ids=inputs.num_ids,
        dtype=dtype,
        options=config.rollout.options,
        room=room,
    )
    _ = samplers[inputs.models[config.student]]
    return samplers


def load_student(
    config: Config, inputs: RunInputs, programs: ProgramTable, dtype: jnp.dtype = jnp.float32
) -> Params:
    """The student's parameters, sharded for training."""
    model = inputs.models[config.student]
    return load_params(config.student, model, dtype, param_shardings(model, programs.mesh))


def load_models(
    config: Config, inputs: RunInputs, learner: Learner
) -> tuple[dict[str, FrozenModel], FrozenModel | None]:
    """What `load_frozen` loads, and the base of a student with an adapter, which the learner gets.

    The base also serves in every other role that has the student's path.
    """
    loaded = {}
    if config.lora.rank:
        learner.base = load_student(config, inputs, learner.programs, learner.dtype)
        loaded[config.student] = learner.base
    parked = config.learner.park_frozen
    teachers, reference = load_frozen(inputs, learner.programs, learner.dtype, parked, loaded)
    if config.control.kind == "random_teacher":
        start = load_student(config, inputs, learner.programs, learner.dtype)
        teachers = {
            name: dataclasses.replace(t, params=random_teacher(t.params, start, config.seed))
            for name, t in teachers.items()
        }
    of_domains = {name: teacher.params for name, teacher in teachers.items()}
    learner.read_heads(of_domains, reference and reference.params)
    return teachers, reference


def initial_state(config: Config, inputs: RunInputs, learner: Learner) -> TrainState:
    """Where step 1 begins: at the student's weights, or at the checkpoint of another run.

    Raises:
        ValueError: the checkpoint cannot be restored, or holds numbers that are not finite.
    """
    if not (point := inputs.origin["init_from"]):
        if config.lora.rank:
            return learner.start(learner.base, adapter_key(config.seed))
        return learner.start(load_student(config, inputs, learner.programs))
    state = restore_state(point["run"], point["step"], learner.abstract_state())
    if names := not_finite(state):
        raise ValueError(
            f"config.init_from={config.init_from!r}: the checkpoint of step {point['step']} is not "
            f"finite in {names[0]}; expected numbers"
        )
    return learner.restart(state)


def load_frozen(
    inputs: RunInputs,
    programs: ProgramTable,
    dtype: jnp.dtype,
    parked: bool = False,
    loaded: Mapping[str, Params] = NOTHING,
) -> tuple[dict[str, FrozenModel], FrozenModel | None]:
    """The teachers by domain, and the reference or None, in the compute dtype.

    A folder that serves in several roles is loaded once.

    Args:
        parked: each waits in the memory of the host; see `learner.parking`.
        loaded: by path, parameters that are there already, in the compute dtype, and stay.
    """
    loaded = dict(loaded)

    def frozen(role: str, path: str) -> FrozenModel:
        model = inputs.models[path]
        if path not in loaded:
            where = param_shardings(model, programs.mesh)
            params = load_params(path, model, dtype, where)
            loaded[path] = park(params) if parked else params
        return FrozenModel(role, model, loaded[path])

    teachers = {n: frozen(f"teacher of {n}", path) for n, path in inputs.teachers.items()}
    reference = frozen("reference", inputs.reference) if inputs.reference else None
    return teachers, reference
