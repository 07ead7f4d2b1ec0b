"""The speed of sampling: tokens per second, slot utilisation, bytes and compilations.

In: the options of the command. Out: records on stdout: one for each run, one for each compiled
program, and the medians of the runs that compiled nothing.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import itertools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
import numpy as np

from gopd_jax.benchmark.compiled import compile_for_topology
from gopd_jax.benchmark.records import show
from gopd_jax.benchmark.workload import (
    chat_prompts,
    make_engine,
    random_prompts,
    settings_in_effect,
    to_requests,
)
from gopd_jax.generate.options import sampling_rule
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import Decoder, init_params, output_head, param_shardings
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.logprobs import token_logprobs
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.types import Params, Request, Rollout

MAX_WARM_UPS = 8  # runs that compile are not counted, up to this many
SCORE_ROWS = 32  # sequences that --score runs at once

Figures = dict[str, Any]


def benchmark(args: argparse.Namespace) -> None:
    """Prints one line for each run, then the programs and the medians."""
    if args.workload == "chat" and not args.prompt_file:
        raise ValueError("--workload=chat: expected --prompt-file=FILE.jsonl")
    model, rule = load_config(args.model), sampling_rule(args)
    if args.topology:
        show(compile_for_topology(args, model))
        return
    if args.workload == "chat":
        prompts, ids = chat_prompts(args.model, args.prompt_file, args.prompts, model.vocab_size)
    else:
        ids = model.vocab_size
        prompts = random_prompts(args.prompts, args.max_prompt_tokens, ids)
    requests = to_requests(prompts, args.samples_per_prompt, args.max_response_tokens)
    mesh = make_mesh(data=args.data, tensor=args.tensor)
    engine = make_engine(args, model, mesh, max(map(len, prompts)), ids)
    shardings = param_shardings(model, mesh)
    if args.random_weights:
        init = jax.jit(lambda key: init_params(model, key), out_shardings=shardings)
        params = init(jax.random.key(0))
    else:
        params = load_params(args.model, model, jnp.float32, shardings)
    jax.block_until_ready(engine.sync_weights(params))  # compiles, before the first run is timed

    runs: list[Figures] = []
    for i in itertools.count():
        run, rollouts = _run(engine, params, requests, jax.random.key(i), rule)
        warm_up = i == 0 or (run["compilations"] and i < MAX_WARM_UPS)
        show({"record": "warm-up" if warm_up else "run", "run": i} | run)
        runs += [] if warm_up else [run]
        if len(runs) == args.runs:
            break
    names = [name for name in runs[0] if all(name in r for r in runs)]
    summary = {name: statistics.median(r[name] for r in runs) for name in names}
    summary |= {"record": "median"} | _engine_figures(engine)
    summary["settings"] = settings_in_effect(args)
    if args.score:
        summary |= logprob_gap(model, params, rollouts, rule, engine.dtype, ids)
    for program in engine.programs.programs:
        show({"record": "program"} | dataclasses.asdict(program))
    show(summary)


def _run(
    engine: RolloutEngine,
    params: Params,
    requests: Sequence[Request],
    key: jax.Array,
    rule: SamplingRule,
) -> tuple[Figures, list[Rollout]]:
    """Syncs the weights and draws all requests once."""
    compiled, start = compilations(), time.perf_counter()
    weights = jax.block_until_ready(engine.sync_weights(params))
    synced = time.perf_counter()
    rollouts = list(engine(weights, requests, key, rule))
    seconds = time.perf_counter() - synced
    stats, lengths = engine.stats, np.array([len(r.tokens) for r in rollouts])
    figures = {
        "seconds": seconds,
        "rollouts": len(rollouts),
        "tokens": int(lengths.sum()),
        "tokens_per_second": lengths.sum() / seconds,
        "mean_length": lengths.mean(),
        "max_length": int(lengths.max()),
        "slot_utilisation": stats.utilisation,
        "prompt_tokens": stats.prompt_tokens,
        "prefill_tokens": stats.prefill_tokens,
        "padded_prefill_tokens": stats.padded_prefill_tokens,
        "decode_tokens": stats.tokens,
        "decode_steps": stats.steps,
        "dispatches": stats.dispatches,
        "copies": stats.copies,
        "weight_sync_seconds": synced - start,
        "compilations": compilations() - compiled,
    }
    if stats.timed_steps:
        figures["decode_ms_per_step"] = 1e3 * stats.timed_seconds / stats.timed_steps
    return figures, rollouts


def _engine_figures(engine: RolloutEngine) -> Figures:
    """Memory and compilations of the engine, and what it runs on."""
    programs = engine.programs.programs
    cache_bytes = engine.caches.bytes_of(engine.slots)
    temporary = max(p.temporary_bytes for p in programs if p.name == "decode")
    return {
        "cache_bytes": cache_bytes,
        "decode_temporary_bytes": temporary,
        "decode_temporary_share": temporary / cache_bytes,
        "programs": len(programs),
        "compile_seconds": sum(p.compile_seconds for p in programs),
        "kernel": str(engine.kernel),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }


def logprob_gap(
    model: ModelConfig,
    params: Params,
    rollouts: Sequence[Rollout],
    rule: SamplingRule,
    dtype: DTypeLike,
    num_ids: int | None = None,
) -> dict[str, float]:
    """How far the sampler's log-probs are from those of the learner's scorer.

    Args:
        model: the architecture.
        params: what `rollouts` were drawn from.
        rollouts: those of one run.
        rule: the distribution that they were drawn from.
        dtype: compute dtype.
        num_ids: number of ids that they were drawn from; None stands for the whole vocabulary.

    Returns:
        Mean and maximum of the absolute difference over all tokens, in nats.
    """
    longest = max(len(r.request.prompt.tokens) + len(r.tokens) for r in rollouts)
    decoder = Decoder(model, dtype, remat="none")

    @jax.jit
    def score(params, tokens_RS, positions_RS, segments_RS, targets_RS):
        hidden_RSD = decoder.apply({"params": params}, tokens_RS, positions_RS, segments_RS)
        head_VD = output_head(params)
        return token_logprobs(hidden_RSD, head_VD, targets_RS, rule=rule, num_ids=num_ids)[0]

    gaps = []
    for first in range(0, len(rollouts), SCORE_ROWS):
        batch = rollouts[first : first + SCORE_ROWS]
        tokens, positions, segments, targets = np.zeros((4, SCORE_ROWS, longest), np.int32)
        for i, r in enumerate(batch):
            whole = np.concatenate([r.request.prompt.tokens, r.tokens])
            tokens[i, : len(whole)] = whole
            positions[i, : len(whole)] = np.arange(len(whole))
            segments[i, : len(whole)] = 1
            targets[i, : len(whole) - 1] = whole[1:]
        scores = np.asarray(score(params, tokens, positions, segments, targets))
        for i, r in enumerate(batch):
            begin = len(r.request.prompt.tokens) - 1
            gaps.append(np.abs(scores[i, begin : begin + len(r.tokens)] - r.behaviour_logprobs))
    gap = np.concatenate(gaps)
    return {"logprob_gap_mean": float(gap.mean()), "logprob_gap_max": float(gap.max())}
