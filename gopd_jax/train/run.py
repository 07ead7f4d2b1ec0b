"""The story of a run: prepare, start or resume, then rollout -> score -> update to the end.

In: a config and a folder. Out: the folder with run.json, metrics.jsonl, samples.jsonl,
evaluations.jsonl, tensorboard/, checkpoints/ and, at the end, summary.json and curves.png.
"""

import contextlib
import dataclasses

import jax.numpy as jnp

from gopd_jax.config import Config
from gopd_jax.learner.learner import Learner
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime import provenance
from gopd_jax.runtime.checkpoint import Checkpoints, saved_steps
from gopd_jax.runtime.errors import Stopped
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.memory import device_memory
from gopd_jax.runtime.object_store import check_reachable
from gopd_jax.runtime.processes import agree, of_first
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.progress import Bar, result, result_width, say
from gopd_jax.runtime.run_folder import one_process, read_summary
from gopd_jax.runtime.stopping import stop_points
from gopd_jax.runtime.trackers import Trackers
from gopd_jax.train import curves, summary
from gopd_jax.train.checks import undone_if_refused
from gopd_jax.train.clock import Clock
from gopd_jax.train.contracts import Contract, Loaded, contract_of
from gopd_jax.train.evaluations import Evaluations, Evaluator
from gopd_jax.train.finite import check_saved, check_to_save
from gopd_jax.train.going_on import announcement, set_summary_aside, steps_before
from gopd_jax.train.identity import (
    HostState,
    check_same_command,
    check_same_run,
    run_identity,
    start_or_resume,
)
from gopd_jax.train.memory import devices_for, room_to_draw
from gopd_jax.train.models import (
    compile_learner_ahead,
    initial_state,
    load_models,
    make_learner,
    make_samplers,
)
from gopd_jax.train.prepare import RunInputs, make_stream, prepare, roles_of
from gopd_jax.train.step import Trainer
from gopd_jax.train.step_log import StepLog
from gopd_jax.train.verdicts import Verdicts
from gopd_jax.train.verification import BackgroundVerifier
from gopd_jax.types import TrainState


def run(config: Config, workdir: str) -> summary.Summary:
    """Runs a config to its end, from wherever `workdir` stands; returns the summary.

    Raises:
        ValueError: before any work, with one sentence on what is wrong and what was expected.
        Stopped: after SIGTERM or Ctrl-C; the last finished step is saved.
        NonFiniteError: a number that decides the run is not finite; what was saved is as it was.
        OSError: a file of the run cannot be written; what was saved is as it was.
    """
    check_reachable("--workdir", workdir)
    with undone_if_refused(workdir):
        programs, dtype = devices_for(config, workdir)
        inputs = prepare(config, workdir)
        with one_process(workdir), Trackers(workdir, config.log.trackers) as trackers:
            return _run(config, workdir, inputs, trackers, programs, dtype)


def _run(
    config: Config,
    workdir: str,
    inputs: RunInputs,
    trackers: Trackers,
    programs: ProgramTable,
    dtype: jnp.dtype,
) -> summary.Summary:
    # ---- Whatever else can be wrong is found here.
    learner = make_learner(config, inputs.models[config.student], programs, dtype, inputs.num_ids)
    samplers = samplers_of(config, inputs, programs, dtype)
    host = HostState(make_stream(config, inputs), run_identity(config, inputs.fingerprints))
    before = steps_before(workdir)
    kernels = learner.kernels | samplers[inputs.models[config.student]].kernels
    start = _this_start(config, workdir, inputs, kernels)
    finished = read_summary(workdir, config.steps)
    resumed = bool(agree(check_same_run(workdir, host.identity) is not None))
    check_same_command(host.identity)  # and no host writes before all have read
    if finished is not None:
        start_or_resume(workdir, host.identity, start, inputs.origin)
        return _finished(finished, workdir)
    set_summary_aside(workdir)
    say(summary.opening(config, inputs, programs.mesh, dtype, workdir))

    # ---- Models, at the start or where the last run stopped.
    compile_learner_ahead(config, inputs, learner)
    teachers, reference = load_models(config, inputs, learner)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    first, state = _where_it_stands(config, inputs, learner, checkpoints, host, workdir)
    if resumed:
        _say_where(config, workdir, learner, before, first)

    # ---- What models, sampler and learner must agree on; a refused start writes no run.
    loaded = Loaded(learner, samplers, state, teachers, reference, host.stream)
    contract = contract_of(config, inputs, workdir, loaded) if first == 0 else None
    start_or_resume(workdir, host.identity, start, inputs.origin)
    identity = host.identity
    trackers.start(config.name, identity["config"] | {"fingerprints": identity["fingerprints"]})

    with contextlib.ExitStack() as stack:
        evaluations = Evaluations(workdir, first)
        schedule, earlier, clock = learner.schedule, evaluations.scores(), Clock()
        log = stack.enter_context(
            StepLog(workdir, first, trackers, config, inputs.tokenizer, schedule, clock, earlier)
        )
        stack.enter_context(contextlib.closing(checkpoints))
        verify = stack.enter_context(Verifier(**dataclasses.asdict(config.verifier)))
        background = stack.enter_context(BackgroundVerifier(verify, config.reward_kinds))
        evaluator = Evaluator(config, inputs, samplers, verify, evaluations, learner, teachers)
        trainer = Trainer(config, inputs, learner, samplers, teachers, reference, background, clock)
        with stop_points():
            _train(trainer, evaluator, state, first, host, checkpoints, log, contract)

    # ---- What came of it.
    written = of_first(lambda: _write_end(workdir, config, inputs, evaluations, host.seconds))
    result(summary.table(written, result_width()), written)
    say(summary.closing(workdir))
    say(summary.commands(workdir, trackers.tensorboard), fold=False)
    return written


def _finished(finished: summary.Summary, workdir: str) -> summary.Summary:
    result(summary.table(finished, result_width()), finished)
    say(summary.complete(workdir))
    return finished


def _where_it_stands(
    config: Config,
    inputs: RunInputs,
    learner: Learner,
    checkpoints: Checkpoints,
    host: HostState,
    workdir: str,
) -> tuple[int, TrainState]:
    """The steps that are done and the state after them, from the newest checkpoint if there is one.

    `host` goes back to where it was then.
    """
    if (saved := checkpoints.restore(learner.abstract_state())) is None:
        return 0, initial_state(config, inputs, learner)
    state = learner.rest(check_saved(saved.state, saved.step))
    host.restore(workdir, saved.host)
    return saved.step, state


def samplers_of(
    config: Config, inputs: RunInputs, programs: ProgramTable, dtype: jnp.dtype
) -> Samplers:
    """The rollout engines, with the memory of a device that is left to them."""
    mesh, roles = programs.mesh, roles_of(config)
    room = room_to_draw(config, roles, inputs.models, mesh, dtype, device_memory(mesh))
    return make_samplers(config, inputs, programs, dtype, room)


def _write_end(
    workdir: str, config: Config, inputs: RunInputs, evaluations: Evaluations, seconds: float
) -> summary.Summary:
    found = Verdicts(workdir, config).to_json()
    written = summary.write(workdir, config, inputs, evaluations, seconds, found)
    curves.draw(workdir, config)
    return written


def _say_where(
    config: Config, workdir: str, learner: Learner, before: int | None, first: int
) -> None:
    """Says where a run is resumed, and whether it goes on beyond the steps that it had."""
    say(summary.resumed(workdir, first, config.steps))
    if before and before < config.steps:
        say(announcement(config, learner.schedule, before, first))


def _this_start(
    config: Config, workdir: str, inputs: RunInputs, kernels: dict[str, str]
) -> JsonObject:
    """What run.json records of a start."""
    return provenance.record() | {
        "prompts": inputs.counts,
        "steps": config.steps,
        "saved_step": max(saved_steps(workdir), default=0),
        "kernels": kernels,
    }


def _train(
    trainer: Trainer,
    evaluator: Evaluator,
    state: TrainState,
    first: int,
    host: HostState,
    checkpoints: Checkpoints,
    log: StepLog,
    contract: Contract | None,
) -> None:
    """rollout -> score -> update, from the step after `first` to the last; evaluates and saves.

    Raises:
        ValueError: a teacher is worse than the student, by `contract`; before any step.
        Stopped: a signal has asked for it; the last finished step is saved.
    """
    steps, every, clock = trainer.config.steps, trainer.config.checkpoint.every, trainer.clock
    student, awake = trainer.learner.student_params, trainer.learner.awake
    done = saved = first
    now = host.to_json()
    clock.lap()  # what came before is of no step
    try:
        with clock.phase("evaluation"):  # where student and teachers stand
            log.scores("student", first, evaluator.student(student(state), first))
            log.scores("teacher", 0, evaluator.teachers(trainer.teachers))
            if contract is not None:
                contract.check_teachers(evaluator.results)

        with Bar("train", steps, "steps", first) as bar:
            for step in range(first + 1, steps + 1):
                state, record, note = trainer.step(state, host.stream, step, log)
                host.seconds += record.training_seconds
                done, now = step, host.to_json()
                with clock.phase("checkpoint"):
                    if step == steps or step % every == 0:
                        note = log.write_last() or note
                        with bar.aside():
                            if step < steps and (found := log.verdicts.grave()):
                                say(found)
                            checkpoints.save(step, check_to_save(awake(state), step), now)
                        saved = step
                    checkpoints.check()
                bar.advance(1, note)
                with bar.aside(), clock.phase("evaluation"):
                    log.scores("student", step, evaluator.student(student(state), step))
    except Stopped as stop:
        if done > saved:
            log.write_last()
            checkpoints.save(done, check_to_save(awake(state), done), now)
        raise Stopped(stop.number, summary.stopped(done, steps)) from None
