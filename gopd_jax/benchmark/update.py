"""The speed of the learner: response tokens per second of scoring and of whole updates.

In: the options of the command. Out: records on stdout: one for each run, one for each compiled
program, and the medians of the runs that compiled nothing.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import itertools
import resource
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from gopd_jax.benchmark.compiled import described_devices
from gopd_jax.benchmark.compiled_learner import DescribedPrograms, compile_learner
from gopd_jax.benchmark.examples import step_examples
from gopd_jax.benchmark.records import show
from gopd_jax.benchmark.workload import settings_in_effect
from gopd_jax.learner.learner import BatchShape, FrozenModel, Learner
from gopd_jax.learner.packing import Example
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import init_params, param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.runtime.mesh import compute_dtype, make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import Params, TrainState

MAX_WARM_UPS = 8  # runs that compile are not counted, up to this many
DOMAIN = "math"

Figures = dict[str, Any]


def benchmark(args: argparse.Namespace) -> None:
    """Prints one line for each run, then the programs and the medians."""
    model = load_config(args.model)
    devices = described_devices(args.topology) if args.topology else None
    mesh = make_mesh(data=args.data, tensor=args.tensor, devices=devices)
    examples = step_examples(
        args.prompts,
        args.max_prompt_tokens,
        args.mean_response_tokens,
        args.max_response_tokens,
        model.vocab_size,
        args.seed,
    )
    settings = LearnerSettings(
        rows_per_micro_batch=args.rows_per_micro_batch,
        row_length=args.row_length,
        remat=args.remat == "true",
        attention=args.attention,
    )
    learner = Learner(
        model,
        DescribedPrograms(mesh) if args.topology else ProgramTable(mesh),
        settings,
        reward_scales={DOMAIN: settings.reward_scale},
        shape=BatchShape(
            examples=len(examples),
            longest=args.max_prompt_tokens + args.max_response_tokens,
            rows=settings.rows_per_micro_batch,
            row_length=settings.row_length,
        ),
        updates=args.runs + MAX_WARM_UPS,
        dtype=compute_dtype(args.compute_dtype),
    )
    if args.topology:
        compile_learner(args, model, learner)
        return
    params = _params(args, model, learner)
    teacher = FrozenModel("teacher", model, params)
    reference = state = None
    if args.part == "update":
        reference = FrozenModel("reference", model, jax.tree.map(jnp.copy, params))
        state = learner.start(jax.tree.map(jnp.copy, params))

    runs: list[Figures] = []
    for i in itertools.count():
        run, state = _run(learner, examples, teacher, reference, state)
        warm_up = i == 0 or (run["compilations"] and i < MAX_WARM_UPS)
        show({"record": "warm-up" if warm_up else "run", "run": i} | run)
        runs += [] if warm_up else [run]
        if len(runs) == args.runs:
            break
    summary = {"record": "median", "engine": f"gopd_jax-{jax.default_backend()}"}
    summary |= {name: statistics.median(r[name] for r in runs) for name in runs[0]}
    summary |= _memory(learner)
    summary["settings"] = settings_in_effect(args)
    for program in learner.programs.programs:
        show({"record": "program"} | dataclasses.asdict(program))
    show(summary)


def _params(args: argparse.Namespace, model: ModelConfig, learner: Learner) -> Params:
    shardings = param_shardings(model, learner.mesh)
    if args.random_weights:
        init = jax.jit(lambda key: init_params(model, key), out_shardings=shardings)
        return init(jax.random.key(0))
    return load_params(args.model, model, jnp.float32, shardings)


def _run(
    learner: Learner,
    examples: Sequence[Example],
    teacher: FrozenModel,
    reference: FrozenModel | None,
    state: TrainState | None,
) -> tuple[Figures, TrainState | None]:
    """Packs and scores the examples once and, given a state, updates it."""
    compiled, start = compilations(), time.perf_counter()
    packed = jax.block_until_ready(learner.pack(examples))
    packing = time.perf_counter()
    batch = jax.block_until_ready(learner.score(packed, {DOMAIN: teacher}, reference, None))
    scored = time.perf_counter()
    if state is not None:
        state, *_ = jax.block_until_ready(learner.update(state, batch))
    end = time.perf_counter()
    tokens = sum(len(e.response) for e in examples)
    figures = {
        "seconds": end - start,
        "rollouts": len(examples),
        "response_tokens": tokens,
        "all_tokens": sum(map(len, examples)),
        "response_tokens_per_second": tokens / (end - start),
        "seconds_pack": packing - start,
        "seconds_score": scored - packing,
        "seconds_update": end - scored,
        "filled": packed.filled,
        "compilations": compilations() - compiled,
    }
    return figures, state


def _memory(learner: Learner) -> Figures:
    programs = learner.programs.programs
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    if peak is None:  # a CPU device has no account of its own
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "peak_gib": peak / 2**30,
        "temporary_bytes": {p.name: p.temporary_bytes for p in programs},
        "compile_seconds": sum(p.compile_seconds for p in programs),
    }
