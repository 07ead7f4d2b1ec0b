"""The story of a run: prepare, start or resume, then rollout -> score -> update to the end.

In: a config and a folder. Out: the folder with run.json, metrics.jsonl, samples.jsonl,
evaluations.jsonl, tensorboard/, checkpoints/ and, at the end, summary.json and curves.png.
"""

import contextlib
import dataclasses

from gopd_jax.config import Config
from gopd_jax.data.stream import PromptStream
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime import provenance
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.runtime.mesh import compute_dtype, make_mesh
from gopd_jax.runtime.processes import agree, until_sigterm
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.train import curves, summary
from gopd_jax.train.evaluations import Evaluations, Evaluator
from gopd_jax.train.identity import refuse_another_run, run_identity, start_or_resume
from gopd_jax.train.models import Samplers, load_frozen, load_student, make_learner
from gopd_jax.train.prepare import RunInputs, prepare
from gopd_jax.train.step import Trainer
from gopd_jax.train.step_log import StepLog
from gopd_jax.train.verification import BackgroundVerifier


def run(config: Config, workdir: str) -> summary.Summary | None:
    """Runs a config to its end, from wherever `workdir` stands.

    Returns:
        The summary, or None after a SIGTERM.

    Raises:
        ValueError: before any work, with one sentence on what is wrong and what was expected.
    """
    # ---- Whatever can be wrong is found here.
    programs = ProgramTable(make_mesh(**dataclasses.asdict(config.mesh)))
    dtype = compute_dtype(config.compute_dtype)
    inputs = prepare(config, workdir)
    learner = make_learner(config, inputs.models[config.student], programs, dtype)
    samplers = Samplers(config, inputs, programs, dtype)
    identity = run_identity(config, inputs.fingerprints)
    resumed = start_or_resume(workdir, identity, provenance.record())
    if (finished := summary.read(workdir)) is not None:
        say(summary.table(finished))
        say(f"{workdir} is complete. For another run, give another --workdir or delete this one.")
        return finished
    say(summary.opening(config, inputs, programs.mesh, dtype, workdir))

    # ---- Models and data, at the start or where the last run stopped.
    teachers, reference = load_frozen(inputs, programs, dtype)
    stream = _stream(config, inputs)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    first, seconds = checkpoints.latest_step() or 0, 0.0
    if first:
        state, host = checkpoints.restore(learner.abstract_state())
        refuse_another_run(workdir, host["identity"], identity)
        stream.set_state(host["stream"])
        seconds = host["seconds"]
        say(f"resumed {workdir} at step {first} of {config.steps}")
    else:
        if resumed:
            say(f"{workdir} was stopped before its first checkpoint: starting again")
        state = learner.start(load_student(config, inputs, programs))

    with contextlib.ExitStack() as stack:
        log = StepLog(workdir, first, config, inputs.tokenizer, learner.schedule)
        stack.enter_context(contextlib.closing(log))
        stack.enter_context(contextlib.closing(checkpoints))
        verify = stack.enter_context(Verifier(**dataclasses.asdict(config.verifier)))
        kinds = {name: domain.reward for name, domain in config.domains.items()}
        background = stack.enter_context(BackgroundVerifier(verify, kinds))
        stop = stack.enter_context(until_sigterm())
        evaluations = Evaluations(workdir, first)
        evaluator = Evaluator(config, inputs, samplers, verify, evaluations)
        trainer = Trainer(config, inputs, learner, samplers, teachers, reference, background)

        # ---- Where student and teachers stand.
        evaluator.student(state.params, first)
        evaluator.teachers(teachers)

        # ---- rollout -> score -> update; evaluate and save on the way.
        with Bar("train", config.steps, "steps", first) as bar:
            for step in range(first + 1, config.steps + 1):
                state, record, note = trainer.step(state, next(stream), step, log)
                seconds += record.seconds
                stopping = agree(stop.is_set()) and step < config.steps
                if stopping or step == config.steps or step % config.checkpoint.every == 0:
                    note = log.write_last() or note
                    host = {"stream": stream.get_state(), "seconds": seconds, "identity": identity}
                    checkpoints.save(step, state, host)
                bar.advance(1, note)
                if stopping:
                    say(
                        f"stopped by SIGTERM after step {step} of {config.steps} and saved; the "
                        "same command resumes from there"
                    )
                    return None
                evaluator.student(state.params, step)

    # ---- What came of it.
    result = summary.write(workdir, config, inputs, evaluations, seconds)
    title = f"{config.name}: {config.method}, {config.steps} steps, seed {config.seed}"
    curves.draw(workdir, title)
    say(summary.table(result))
    say(summary.closing(workdir))
    return result


def _stream(config: Config, inputs: RunInputs) -> PromptStream:
    return PromptStream(
        inputs.train,
        config.rollout.prompts_per_step,
        config.rollout.samples_per_prompt,
        config.rollout.max_response_tokens,
        config.seed,
        {name: domain.share for name, domain in config.domains.items()},
    )
