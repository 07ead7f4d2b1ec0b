"""The speed of the learner: response tokens per second of scoring and of whole updates.

In: the options of the command. Out: records on stdout: one for each run, one for each compiled
program, and the medians of the runs that compiled nothing.
"""

import argparse
from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from gopd_jax.benchmark.costs import count, figures, rows_of, speeds
from gopd_jax.benchmark.examples import REWARD_SCALE, domain_names, make_examples
from gopd_jax.benchmark.machine import matmul_peak, peak_bytes
from gopd_jax.benchmark.parts import parts
from gopd_jax.benchmark.records import show
from gopd_jax.benchmark.workload import settings_in_effect
from gopd_jax.learner.example import Example
from gopd_jax.learner.learner import BatchShape, FrozenModel, Learner, Packed
from gopd_jax.learner.operations import Cost
from gopd_jax.learner.scoring import Scoring
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import init_params, param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.runtime.mesh import compute_dtype, make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import Params, TrainState

MAX_WARM_UPS = 8  # runs that compile are not counted, up to this many

Figures = dict[str, Any]


def benchmark(args: argparse.Namespace) -> None:
    """Prints one line for each run, then the programs and the medians."""
    model = load_config(args.model)
    mesh = make_mesh(data=args.data, tensor=args.tensor)
    examples = make_examples(args, model.vocab_size)
    learner = make_learner(args, model, ProgramTable(mesh), len(examples))
    if args.count_only:
        counts = rows_of(learner.pack(examples)) | figures(count(learner, examples, args.part))
        counts |= {"rollouts": len(examples), "settings": settings_in_effect(args)}
        show({"record": "counted"} | counts)
        return
    params, updates = _params(args, model, learner), args.part == "update"
    several = len(learner.reward_scales) + 2 * updates  # models, each with weights of its own
    weights = [params, *(jax.tree.map(jnp.copy, params) for _ in range(several - 1))]
    del params
    state = learner.start(weights.pop()) if updates else None
    reference = FrozenModel("reference", model, weights.pop()) if updates else None
    teachers = {
        name: FrozenModel(f"teacher of {name}", model, own)
        for name, own in zip(learner.reward_scales, weights, strict=True)
    }

    runs: list[Figures] = []
    peak = args.peak_flops
    for i in itertools.count():
        run, costs, packed, state = _run(learner, examples, teachers, reference, state)
        memory = peak_bytes()  # before the peak is measured, with large matrices
        peak = peak or matmul_peak(learner.dtype)
        run |= speeds(costs, run, peak)
        warm_up = i == 0 or (run["compilations"] and i < MAX_WARM_UPS)
        show({"record": "warm-up" if warm_up else "run", "run": i} | run)
        runs += [] if warm_up else [run]
        if len(runs) == args.runs:
            break
    summary = {"record": "median", "engine": f"gopd_jax-{jax.default_backend()}"}
    summary |= {name: statistics.median(r[name] for r in runs) for name in runs[0]}
    summary |= rows_of(packed) | figures(costs)
    summary |= {"peak_flops": peak, "peak_is": "given" if args.peak_flops else "measured"}
    summary |= _learner_figures(learner) | {"peak_gib": memory / 2**30}
    summary |= parts(learner, packed, peak) if args.parts else {}
    summary["settings"] = settings_in_effect(args)
    for program in learner.programs.programs:
        show({"record": "program"} | dataclasses.asdict(program))
    show(summary)


def make_learner(
    args: argparse.Namespace, model: ModelConfig, programs: ProgramTable, examples: int
) -> Learner:
    """The learner that the options describe, of one domain for each teacher."""
    settings = LearnerSettings(
        rows_per_micro_batch=args.rows_per_micro_batch,
        row_length=args.row_length,
        remat=args.remat,
        attention=args.attention,
        share_prompts=not args.no_share_prompts,
    )
    return Learner(
        model,
        programs,
        settings,
        reward_scales=dict.fromkeys(domain_names(args.teachers), REWARD_SCALE),
        shape=BatchShape(
            examples=examples,
            longest=args.max_prompt_tokens + args.max_response_tokens,
            rows=settings.rows_per_micro_batch,
            row_length=settings.row_length,
            samples=args.samples_per_prompt if settings.share_prompts else 1,
        ),
        updates=args.runs + MAX_WARM_UPS,
        dtype=compute_dtype(args.compute_dtype),
    )


def _params(args: argparse.Namespace, model: ModelConfig, learner: Learner) -> Params:
    shardings = param_shardings(model, learner.mesh)
    if args.random_weights:
        init = jax.jit(lambda key: init_params(model, key), out_shardings=shardings)
        return init(jax.random.key(0))
    return load_params(args.model, model, jnp.float32, shardings)


def _run(
    learner: Learner,
    examples: Sequence[Example],
    teachers: Mapping[str, FrozenModel],
    reference: FrozenModel | None,
    state: TrainState | None,
) -> tuple[Figures, dict[str, Cost], Packed, TrainState | None]:
    """Scores the examples once and, given a state, packs them and updates it."""
    compiled, start = compilations(), time.perf_counter()
    scoring = Scoring(learner, teachers, reference)
    scoring.add(examples)
    found = scoring.finish()
    scored = [dataclasses.replace(e, **found[e.key]) for e in examples]
    costs, done = {"score": scoring.cost}, time.perf_counter()
    packed = jax.block_until_ready(learner.pack(scored))
    placed = time.perf_counter()
    if state is not None:
        state, *_ = jax.block_until_ready(learner.update(state, packed))
        costs["update"] = packed.cost
    end = time.perf_counter()
    tokens = sum(len(e.response) for e in examples)
    measured = {
        "seconds": end - start,
        "rollouts": len(examples),
        "response_tokens": tokens,
        "all_tokens": sum(map(len, examples)),
        "response_tokens_per_second": tokens / (end - start),
        "seconds_pack": placed - done,
        "seconds_score": done - start,
        **({} if state is None else {"seconds_update": end - placed}),
        "compilations": compilations() - compiled,
    }
    return measured, costs, packed, state


def _learner_figures(learner: Learner) -> Figures:
    """Memory and compilations, and what the learner runs on."""
    programs = learner.programs.programs
    return {
        "temporary_bytes": max(p.temporary_bytes for p in programs),
        "programs": len(programs),
        "compile_seconds": sum(p.compile_seconds for p in programs),
        "attention": learner.kernels["packed attention"],
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }
