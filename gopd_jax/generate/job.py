"""Prompts and options -> a checked job -> samples.

In: the parsed options of `options.py` and `PromptSamples`. Out: a `Job`, and the rollouts it draws.
`gopd_jax.generate` and `gopd_jax.evaluate` decide which prompts there are and what becomes of a
rollout. Does not write files and does not verify.
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import hashlib
import json
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from gopd_jax.data.encode import chat_of
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.generate.options import DEFAULT_SLOTS, engine_options, sampling_rule
from gopd_jax.models.config import ModelConfig, load_config
from gopd_jax.models.decoder import param_shardings
from gopd_jax.models.huggingface import check_tensors, load_params, weights_fingerprint
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.memory import cache_part, choose_layout, weights_part
from gopd_jax.runtime.memory import check_fits, device_memory
from gopd_jax.runtime.mesh import compute_dtype, make_mesh, slots_multiple
from gopd_jax.runtime.progress import Bar, say
from gopd_jax.types import EncodedPrompt, Params, Prompt, Request, Rollout


@dataclasses.dataclass(frozen=True)
class PromptSamples:
    """A prompt, the number of its samples, and its own response limit (None: the command's)."""

    prompt: Prompt
    samples: int
    max_tokens: int | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """A command that was found right, before any weights are read.

    model: the model folder or hub id.
    make_engine: makes the engine; raises ValueError for options that do not go together.
    requests: the samples of one prompt stand together.
    skipped: by prompt id, why a prompt is not drawn.
    settings: every option with the value in effect, and fingerprints of weights and prompts.
    """

    model: str
    make_engine: Callable[[], RolloutEngine]
    tokenizer: ChatTokenizer
    rule: SamplingRule
    requests: Sequence[Request]
    skipped: dict[str, str]
    settings: dict[str, Any]

    @functools.cached_property
    def engine(self) -> RolloutEngine:
        """Made when it is first asked for: it says which kernels it has chosen."""
        return self.make_engine()


def make_job(
    args: argparse.Namespace,
    prompts: Sequence[PromptSamples],
    source: str,
    default_max_tokens: int,
) -> Job:
    """Finds everything that can be wrong with a command, and says which prompts are skipped.

    Args:
        args: what the options of `options.py` and "model" parse to.
        prompts: what is drawn.
        source: the option that the prompts come from, for errors.
        default_max_tokens: the response limit without --max-response-tokens.

    Raises:
        ValueError: names the value and what was expected.
    """
    rule = sampling_rule(args)
    model = load_config(args.model)
    tokenizer = ChatTokenizer.load(
        args.model,
        extra_stop_ids=args.extra_stop_ids,
        template_kwargs=args.template_kwargs or {},
    )
    tokenizer.check_fits(f"--model={args.model}", model.vocab_size)
    ids_of = tokenizer.encode_chats([chat_of(p.prompt, p.prompt.messages) for p in prompts])
    encoded = [EncodedPrompt(p.prompt, t) for p, t in zip(prompts, ids_of, strict=True)]
    longest = max(len(e.tokens) for e in encoded)
    max_prompt_tokens, max_tokens = _limits(args, model, longest, default_max_tokens)
    requests, skipped = _requests(prompts, encoded, max_prompt_tokens, max_tokens)
    if not requests:
        name, reason = next(iter(skipped.items()))
        raise ValueError(
            f"{source}: none of {len(encoded)} prompts is within the limits; the first, {name!r}, "
            f"{reason}"
        )
    for name, reason in skipped.items():
        say(f"skipped: prompt {name!r} {reason}")

    check_tensors(args.model, model)
    mesh = make_mesh(tensor=args.tensor)
    slots = args.slots or _slots(len(requests), slots_multiple(mesh))
    make_engine = functools.partial(
        RolloutEngine,
        model,
        mesh,
        tokenizer.stop_ids,
        slots=slots,
        max_prompt_tokens=max_prompt_tokens,
        max_response_tokens=max_tokens,
        num_ids=tokenizer.num_ids,
        dtype=compute_dtype(args.compute_dtype),
        options=engine_options(args),
        room=device_memory(mesh),
    )
    _check_memory(args, model, mesh, slots, max_prompt_tokens + max_tokens)
    settings = {name: value for name, value in vars(args).items() if name != "out"} | {
        "max_response_tokens": max_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "slots": slots,
        "stop_ids": list(tokenizer.stop_ids),
        "compute_dtype": np.dtype(compute_dtype(args.compute_dtype)).name,
        "model_fingerprint": weights_fingerprint(args.model),
        "prompts_fingerprint": _fingerprint(prompts, encoded),
    }
    return Job(args.model, make_engine, tokenizer, rule, requests, skipped, settings)


def load_weights(engine: RolloutEngine, folder: str, number: int = 0) -> Params:
    """Reads the parameters of a model folder as decode weights of the engine's model `number`."""
    model = engine.models[number].config
    shardings = param_shardings(model, engine.mesh)
    return engine.sync_weights(load_params(folder, model, engine.dtype, shardings), number)


def draw(
    job: Job, missing: Sequence[Request], title: str, take: Callable[[Rollout], None]
) -> dict[str, Any]:
    """Loads the model and draws the missing samples.

    Args:
        missing: the requests that are drawn, of those of the job.
        title: of the progress bar.
        take: called with each rollout as soon as it is finished.

    Returns:
        Counts of samples and tokens, seconds, speed, slot utilisation, compilations.
    """
    engine, total = job.engine, len(job.requests)
    weights = jax.block_until_ready(load_weights(engine, job.model))
    start, seconds = time.perf_counter(), 0.0
    with Bar(title, total, "samples", total - len(missing)) as bar:
        for rollout in engine(weights, missing, jax.random.key(job.settings["seed"]), job.rule):
            take(rollout)
            seconds = time.perf_counter() - start
            bar.advance(1, f"{engine.stats.tokens / seconds:.0f} tokens/s")
    return {
        "samples": engine.stats.samples,
        "tokens": engine.stats.tokens,
        "prompt_tokens": engine.stats.prompt_tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(engine.stats.tokens / seconds, 1),
        "slot_utilisation": round(engine.stats.utilisation, 4),
        "programs_compiled": len(engine.programs.programs),
        "compile_seconds": round(sum(p.compile_seconds for p in engine.programs.programs), 3),
    }


def speed(drawn: dict[str, Any]) -> str:
    """The speed in what `draw` returned, in words; {} stands for nothing drawn."""
    if not drawn:
        return "complete already, nothing was drawn"
    return f"{drawn['tokens_per_second']} tokens/s, compilation included"


def _check_memory(
    args: argparse.Namespace, model: ModelConfig, mesh: Mesh, slots: int, columns: int
) -> None:
    """Raises ValueError, with the arithmetic, when a device cannot hold weights and cache."""
    dtype, options = compute_dtype(args.compute_dtype), engine_options(args)
    shape = {"slots": slots, "max_tokens": columns, "dtype": dtype, "options": options}
    memory = device_memory(mesh)
    gathered = choose_layout(model, mesh, **shape, room=memory).gathered
    weights = weights_part(model, mesh, dtype, options, f"--model={args.model}", gathered)
    cache = cache_part(model, mesh, **shape, setting=f"--slots={slots}")
    check_fits([weights, cache], mesh, memory)


def _limits(
    args: argparse.Namespace, model: ModelConfig, longest: int, default_max_tokens: int
) -> tuple[int, int]:
    """Prompt and response limit in effect: together at most the positions of the model."""
    positions = model.max_positions
    max_tokens = args.max_response_tokens or min(default_max_tokens, positions // 2)
    if max_tokens >= positions:
        raise ValueError(
            f"--max-response-tokens={max_tokens}: expected less than the {positions} positions of "
            f"{args.model}"
        )
    max_prompt_tokens = args.max_prompt_tokens or min(longest, positions - max_tokens)
    if max_prompt_tokens + max_tokens > positions:
        raise ValueError(
            f"--max-prompt-tokens={max_prompt_tokens} and --max-response-tokens={max_tokens}: "
            f"expected at most {positions} together, the positions of {args.model}"
        )
    return max_prompt_tokens, max_tokens


def _requests(
    prompts: Sequence[PromptSamples],
    encoded: Sequence[EncodedPrompt],
    max_prompt_tokens: int,
    max_tokens: int,
) -> tuple[list[Request], dict[str, str]]:
    """The requests of the prompts within the limits; and, by prompt id, why others are skipped."""
    requests: list[Request] = []
    skipped: dict[str, str] = {}
    for p, e in zip(prompts, encoded, strict=True):
        limit = p.max_tokens or max_tokens
        if len(e.tokens) > max_prompt_tokens:
            reason = (
                f"has {len(e.tokens)} tokens: expected at most {max_prompt_tokens} "
                "(--max-prompt-tokens, or what --max-response-tokens leaves)"
            )
        elif limit > max_tokens:
            reason = (
                f"asks for max_response_tokens={limit}: expected at most "
                f"--max-response-tokens={max_tokens}"
            )
        else:
            requests.extend(Request(e, i, limit) for i in range(p.samples))
            continue
        skipped[p.prompt.prompt_id] = reason
    return requests, skipped


def _slots(requests: int, shards: int) -> int:
    """A slot for each sample, up to the default, in a multiple of `shards`."""
    return -(-min(DEFAULT_SLOTS, requests) // shards) * shards


def _fingerprint(prompts: Sequence[PromptSamples], encoded: Sequence[EncodedPrompt]) -> str:
    """sha256 hex of the prompts' ids, tokens and own limits, in order."""
    content = [
        [p.prompt.prompt_id, e.tokens.tolist(), p.max_tokens]
        for p, e in zip(prompts, encoded, strict=True)
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
