"""The evaluate command after its options are parsed: problems -> samples -> verdicts -> figures."""

import argparse
import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any

from gopd_jax.data.verifying import try_reward
from gopd_jax.evaluate import suites
from gopd_jax.evaluate.catalog import DEFAULT_MAX_TOKENS
from gopd_jax.evaluate.grading import Grader
from gopd_jax.evaluate.scores import check_comparable, compare, read_results, score
from gopd_jax.evaluate.suites import Benchmark
from gopd_jax.evaluate.table import table
from gopd_jax.generate.job import Job, PromptSamples, draw, make_job, speed
from gopd_jax.generate.samples_file import Record, SamplesFile
from gopd_jax.rewards.own import is_own
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.compilation_cache import use_compilation_cache
from gopd_jax.runtime.files import check_output
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.progress import result, result_width, say
from gopd_jax.types import Rollout

# MiB for a program under test: the tests of LiveCodeBench need more than those of training.
VERIFIER_MEMORY_MB = 1024
# May change when a command is resumed. Paths and prompts have fingerprints in their place, and the
# samples and rewards in effect are listed by benchmark.
MAY_CHANGE = (
    "model",
    "suite",
    "benchmark_dir",
    "samples_per_prompt",
    "reward",
    "prompt_suffix",
    "compare",
    "verifier_workers",
    "slots",
    "tensor",
)
# What the figures are computed from; the texts stay on disk.
KEPT = (
    "benchmark",
    "prompt_id",
    "tokens",
    "finish_reason",
    "answer",
    "reward",
    "verdict",
    "reward_metrics",
)


def evaluate(args: argparse.Namespace) -> None:
    """Runs the command from wherever its output stands.

    Raises:
        ValueError: an option, the problems, the model or the output is wrong.
    """
    start_processes()
    use_compilation_cache()
    check_output("--out", os.path.join(args.out, "samples.jsonl"))
    other = read_results(args.compare) if args.compare else None
    options = {
        "reward": args.reward,
        "samples": args.samples_per_prompt,
        "suffix": args.prompt_suffix,
    }
    benchmarks = suites.load(args.suite, args.benchmark_dir, **options)
    job = _job(args, benchmarks, _own_sources(args, benchmarks))
    if other is not None:
        check_comparable(benchmarks, job.skipped, other, args.compare)

    records: list[Record] = []
    folder = Path(args.out)
    drawn: dict[str, Any] = {}
    file = SamplesFile(
        folder / "samples.jsonl",
        folder / "results.json",
        job.requests,
        job.settings,
        MAY_CHANGE,
        seen=lambda record: records.append({n: v for n, v in record.items() if n in KEPT}),
    )
    verifier = Verifier(args.verifier_workers, args.verifier_timeout_s, VERIFIER_MEMORY_MB)
    with contextlib.closing(file), verifier as verify:
        if not file.complete:
            _ = job.engine  # whatever is wrong with its options is found before files are written
            file.begin({"complete": False, "skipped": job.skipped})
        if file.missing:
            with Grader(verify, job.tokenizer, benchmarks, file.write) as grader:
                take = grader.take if file.writes else _ignore
                drawn = draw(job, file.missing, "evaluate", take)
        if not file.writes:
            return
        if file.complete:
            results = read_results(args.out)
        else:
            results = {"complete": True, "model": args.model}
            results |= score(benchmarks, records, job.skipped, verify)
            results |= {"skipped": job.skipped, "drawn": drawn}
        if other is not None:
            results["comparison"] = compare(results, other, args.compare)
        if other is not None or not file.complete:
            file.write_summary(results)
    tokens = sum(r["tokens"] for r in records)
    say(f"{folder}: {len(records)} samples, {tokens} tokens; {speed(drawn)}")
    result(table(results, result_width()), {"out": args.out} | results)


def _own_sources(args: argparse.Namespace, benchmarks: list[Benchmark]) -> dict[str, str]:
    """sha256 hex of the module of a reward function of the user, tried on the first problem."""
    own = {b.reward: b.prompts[0] for b in benchmarks if is_own(b.reward)}
    with Verifier(1, args.verifier_timeout_s, VERIFIER_MEMORY_MB) as verify:
        for reward, prompt in own.items():
            try_reward(reward, prompt, verify)
        return {reward: verify.source(reward) for reward in own}


def _job(
    args: argparse.Namespace, benchmarks: list[Benchmark], reward_sources: dict[str, str]
) -> Job:
    """The job, its settings extended by what decides the verdicts."""
    prompts = [PromptSamples(prompt, b.samples) for b in benchmarks for prompt in b.prompts]
    job = make_job(args, prompts, f"--suite={args.suite}", DEFAULT_MAX_TOKENS)
    in_effect = {
        "benchmarks": {
            b.name: {"source": Path(b.source).name, "reward": b.reward, "samples": b.samples}
            for b in benchmarks
        },
        "problems_fingerprint": suites.fingerprint(benchmarks),
    }
    if reward_sources:
        in_effect["reward_sources"] = reward_sources
    return dataclasses.replace(job, settings=job.settings | in_effect)


def _ignore(rollout: Rollout) -> None:
    """The other hosts draw with the first one, which alone verifies and writes."""
