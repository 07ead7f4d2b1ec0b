"""Trains a student by on-policy distillation (G-OPD / ExOPD), by GRPO, or by SFT.

    python -m gopd_jax.train --config=configs/math.py                      the embedded run, minutes on a laptop CPU
    python -m gopd_jax.train --config=configs/math.py:qwen3_4b --workdir=gs://bucket/run
    python -m gopd_jax.train --config=configs/math.py --config.learner.reward_scale=1.5 --workdir=runs/lambda15

A config file says what is run (its docstring: claim, hardware, time, expected number); every field can be set on the command
line as --config.part.field=value. WORKDIR (default runs/NAME) gets run.json, metrics.jsonl, samples.jsonl, evaluations.jsonl,
tensorboard/, checkpoints/ and, at the end, summary.json. The same command again resumes, or says that the run is complete.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import config_flags

from gopd_jax.config import Config, from_config_dict
from gopd_jax.data.stream import PromptStream
from gopd_jax.evaluate.held_out import batched, evaluate
from gopd_jax.learner.learner import Learner
from gopd_jax.learner.sources import given_answers, order, outside_advantages, to_sequences
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.huggingface import load_params
from gopd_jax.rewards.verifier import Verdict, Verifier
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.runtime.mesh import make_mesh, shardings
from gopd_jax.runtime.processes import agree, start_processes, until_sigterm
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.runtime.provenance import about
from gopd_jax.train import curves as picture
from gopd_jax.train import summary
from gopd_jax.train.identity import refuse_another_run, run_identity, start_or_resume
from gopd_jax.train.prepare import Contract, check, sft_answers
from gopd_jax.train.step_log import StepLog, StepRecord, rollout_name
from gopd_jax.types import Request, Rollout, TrainState

TRAIN, EVAL = 0, 1  # streams of random keys


def run(config: Config, workdir: str) -> dict[str, Any] | None:
    """Runs a config to its end, from wherever `workdir` stands. Returns the summary, or None after a SIGTERM.

    Raises:
        ValueError: before any work, with one sentence on what is wrong and what was wanted.
    """
    # ---- Everything that can be wrong is found here.
    mesh = make_mesh(**dataclasses.asdict(config.mesh))
    contract = check(config, workdir)
    dtype = _compute_dtype(config)
    student = contract.models[config.student]
    learner = Learner(config, student, mesh, dtype)
    engine = functools.cache(functools.partial(_engine, config, contract, mesh, dtype))
    sampler = engine(student)
    identity = run_identity(config, contract.fingerprints)
    resumed = start_or_resume(workdir, identity, about())
    if (finished := summary.read(workdir)) is not None:
        say(summary.table(finished))
        say(
            f"{workdir} is complete. For another run give another --workdir, or delete this folder."
        )
        return finished
    say(summary.opening(config, contract, mesh, dtype, workdir))

    # ---- Models and data, at the start or where the last run stopped.
    teachers, reference = _load_frozen(contract, mesh, dtype)
    stream = _stream(config, contract)
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
        state = learner.start(
            load_params(config.student, student, jnp.float32, learner.param_shardings)
        )

    with contextlib.ExitStack() as stack:
        log = stack.enter_context(
            contextlib.closing(
                StepLog(workdir, first, config, contract.tokenizer, learner.schedule)
            )
        )
        stack.enter_context(contextlib.closing(checkpoints))
        verify = stack.enter_context(Verifier(**dataclasses.asdict(config.verifier)))
        background = stack.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        stop = stack.enter_context(until_sigterm())
        evaluations = summary.Evaluations(workdir, first)
        measure = functools.partial(
            _evaluate_missing, config, contract, engine, verify, evaluations
        )
        parts = Parts(
            config, contract, learner, sampler, engine, teachers, reference, verify, background
        )

        def measure_student(step: int) -> None:
            if step in (0, config.steps) or (config.eval.every and step % config.eval.every == 0):
                measure("student", student, state.params, list(config.domains), step)

        # ---- Where everybody stands.
        measure_student(first)
        for domain, (model, params) in teachers.items():
            measure("teacher", model, params, [domain], 0)
            if model != student:
                engine(model).free()  # the memory of its caches is wanted for training

        # ---- rollout -> score -> update, evaluate and save on the way.
        with Bar("train", config.steps, "steps", first) as bar:
            for step in range(first + 1, config.steps + 1):
                state, record, note = take_step(parts, state, next(stream), step, log)
                seconds += record.seconds
                stopping = agree(stop.is_set()) and step < config.steps
                if stopping or step == config.steps or step % config.checkpoint.every == 0:
                    note = log.write_last() or note
                    host = {"stream": stream.get_state(), "seconds": seconds, "identity": identity}
                    checkpoints.save(step, state, host)
                bar.advance(1, note)
                if stopping:
                    say(
                        f"stopped by SIGTERM after step {step} of {config.steps}, saved; the same command goes on from there"
                    )
                    return None
                measure_student(step)

    # ---- What came of it.
    result = summary.write(workdir, config, contract, evaluations, seconds)
    picture.draw(
        workdir, f"{config.name}: {config.method}, {config.steps} steps, seed {config.seed}"
    )
    say(summary.table(result))
    say(summary.closing(workdir))
    return result


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a step is made with; see `run`. Frozen models are (architecture, parameters)."""

    config: Config
    contract: Contract
    learner: Learner
    sampler: RolloutEngine
    engine: Callable[[ModelConfig], RolloutEngine]
    teachers: dict[str, tuple[ModelConfig, Any]]
    reference: tuple[ModelConfig, Any] | None
    verify: Verifier
    background: concurrent.futures.Executor


def take_step(
    parts: Parts, state: TrainState, requests: Sequence[Request], step: int, log: StepLog
) -> tuple[TrainState, StepRecord, str]:
    """rollout -> score -> update. Returns the new state, what the step left behind, and the note for the progress bar.

    The metrics of a step are fetched and written while the next one is being updated, so that the device never waits for them;
    answers are verified in the background while others are drawn, and waited for only where they decide the advantage (GRPO).
    """
    config, learner = parts.config, parts.learner
    record = StepRecord(step)
    _draw(parts, state.params, requests, record)
    record.lap("rollout")

    rewards = (
        agree([v.reward for v in record.verdicts.result()]) if config.method == "grpo" else None
    )
    advantages = outside_advantages(config.method, record.rollouts, rewards)
    updates = [learner.pack(s) for s in to_sequences(record.rollouts, advantages, config, step)]
    old = state.params if len(updates) > 1 else None
    teachers = (
        parts.teachers if config.method == "gopd" else {}
    )  # those of SFT have answered already
    scored = [learner.score(packed, teachers, parts.reference, old) for packed in updates]
    jax.block_until_ready(scored)
    record.lap("score")

    for packed, batch in zip(updates, scored, strict=True):
        state, metrics, logprobs = learner.update(state, batch)
        record.add_update(packed, batch, metrics, logprobs)
    note = log.write_previous(record)
    jax.block_until_ready(state.step)
    record.lap("update")
    return state, record, note


def _load_frozen(contract: Contract, mesh: Mesh, dtype: Any) -> tuple[dict[str, Any], Any]:
    """Teachers by domain and the reference (or None), in the compute dtype; a folder that serves twice is loaded once."""

    def load(path: str) -> tuple[ModelConfig, Any]:
        model = contract.models[path]
        where = shardings(mesh, abstract_params(model), logical_axes(model))
        return model, load_params(path, model, dtype, where)

    loaded = {
        path: load(path) for path in {*contract.teachers.values(), contract.reference} - {None}
    }
    return {domain: loaded[path] for domain, path in contract.teachers.items()}, loaded.get(
        contract.reference
    )


def _stream(config: Config, contract: Contract) -> PromptStream:
    return PromptStream(
        contract.train,
        config.rollout.prompts_per_step,
        config.rollout.samples_per_prompt,
        config.rollout.max_response_tokens,
        config.seed,
        {name: d.share for name, d in config.domains.items()},
    )


def _compute_dtype(config: Config) -> Any:
    if config.compute_dtype == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute_dtype).type


def _engine(
    config: Config, contract: Contract, mesh: Mesh, dtype: Any, model: ModelConfig
) -> RolloutEngine:
    return RolloutEngine(
        model,
        mesh,
        contract.tokenizer.stop_ids,
        slots=config.rollout.slots,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_response_tokens=config.rollout.max_response_tokens,
        dtype=dtype,
        options=config.rollout.options,
        say=say,
    )


def _key(config: Config, stream: int, step: int) -> jax.Array:
    """The key of one step of one stream; see `rollout.sampling.sample_keys` for what follows."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), stream), step)


def _draw(parts: Parts, params: Any, requests: Sequence[Request], record: StepRecord) -> None:
    """The step's rollouts in their own order, drawn from the student (SFT: the answers to learn from); the verifier has each of
    them as soon as it is finished."""
    tokenizer = parts.contract.tokenizer
    if parts.config.method == "sft":
        rollouts = _answers(parts, requests, record.step)
    else:
        weights = jax.block_until_ready(parts.sampler.lay_out(params))
        record.lap("lay_out")
        rollouts = parts.sampler(
            weights, requests, _key(parts.config, TRAIN, record.step), parts.config.rollout.rule
        )
    most = parts.config.log.rewards if parts.config.method != "grpo" else 0
    wanted = {r.key for r in requests[: most or len(requests)]}  # the stream is shuffled
    finished: dict[tuple[str, int], tuple[Rollout, str]] = {}
    verdicts: list[concurrent.futures.Future] = []
    for part in batched(rollouts, max(1, parts.sampler.slots // 4)):
        texts = [tokenizer.decode(r.tokens) for r in part]
        verdicts.append(
            parts.background.submit(_verify, parts.verify, parts.config, part, texts, wanted)
        )
        finished |= {rollout_name(r): (r, text) for r, text in zip(part, texts, strict=True)}
    record.rollouts = order([r for r, _ in finished.values()])
    record.drawn = parts.sampler.stats
    record.texts = [finished[rollout_name(r)][1] for r in record.rollouts]

    def in_order() -> list[Verdict | None]:  # runs after the others: the background has one thread
        known = {name: verdict for part in verdicts for name, verdict in part.result().items()}
        return [known.get(rollout_name(r)) for r in record.rollouts]

    record.verdicts = parts.background.submit(in_order)


def _answers(parts: Parts, requests: Sequence[Request], step: int) -> Iterator[Rollout]:
    """What SFT learns from: samples of the domain's teacher, or the answers in the data set where there is no teacher."""
    for name in parts.config.domains:
        mine = [r for r in requests if r.prompt.source.domain == name]
        if mine and name in parts.teachers:
            model, params = parts.teachers[name]
            engine = parts.engine(model)
            yield from engine(
                engine.lay_out(params),
                mine,
                _key(parts.config, TRAIN, step),
                parts.config.rollout.rule,
            )
        else:
            yield from given_answers(
                mine, sft_answers(parts.contract.tokenizer, [r.prompt for r in mine])
            )


def _verify(
    verify: Verifier,
    config: Config,
    rollouts: Sequence[Rollout],
    texts: Sequence[str],
    wanted: set[tuple[str, int]],
) -> dict[tuple[str, int], Verdict]:
    """Verdicts by name, for those rollouts that are wanted."""
    pairs = [
        (r, text) for r, text in zip(rollouts, texts, strict=True) if rollout_name(r) in wanted
    ]
    prompts = [r.request.prompt.source for r, _ in pairs]
    verdicts = verify(
        [
            (config.domains[p.domain].reward, text, p.ground_truth)
            for p, (_, text) in zip(prompts, pairs, strict=True)
        ]
    )
    return {rollout_name(r): verdict for (r, _), verdict in zip(pairs, verdicts, strict=True)}


def _evaluate_missing(
    config: Config,
    contract: Contract,
    engine: Any,
    verify: Verifier,
    evaluations: summary.Evaluations,
    who: str,
    model: ModelConfig,
    params: Any,
    domains: Sequence[str],
    step: int,
) -> None:
    """Evaluates a model on each domain for which the run has no result of that step yet."""
    missing = [d for d in domains if not evaluations.has(who, d, step)]
    if not missing:
        return
    between = 0 < step < config.steps and config.eval.during_prompts
    most = between or config.eval.prompts
    sampler = engine(model)
    weights = sampler.lay_out(params)
    for domain in missing:
        prompts = contract.test[domain]
        result = evaluate(
            sampler,
            weights,
            [prompts[i] for i in range(min(most or len(prompts), len(prompts)))],
            verify,
            config.domains[domain].reward,
            contract.tokenizer,
            samples=config.eval.samples,
            max_tokens=config.rollout.max_response_tokens,
            rule=config.eval.rule,
            key=_key(
                config, EVAL, 0
            ),  # the same draws for every model and step: differences are paired
            name=f"evaluate {who}{f' at step {step}' if who == 'student' else ''}: {domain}",
        )
        evaluations.add(who, domain, step, result)


def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(
        logging.WARNING
    )  # absl switches to INFO by itself, and Orbax then fills the screen
    if len(argv) > 1:
        _refuse(
            f"unknown arguments {' '.join(argv[1:])}: wanted --config=FILE[:PRESET], --config.field=value, --workdir=FOLDER"
        )
    try:
        config = from_config_dict(_CONFIG.value)
        run(config, _WORKDIR.value or os.path.join("runs", config.name))
    except ValueError as e:
        _refuse(str(e))
    except KeyboardInterrupt:
        _refuse("stopped by Ctrl-C; the same command goes on from the last checkpoint")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with a config file or one of its fields becomes one line, not a traceback."""
    try:
        rest = app.parse_flags_with_usage(argv)
        _CONFIG.value.to_dict()  # a file that could not be read is only reported when its values are wanted
        return rest
    except (KeyError, AttributeError) as e:  # ml_collections quotes its own message, once or twice
        message = str(e).replace("\\n", " ").translate({ord(c): None for c in "\\'"})
    except OSError as e:
        message = str(e).strip().splitlines()[-1].strip()
    _refuse(f"--config: {message}")


def _refuse(message: str) -> NoReturn:
    say(f"error: {message}")
    sys.exit(2)


if __name__ == "__main__":
    _CONFIG = config_flags.DEFINE_config_file(
        "config", None, "Config file and preset, e.g. configs/math.py:tiny (required)."
    )
    _WORKDIR = flags.DEFINE_string(
        "workdir", "", "Folder of the run, local or gs://; empty: runs/NAME."
    )
    flags.mark_flag_as_required("config")
    start_processes()
    app.run(main, flags_parser=parse)
