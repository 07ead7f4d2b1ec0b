"""Command: how fast this machine runs a part of the project, as JSON lines. Parts: rollout.

    python -m gopd_jax.benchmark rollout --model=FOLDER --slots=64 --prompts=256 --mean=64 --max-new=256
    python -m gopd_jax.benchmark rollout --model=FOLDER --workload=chat --prompt-file=gsm8k_test.jsonl --runs=5
    python -m gopd_jax.benchmark rollout --model=FOLDER --topology=v5e:8x8 --slots=256 --prompt-tokens=2048 --max-new=16384

The first run, and any that compiles, is a warm-up and not counted. With random weights answers have geometric lengths: the stop
ids are V / mean ids drawn at random, so that about one token in `mean` ends an answer.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
import itertools
import json
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import abstract_params, init_params, logical_axes
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh, shardings
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.progress import say
from gopd_jax.types import EncodedPrompt, Prompt, Request, Rollout

MOST_WARM_UPS = 8  # runs that compile are not counted, but for so many
SCORE_ROWS = 32  # sequences that --score runs at once


def stop_ids(vocab_size: int, mean: int) -> list[int]:
    """V / mean ids, the same in every run: with random weights a token is one of them with probability 1 / mean."""
    chosen = np.random.default_rng(0).choice(
        np.arange(300, vocab_size), size=max(1, vocab_size // mean), replace=False
    )
    return sorted(int(i) for i in chosen)


def random_prompts(count: int, tokens: int, vocab_size: int) -> list[np.ndarray]:
    """Random ids, half of `tokens` to `tokens` of them in each prompt."""
    rng = np.random.default_rng(1)
    return [
        rng.integers(5, vocab_size, rng.integers((tokens + 1) // 2, tokens + 1), dtype=np.int32)
        for _ in range(count)
    ]


def chat_prompts(model: str, file: str, count: int) -> list[np.ndarray]:
    """The first questions of a JSON-lines file with a "question" in each row, in the model's chat template."""
    from gopd_jax.data.tokenizer import ChatTokenizer

    tokenizer = ChatTokenizer.load(model)
    with open(file, encoding="utf-8") as lines:
        questions = [json.loads(line)["question"] for line in lines][:count]
    if len(questions) < count:
        raise ValueError(
            f"--prompt-file={file} has {len(questions)} questions: wanted --prompts={count}"
        )
    return tokenizer.encode_prompts([[{"role": "user", "content": q}] for q in questions])


def to_requests(prompts: Sequence[np.ndarray], samples: int, max_tokens: int) -> list[Request]:
    encoded = [
        EncodedPrompt(Prompt(f"prompt {i}", (), "benchmark", ""), p) for i, p in enumerate(prompts)
    ]
    return [Request(p, s, max_tokens) for p in encoded for s in range(samples)]


def rollout(args: argparse.Namespace) -> None:
    """Prints one line for each run, then the medians and the programs."""
    model = load_config(args.model)
    dtype = _dtype(args.dtype)
    ids = stop_ids(model.vocab_size, args.mean)
    if args.topology:
        return _show(compiled_for(args, model, dtype, ids))
    prompts = (
        chat_prompts(args.model, args.prompt_file, args.prompts)
        if args.workload == "chat"
        else random_prompts(args.prompts, args.prompt_tokens, model.vocab_size)
    )
    requests = to_requests(prompts, args.samples, args.max_new)
    mesh = make_mesh(data=args.data, tensor=args.tensor)
    engine = _engine(args, model, mesh, ids, max(map(len, prompts)), dtype)
    where = shardings(mesh, abstract_params(model), logical_axes(model))
    if args.random_weights:
        params = jax.jit(lambda key: init_params(model, key), out_shardings=where)(
            jax.random.key(0)
        )
    else:
        params = load_params(args.model, model, jnp.float32, where)
    weights = jax.block_until_ready(engine.sync_weights(params))
    rule = SamplingRule(args.temperature, args.top_k, args.top_p)

    runs: list[dict[str, float]] = []
    for i in itertools.count():
        compiled, start = compilations(), time.perf_counter()
        weights = jax.block_until_ready(engine.sync_weights(params))
        synced = time.perf_counter()
        rollouts = list(engine(weights, requests, jax.random.key(i), rule))
        seconds = time.perf_counter() - synced
        run = _run_figures(engine, rollouts, seconds) | {"weight_sync_seconds": synced - start}
        run["compilations"] = compilations() - compiled
        warm_up = i == 0 or (run["compilations"] and i < MOST_WARM_UPS)
        _show({"record": "warm-up" if warm_up else "run", "run": i} | run)
        runs += [] if warm_up else [run]
        if len(runs) == args.runs:
            break
    summary = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    temporary = max(p.temporary_bytes for p in engine.programs.programs if p.name == "decode")
    summary |= {
        "record": "median",
        "cache_bytes": engine.cache_bytes,
        "decode_temporary_bytes": temporary,
        "decode_temporary_share": temporary / engine.cache_bytes,
        "programs": len(engine.programs.programs),
        "compile_seconds": sum(p.compile_seconds for p in engine.programs.programs),
        "kernel": str(engine.kernel),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "settings": _settings(args, dtype),
    }
    if args.score:
        summary |= score_gap(model, params, rollouts, rule, dtype)
    for program in engine.programs.programs:
        _show({"record": "program"} | dataclasses.asdict(program))
    _show(summary)


def _run_figures(
    engine: RolloutEngine, rollouts: list[Rollout], seconds: float
) -> dict[str, float]:
    stats, lengths = engine.stats, np.array([len(r.tokens) for r in rollouts])
    return {
        "seconds": seconds,
        "rollouts": len(rollouts),
        "tokens": int(lengths.sum()),
        "tokens_per_second": lengths.sum() / seconds,
        "mean_length": lengths.mean(),
        "max_length": int(lengths.max()),
        "slot_utilisation": stats.utilisation,
        "prompt_tokens": stats.prompt_tokens,
        "prefill_tokens": stats.prefill_tokens,
        "decode_tokens": stats.tokens,
        "decode_steps": stats.steps,
        "dispatches": stats.dispatches,
        "copies": stats.copies,
    }


def score_gap(
    model: ModelConfig, params: Any, rollouts: list[Rollout], rule: SamplingRule, dtype: Any
) -> dict[str, float]:
    """How far the sampler's log-probs are from those of the learner's scorer, over every token of the last run; nats."""
    from gopd_jax.models.decoder import Decoder, output_head
    from gopd_jax.models.heads import token_logprobs

    longest = max(len(r.request.prompt.tokens) + len(r.tokens) for r in rollouts)
    decoder = Decoder(model, dtype, remat=False)

    @jax.jit
    def score(params, tokens, positions, segments, targets):
        hidden = decoder.apply({"params": params}, tokens, positions, segments)
        return token_logprobs(hidden, output_head(params), targets, rule=rule)[0]

    gaps = []
    for first in range(0, len(rollouts), SCORE_ROWS):
        part = rollouts[first : first + SCORE_ROWS]
        row = np.zeros((4, SCORE_ROWS, longest), np.int32)
        for i, r in enumerate(part):
            whole = np.concatenate([r.request.prompt.tokens, r.tokens])
            row[0, i, : len(whole)], row[1, i, : len(whole)], row[2, i, : len(whole)] = (
                whole,
                np.arange(len(whole)),
                1,
            )
            row[3, i, : len(whole) - 1] = whole[1:]
        scores = np.asarray(score(params, *row))
        for i, r in enumerate(part):
            begin = len(r.request.prompt.tokens) - 1
            gaps.append(np.abs(scores[i, begin : begin + len(r.tokens)] - r.behaviour_logprobs))
    gap = np.concatenate(gaps)
    return {"logprob_gap_mean": float(gap.mean()), "logprob_gap_max": float(gap.max())}


def compiled_for(
    args: argparse.Namespace, model: ModelConfig, dtype: Any, ids: list[int]
) -> dict[str, Any]:
    """The decode program of a full cache, compiled for a TPU slice that is not here (libtpu must be installed).

    Bytes are those of one device. floor: weights and whole cache read once. bytes_per_step: what the compiler says that one
    step reads and writes, and its share of the merge that ends a dispatch. The compiler counts a loop once; it counts on-chip
    prefetches several times unless told to spend no effort on them: bytes come from such a compilation, memory from a full one.
    It counts the whole embedding table for the lookup of a few rows, which is taken off.
    """
    from jax.experimental import topologies

    from gopd_jax.rollout.device_programs import merge
    from gopd_jax.rollout.scheduler import Scheduler
    from gopd_jax.rollout.weights import abstract_weights

    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    mesh = make_mesh(data=args.data, tensor=args.tensor, devices=list(devices))
    engine = _engine(args, model, mesh, ids, args.prompt_tokens, dtype)
    start = time.perf_counter()
    weights = abstract_weights(model, mesh, dtype, args.weights == "int8")
    with jax.set_mesh(mesh):
        cache = engine.caches.abstract(args.slots)
        out = engine.decode_shardings(cache, len(cache.blocks))
        table = Scheduler([], args.slots, engine.shards, engine.longest_chunk).table()
        rule = SamplingRule(args.temperature, args.top_k, args.top_p)

        def compile_quickly(function, donate, out, *arguments):
            lowered = jax.jit(function, donate_argnums=donate, out_shardings=out).lower(*arguments)
            return lowered, lowered.compile(
                compiler_options={"exec_time_optimization_effort": -1.0}
            ).cost_analysis()

        with jax.default_device(devices[0]):  # kernels ask it for its generation
            given = weights, cache.blocks, cache.fresh, table, np.zeros(2, np.uint32), np.int32(0)
            decode = engine.decode_function(rule, "threefry2x32")
            lowered, cost = compile_quickly(decode, (1, 2), out, *given)
            end = functools.partial(merge, shards=engine.shards)
            _, merge_cost = compile_quickly(
                end, 0, out[0], cache.blocks, cache.fresh, table, np.int32(1)
            )
            memory = lowered.compile().memory_analysis()
    merge_bytes = merge_cost["bytes accessed"]
    table_bytes = _device_bytes(weights["embedding"]) * (
        1 - args.slots / engine.shards / model.vocab_size
    )
    step_bytes = (
        cost["bytes accessed"] - table_bytes - merge_bytes + merge_bytes / args.steps_per_dispatch
    )
    floor = {
        name: sum(map(_device_bytes, jax.tree.leaves(tree)))
        for name, tree in (("weights", weights), ("cache", cache))
    }
    peak = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return {
        "record": "compiled",
        "topology": args.topology,
        "devices": len(devices),
        "kernel": str(engine.kernel),
        "slots": args.slots,
        "columns": sum(engine.sizes),
        "weight_bytes": floor["weights"],
        "cache_bytes": floor["cache"],
        # What a Pallas kernel reads is not in the compiler's count.
        "bytes_per_step": None if engine.kernel.skips else step_bytes,
        "over_floor": None if engine.kernel.skips else step_bytes / sum(floor.values()),
        "merge_bytes": merge_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak,
        "compile_seconds": time.perf_counter() - start,
        "settings": _settings(args, dtype),
    }


def _settings(args: argparse.Namespace, dtype: Any) -> dict[str, Any]:
    given = {k: v for k, v in vars(args).items() if not callable(v)}
    return given | {"dtype": jnp.dtype(dtype).name, "jax": jax.__version__}


def _device_bytes(x: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize


def _engine(
    args: argparse.Namespace,
    model: ModelConfig,
    mesh: Any,
    ids: list[int],
    max_prompt_tokens: int,
    dtype: Any,
) -> RolloutEngine:
    options = EngineOptions(
        args.kernel, args.kv_cache, args.weights, args.steps_per_dispatch, args.prefill_tokens
    )
    return RolloutEngine(
        model,
        mesh,
        ids,
        slots=args.slots,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=args.max_new,
        dtype=dtype,
        options=options,
    )


def _dtype(name: str) -> Any:
    if name == "auto":
        return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(name).type


def _show(record: dict[str, Any]) -> None:
    rounded = {
        k: float(f"{v:.6g}") if isinstance(v, (float, np.floating)) else v
        for k, v in record.items()
    }
    print(json.dumps(rounded), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gopd_jax.benchmark",
        description="Measure a part of the project; JSON lines on stdout, progress on stderr.",
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    part = parser.add_subparsers(dest="part", required=True, metavar="PART").add_parser(
        "rollout",
        help="sampling: tokens per second, slot utilisation, bytes, compilations",
        description="Sampling with the rollout engine: tokens per second, slot utilisation, bytes, compilations.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    defaults = EngineOptions()
    add = part.add_argument
    add(
        "--model",
        required=True,
        help="Hugging Face folder or hub id; config.json is enough with --random-weights",
    )
    add("--random-weights", action="store_true", help="draw the weights instead of reading them")
    add(
        "--workload",
        choices=["random", "chat"],
        default="random",
        help="random ids, or questions in the chat template",
    )
    add(
        "--prompt-file",
        default="",
        help='chat: a JSON-lines file with a "question" in each row, such as GSM8K',
    )
    add("--prompts", type=int, default=256, help="how many")
    add(
        "--prompt-tokens",
        type=int,
        default=128,
        help="random: the longest prompt; the shortest has half of that",
    )
    add("--samples", type=int, default=1, help="answers to each prompt")
    add(
        "--mean",
        type=int,
        default=64,
        help="mean answer length, before the limit, with random weights",
    )
    add("--max-new", type=int, default=256, help="limit of an answer")
    add("--slots", type=int, default=64, help="answers drawn at once")
    add("--temperature", type=float, default=1.0, help="0 is greedy")
    add("--top-k", type=int, default=0, help="0: off")
    add("--top-p", type=float, default=1.0, help="1: off")
    add("--runs", type=int, default=3, help="runs after the warm-up; medians at the end")
    add(
        "--score",
        action="store_true",
        help="compare the sampler's log-probs with the learner's scorer",
    )
    add(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: bfloat16 on accelerators",
    )
    add("--kernel", default=defaults.kernel, help="auto, xla, pallas_tpu or pallas_gpu")
    add("--kv-cache", default=defaults.kv_cache, help="compute (the compute dtype) or int8")
    add("--weights", default=defaults.weights, help="compute (the compute dtype) or int8")
    add(
        "--steps-per-dispatch",
        type=int,
        default=defaults.steps_per_dispatch,
        help="tokens of a slot between two schedules",
    )
    add(
        "--prefill-tokens",
        type=int,
        default=defaults.prefill_tokens,
        help="prompt tokens of one prefill program",
    )
    add(
        "--data",
        type=int,
        default=1,
        help="devices on the mesh's data axis; fsdp takes what is left",
    )
    add("--tensor", type=int, default=1, help="devices on the mesh's tensor axis")
    add(
        "--topology",
        default="",
        help="compile for this TPU slice, e.g. v5e:8x8, and run nothing (needs libtpu)",
    )
    part.set_defaults(run=rollout)
    args = parser.parse_args(argv)
    try:
        if args.workload == "chat" and not args.prompt_file:
            raise ValueError("--workload=chat wants --prompt-file=FILE.jsonl")
        args.run(args)
    except (ValueError, OSError) as e:
        say(f"error: {e}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
