"""The generate command after its options are parsed: prompts -> samples -> file and summary."""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from gopd_jax.generate.job import draw, make_job, speed
from gopd_jax.generate.options import DEFAULT_MAX_TOKENS
from gopd_jax.generate.prompts import read_prompts
from gopd_jax.generate.samples_file import Record, SamplesFile
from gopd_jax.runtime.compilation_cache import use_compilation_cache
from gopd_jax.runtime.files import check_output
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.progress import result, result_width
from gopd_jax.runtime.tables import folded
from gopd_jax.types import Rollout

# May change when a command is resumed; the two paths have fingerprints in their place.
MAY_CHANGE = ("model", "prompt_file", "slots", "tensor")


def generate(args: argparse.Namespace) -> None:
    """Runs the command from wherever its output stands.

    Raises:
        ValueError: an option, the prompts, the model or the output is wrong.
    """
    start_processes()
    use_compilation_cache()
    check_output("--out", args.out)
    prompts = read_prompts(args.prompt_file, args.samples_per_prompt)
    job = make_job(args, prompts, f"--prompt-file={args.prompt_file}", DEFAULT_MAX_TOKENS)
    counts = {"samples": 0, "tokens": 0, "truncated": 0}

    def count(record: Record) -> None:
        counts["samples"] += 1
        counts["tokens"] += len(record["tokens"])
        counts["truncated"] += record["finish_reason"] == "length"

    def summary(complete: bool, drawn: dict[str, Any]) -> Record:
        drawable = {r.key.prompt_id for r in job.requests}
        begin = {"complete": complete, "prompts": len(drawable)}
        return begin | counts | {"skipped": job.skipped, "drawn": drawn}

    def take(rollout: Rollout) -> None:
        prompt_id, sample_id = rollout.request.key
        record = {
            "prompt_id": prompt_id,
            "sample_id": sample_id,
            "text": job.tokenizer.decode(rollout.tokens),
            "tokens": rollout.tokens.tolist(),
            "logprobs": [round(float(x), 6) for x in rollout.behaviour_logprobs],
            "finish_reason": rollout.finish_reason,
        }
        file.write(record)

    path = Path(args.out)
    drawn: dict[str, Any] = {}
    with contextlib.closing(
        SamplesFile(
            path, path.with_suffix(".summary.json"), job.requests, job.settings, MAY_CHANGE, count
        )
    ) as file:
        if not file.complete:
            _ = job.engine  # whatever is wrong with its options is found before files are written
            file.begin(summary(False, {}))
            drawn = draw(job, file.missing, "generate", take) if file.missing else {}
            file.write_summary(summary(True, drawn))
    what = f"{path}: {counts['samples']} samples, {counts['tokens']} tokens"
    text = f"{what}; {speed(drawn)}; {len(job.skipped)} prompts skipped"
    result(
        folded(text, result_width()),
        {"out": str(path)} | summary(True, drawn),
    )
