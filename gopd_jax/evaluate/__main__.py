"""Command: a model's score on benchmarks, sampled by the rollout engine and verified: avg@k, pass@k, majority@k with intervals.

python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=math --data=benchmarks --out=results
"""

import argparse
import contextlib
import dataclasses
import os
from pathlib import Path
import sys
from typing import Any

from gopd_jax.evaluate import suites
from gopd_jax.evaluate.grading import Grader
from gopd_jax.evaluate.scores import check_comparable, compare, read_results, score
from gopd_jax.evaluate.suites import KNOWN, SUITES
from gopd_jax.evaluate.table import table
from gopd_jax.generate.job import (
    Output,
    Parser,
    Wanted,
    add_sampling_options,
    add_work_options,
    check_numbers,
    draw,
    make_job,
    run,
    speed_of,
)
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.progress import say

MAX_TOKENS = 16384  # default: the paper's
VERIFIER_MEMORY_MB = 1024  # of a program; tests of LiveCodeBench want more than those of training
# What may change when a command is resumed; paths and prompts have fingerprints beside them.
FREE = (
    "model",
    "suite",
    "data",
    "samples",
    "reward",
    "prompt_suffix",
    "compare",
    "verifiers",
    "slots",
    "tensor",
)

NAMES = [name for name in KNOWN if not name.startswith("tiny:")]

DESCRIPTION = """\
Score a Hugging Face model on benchmarks: draw k samples of each problem, verify them, and say how sure the score is.

examples:
  python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=math --data=benchmarks --out=results/base
  python -m gopd_jax.evaluate --model=runs/export --suite=math --data=benchmarks --out=results/ours --compare=results/base
  python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=aime24,mine.jsonl --data=benchmarks --samples=8 --out=results/few
"""
EPILOG = f"""\
SUITE: one or more of these, with commas between:
  math        {", ".join(SUITES["math"])}
  code        {", ".join(SUITES["code"])}
  a name      {", ".join(NAMES[:7])},
              {", ".join(NAMES[7:])}
  a file      .jsonl, .jsonl.gz or .parquet, each row a problem with its ground truth, or hf://datasets/OWNER/NAME/PATH of one
              on the Hugging Face hub; or tiny:math/test, tiny:code/test
Files of known names are looked for in --data: aime24.jsonl, HumanEvalPlus.jsonl and so on, also with .gz.

OUT: samples.jsonl, one line for each sample: benchmark, prompt_id, sample_id, text, tokens (their number), finish_reason
("stop" or "length"), answer (the last \\boxed{{}}, or the program; null if there is none), reward (0 or 1), verdict ("correct",
"wrong", "no answer", "timeout", "memory" or "error: ..."). results.json: the figures of the table, each problem's score,
settings, versions, speed.

The table: avg@k, the share of right samples, with its 95% interval over problems (the samples of one problem are not
independent); pass@k, the chance that one of k samples is right; maj@k, of the answer given most often (ties: the chance of a
uniform choice), math only. A sample without an answer counts as wrong. A problem over a limit is not drawn: it is reported,
counted, and not in the mean. An average over benchmarks gives each the same weight.

--compare: the difference to an earlier evaluation of the same problems, paired by problem; its k and seed may be others.

The same command again goes on where it was stopped. A sample depends on the seed, its prompt, prompt id and number alone.

Exit status: 0 done, 2 wrong command, problems or model, 130 stopped by Ctrl-C. JAX_PLATFORMS=cpu keeps it off an accelerator.
"""


def evaluate(args: argparse.Namespace) -> None:
    """Runs a command from wherever its output stands."""
    check_numbers(args)
    if not 0 < args.verifier_timeout < float("inf"):
        raise ValueError(f"--verifier-timeout={args.verifier_timeout}: wanted seconds above 0")
    other = read_results(args.compare) if args.compare else None
    options = {"reward": args.reward, "samples": args.samples, "suffix": args.prompt_suffix}
    benchmarks = suites.load(args.suite, args.data, **options)
    wanted = [Wanted(prompt, b.samples) for b in benchmarks for prompt in b.prompts]
    job = make_job(args, wanted, f"--suite={args.suite}", MAX_TOKENS)
    effective = {
        "benchmarks": {
            b.name: {"source": Path(b.source).name, "reward": b.reward, "samples": b.samples}
            for b in benchmarks
        },
        "problems_fingerprint": suites.fingerprint(benchmarks),
    }
    job = dataclasses.replace(job, settings=job.settings | effective)
    if other is not None:
        check_comparable(benchmarks, job.skipped, other, args.compare)

    records: list[dict[str, Any]] = []
    folder, drawn = Path(args.out), {}
    output = Output(
        folder / "samples.jsonl",
        folder / "results.json",
        job,
        FREE,
        lambda r: records.append(_light(r)),
    )
    with (
        contextlib.closing(output),
        Verifier(args.verifiers, args.verifier_timeout, VERIFIER_MEMORY_MB) as verify,
    ):
        if not output.complete:
            output.open({"complete": False, "skipped": job.skipped})
        if output.missing:
            with Grader(verify, job.tokenizer, benchmarks, output.write) as grader:
                drawn = draw(
                    job,
                    output.missing,
                    "evaluate",
                    grader.take if output.on else lambda rollout: None,
                )
        if not output.on:
            return
        if output.complete:
            results = read_results(args.out)
        else:
            results = {"complete": True, "model": args.model} | score(
                benchmarks, records, job.skipped, verify
            )
            results |= {"skipped": job.skipped, "drawn": drawn}
        if other is not None:
            results["comparison"] = compare(results, other, args.compare)
        if other is not None or not output.complete:
            output.summarise(results)
    print(table(results))
    say(
        f"{folder}: {len(records)} samples, {sum(r['tokens'] for r in records)} tokens; {speed_of(drawn)}"
    )


def _light(record: dict[str, Any]) -> dict[str, Any]:
    """What the scores are made of; texts stay on disk."""
    names = ("benchmark", "prompt_id", "tokens", "finish_reason", "answer", "reward", "verdict")
    return {name: record[name] for name in names}


def _parser() -> Parser:
    parser = Parser(
        prog="python -m gopd_jax.evaluate",
        usage="%(prog)s --model=MODEL --suite=SUITE --out=FOLDER [--data=FOLDER] [--compare=FOLDER] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    add = parser.add_argument_group("what is scored").add_argument
    add("--model", required=True, help="Hugging Face folder or hub id")
    add("--suite", required=True, help="benchmarks by name or file, see below")
    add(
        "--data",
        default="",
        metavar="FOLDER",
        help="where the files of benchmarks given by name are",
    )
    add("--out", required=True, metavar="FOLDER", help="results to write, or to go on with")
    add(
        "--compare",
        default="",
        metavar="FOLDER",
        help="--out of an earlier evaluation of the same problems",
    )
    add(
        "--samples",
        type=int,
        metavar="K",
        help="samples of each problem (default: the paper's, math 32, code 4)",
    )
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help=f"response limit (default: {MAX_TOKENS}, or half what the model takes)",
    )
    add(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="prompt limit, template included (default: the longest prompt's)",
    )
    suffix_help = "appended to each prompt (default: for math, unless the prompt does, asks for steps and a \\boxed{} answer)"
    add("--prompt-suffix", metavar="TEXT", help=suffix_help)
    reward_help = "how a file of no known name is verified (default: code where the ground truth is a test specification)"
    add("--reward", choices=["auto", "math", "code"], default="auto", help=reward_help)
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="another seed, other samples (default: %(default)s)",
    )
    add_sampling_options(parser)
    add = add_work_options(parser)
    workers = max(1, (os.cpu_count() or 2) // 2)
    add(
        "--verifiers",
        type=int,
        default=workers,
        metavar="N",
        help="processes that verify (default: half the CPU cores)",
    )
    limit_help = "seconds for one answer, all its tests together; LiveCodeBench has 6 for each test (default: %(default)s)"
    add("--verifier-timeout", type=float, default=10.0, metavar="S", help=limit_help)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(evaluate, _parser().parse_args(argv))


if __name__ == "__main__":
    start_processes()
    sys.exit(main())
