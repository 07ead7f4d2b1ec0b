"""Command: samples and log-probs from a Hugging Face model, drawn by the rollout engine; no training.

python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompts=prompts.jsonl --samples=4 --out=samples.jsonl
"""

import argparse
import json
from pathlib import Path
import sys
from typing import Any

from etils import epath

from gopd_jax.data import rows
from gopd_jax.generate.job import (
    Output,
    Parser,
    Wanted,
    add_sampling_options,
    add_work_options,
    check_numbers,
    draw,
    make_job,
    name_of,
    run,
    speed_of,
)
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.progress import say
from gopd_jax.types import Prompt, Rollout

MAX_TOKENS = 1024  # default
FREE = (
    "model",
    "prompts",
    "slots",
    "tensor",
)  # may change when a command is resumed; the paths have fingerprints beside them
UNVERIFIED = {"ground_truth": "none"}  # the reader of data sets wants one

DESCRIPTION = """\
Draw samples from a Hugging Face model, with the log-prob of every token.

example:
  cat > prompts.jsonl <<END
  {"prompt": "What is 17 * 23?"}
  {"prompt_id": "haiku", "messages": [{"role": "user", "content": "A haiku on rain."}], "max_tokens": 64}
  END
  python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompts=prompts.jsonl --samples=4 --out=samples.jsonl
"""
EPILOG = """\
PROMPTS: JSON lines, each with "messages" (a chat: role and content) or "prompt" (the text of one user message). Optional:
"prompt_id" (unique; default line-N, N the line number) and "max_tokens" (the response limit of this prompt). The chat template
of the model is applied. A prompt over a limit is reported and skipped.

OUT: JSON lines, one for each sample as soon as it is finished, in any order: prompt_id, sample_id (0 to samples - 1), text
(without special tokens), tokens (ids, the stop token included), logprobs (one for each token, nats, of the distribution that it
was drawn from: after temperature, top-k and top-p), finish_reason ("stop" or "length"). Beside it, OUT with the suffix
.summary.json: settings, versions, counts, skipped prompts, speed.

The same command again goes on where it was stopped: what is in OUT stays. A sample depends on the seed, its prompt, prompt_id
and sample_id alone, so that it is the same one whether or not the command was interrupted.

Exit status: 0 done, 2 wrong command, prompts or model, 130 stopped by Ctrl-C. JAX_PLATFORMS=cpu keeps it off an accelerator.
"""


def read_prompts(path: str, samples: int = 1) -> list[Wanted]:
    """The prompts of a file of JSON lines.

    Raises:
        ValueError: no such file, no prompts, or a row that is malformed or has a taken prompt id; names file and line.
    """
    if not epath.Path(path).is_file():
        raise ValueError(f"--prompts={path}: no such file")
    prompts, taken = [], {}
    with epath.Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                prompts.append(_parse(line, f"line-{number}", samples))
            except ValueError as e:
                raise ValueError(f"{path}:{number}: {e}") from e
            name = prompts[-1].prompt.prompt_id
            if taken.setdefault(name, number) != number:
                raise ValueError(
                    f"{path}:{number}: prompt_id {name!r} is already taken by line {taken[name]}"
                )
    if not prompts:
        raise ValueError(f"--prompts={path}: no rows")
    return prompts


def _parse(line: bytes, default_id: str, samples: int) -> Wanted:
    try:
        raw = json.loads(line.strip())
    except ValueError as e:
        raise ValueError(f"not valid JSON: {e}") from e
    if not isinstance(raw, dict) or all(raw.get(key) is None for key in ("messages", "prompt")):
        raise ValueError(
            f'wanted an object with "messages" or "prompt", found {list(raw) if isinstance(raw, dict) else raw!r}'
        )
    row = rows.parse(raw | UNVERIFIED, default_id)
    limit = raw.get("max_tokens")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ValueError(f"max_tokens={limit!r}: wanted an integer >= 1")
    return Wanted(Prompt(row["prompt_id"], tuple(row["messages"]), "", ""), samples, limit)


def generate(args: argparse.Namespace) -> None:
    """Runs a command from wherever its output stands."""
    check_numbers(args)
    job = make_job(
        args, read_prompts(args.prompts, args.samples), f"--prompts={args.prompts}", MAX_TOKENS
    )
    prompts = len({r.key.prompt_id for r in job.requests})
    counts = {"samples": 0, "tokens": 0, "truncated": 0}

    def count(record: dict[str, Any]) -> None:
        counts["samples"] += 1
        counts["tokens"] += len(record["tokens"])
        counts["truncated"] += record["finish_reason"] == "length"

    def summary(complete: bool, drawn: dict[str, Any]) -> dict[str, Any]:
        return {
            "complete": complete,
            "prompts": prompts,
            **counts,
            "skipped": job.skipped,
            "drawn": drawn,
        }

    def take(rollout: Rollout) -> None:
        prompt_id, sample_id = name_of(rollout.request)
        record = {
            "prompt_id": prompt_id,
            "sample_id": sample_id,
            "text": job.tokenizer.decode(rollout.tokens),
            "tokens": rollout.tokens.tolist(),
            "logprobs": [round(float(x), 6) for x in rollout.behaviour_logprobs],
            "finish_reason": rollout.finish_reason,
        }
        output.write(record)

    path, drawn = Path(args.out), {}
    output = Output(path, path.with_suffix(".summary.json"), job, FREE, count)
    try:
        if not output.complete:
            output.open(summary(False, {}))
            drawn = draw(job, output.missing, "generate", take) if output.missing else {}
            output.summarise(summary(True, drawn))
        what = f"{path}: {counts['samples']} samples, {counts['tokens']} tokens"
        say(f"{what}; {speed_of(drawn)}; {len(job.skipped)} prompts skipped")
    finally:
        output.close()


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gopd_jax.generate",
        usage="%(prog)s --model=MODEL --prompts=FILE.jsonl --out=FILE.jsonl [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add = parser.add_argument_group("what is drawn").add_argument
    add("--model", required=True, help="Hugging Face folder or hub id")
    add("--prompts", required=True, metavar="FILE", help="JSON lines of prompts, see below")
    add(
        "--out",
        required=True,
        metavar="FILE",
        help="JSON lines of samples to write, or to go on with",
    )
    add(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="samples of each prompt (default: %(default)s)",
    )
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help=f"response limit (default: {MAX_TOKENS}, or half the model's positions)",
    )
    add(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="prompt limit, template included (default: the longest prompt's)",
    )
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="another seed, other samples (default: %(default)s)",
    )
    add_sampling_options(parser)
    add_work_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(generate, _parser().parse_args(argv))


if __name__ == "__main__":
    start_processes()
    sys.exit(main())
