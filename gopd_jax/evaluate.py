"""Command: a model's score on benchmarks, sampled by the rollout engine and verified: avg@k, pass@k, majority@k with intervals.

python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=math --data=benchmarks --out=results
"""

import argparse
from collections import Counter
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import sys
from typing import Any

import numpy as np

from gopd_jax import suites
from gopd_jax.grading import Grader, vote
from gopd_jax.rewards import Verifier
from gopd_jax.runtime.processes import start_processes
from gopd_jax.runtime.progress import say
from gopd_jax.sampling_job import (
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
from gopd_jax.score_table import table
from gopd_jax.statistics import Estimate, accuracy, difference, ks_up_to, pass_at_k
from gopd_jax.suites import KNOWN, SUITES, Benchmark

MAX_TOKENS = 16384  # default: the paper's
VERIFIER_MEMORY_MB = 1024  # of a program; tests of LiveCodeBench want more than those of training
# What may change when a command is resumed; paths and prompts have fingerprints beside them.
FREE = ("model", "suite", "data", "samples", "reward", "prompt_suffix", "compare", "verifiers", "slots", "tensor")

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
        "benchmarks": {b.name: {"source": Path(b.source).name, "reward": b.reward, "samples": b.samples} for b in benchmarks},
        "problems_fingerprint": suites.fingerprint(benchmarks),
    }
    job = dataclasses.replace(job, settings=job.settings | effective)
    if other is not None:
        check_comparable(benchmarks, job.skipped, other, args.compare)

    records: list[dict[str, Any]] = []
    folder, drawn = Path(args.out), {}
    output = Output(folder / "samples.jsonl", folder / "results.json", job, FREE, lambda r: records.append(_light(r)))
    with contextlib.closing(output), Verifier(args.verifiers, args.verifier_timeout, VERIFIER_MEMORY_MB) as verify:
        if not output.complete:
            output.open({"complete": False, "skipped": job.skipped})
        if output.missing:
            with Grader(verify, job.tokenizer, benchmarks, output.write) as grader:
                drawn = draw(job, output.missing, "evaluate", grader.take if output.on else lambda rollout: None)
        if not output.on:
            return
        if output.complete:
            results = read_results(args.out)
        else:
            results = {"complete": True, "model": args.model} | score(benchmarks, records, job.skipped, verify)
            results |= {"skipped": job.skipped, "drawn": drawn}
        if other is not None:
            results["comparison"] = compare(results, other, args.compare)
        if other is not None or not output.complete:
            output.summarise(results)
    print(table(results))
    say(f"{folder}: {len(records)} samples, {sum(r['tokens'] for r in records)} tokens; {speed_of(drawn)}")


def _light(record: dict[str, Any]) -> dict[str, Any]:
    """What the scores are made of; texts stay on disk."""
    names = ("benchmark", "prompt_id", "tokens", "finish_reason", "answer", "reward", "verdict")
    return {name: record[name] for name in names}


def score(
    benchmarks: list[Benchmark], records: list[dict[str, Any]], skipped: dict[str, str], verify: Verifier
) -> dict[str, Any]:
    """The figures of every benchmark and of their averages."""
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_prompt.setdefault(record["prompt_id"], []).append(record)
    scores = {b.name: _score_one(b, by_prompt, skipped, verify) for b in benchmarks}
    averages = {
        label: accuracy([_values(scores[name]) for name in names]).to_json() | {"benchmarks": names}
        for label, names in averaged(scores).items()
    }
    return {"benchmarks": scores, "averages": averages}


def _score_one(
    benchmark: Benchmark, by_prompt: dict[str, list[dict[str, Any]]], skipped: dict[str, str], verify: Verifier
) -> dict[str, Any]:
    drawn = [p.prompt_id for p in benchmark.prompts if p.prompt_id not in skipped]
    k, counts = benchmark.samples, {name: sum(int(r["reward"]) for r in by_prompt[name]) for name in drawn}
    result = {
        "reward": benchmark.reward,
        "samples": k,
        "problems": len(drawn),
        "skipped": len(benchmark.prompts) - len(drawn),
        "by_problem": {name: {"score": counts[name] / k, "problem": benchmark.hashes[name]} for name in drawn},
    }
    if not drawn:
        return result
    ours = [r for name in drawn for r in by_prompt[name]]
    result["avg"] = accuracy([_values(result)]).to_json()
    result["pass"] = {str(i): accuracy([[pass_at_k(k, c, i) for c in counts.values()]]).to_json() for i in ks_up_to(k)}
    if benchmark.reward == "math":
        votes = []
        for name in drawn:
            wrong = [r["answer"] for r in by_prompt[name] if not r["reward"] and r["answer"] is not None]
            votes.append(vote(counts[name], wrong, verify))
        result["majority"] = accuracy([votes]).to_json()
    result["mean_tokens"] = float(np.mean([r["tokens"] for r in ours]))
    result["truncated"] = float(np.mean([r["finish_reason"] == "length" for r in ours]))
    result["verdicts"] = dict(Counter(r["verdict"].partition(":")[0] for r in ours))
    return result


def averaged(scores: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """The averages that are of interest, with the benchmarks of each: those of a kind, and all where there are two kinds."""
    names = [name for name, s in scores.items() if s["problems"]]
    kinds = {kind: [n for n in names if scores[n]["reward"] == kind] for kind in ("math", "code")}
    groups = {f"{kind} average": of_kind for kind, of_kind in kinds.items() if len(of_kind) > 1}
    return groups | ({"average of all": names} if all(kinds.values()) else {})


def _values(result: dict[str, Any]) -> list[float]:
    return [problem["score"] for problem in result["by_problem"].values()]


def read_results(folder: str) -> dict[str, Any]:
    """results.json of a finished evaluation; ValueError where there is none."""
    path = Path(folder) / "results.json"
    try:
        results = json.loads(path.read_text())
        complete = results["complete"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ValueError(f"{path}: wanted the results of an evaluation ({e!r})") from e
    if not complete:
        raise ValueError(f"{path}: this evaluation was stopped before its end: wanted a finished one")
    return results


def check_comparable(benchmarks: list[Benchmark], skipped: dict[str, str], other: dict[str, Any], folder: str) -> None:
    """Raises ValueError unless `other` scored the same problems."""
    for b in benchmarks:
        if b.name not in other["benchmarks"]:
            raise ValueError(
                f"--compare={folder} has no {b.name}: wanted the same benchmarks, it has {list(other['benchmarks'])}"
            )
        ours = {p.prompt_id: b.hashes[p.prompt_id] for p in b.prompts if p.prompt_id not in skipped}
        theirs = {name: problem["problem"] for name, problem in other["benchmarks"][b.name]["by_problem"].items()}
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        if differing:
            raise ValueError(
                f"--compare={folder}: {len(differing)} problems of {b.name} differ, or were scored on one side only, the first "
                f"{differing[0]!r}: wanted the same problems and limits"
            )


def compare(results: dict[str, Any], other: dict[str, Any], folder: str) -> dict[str, Any]:
    """Differences, results - other, by benchmark and on average."""
    ours, theirs = results["benchmarks"], other["benchmarks"]
    groups = {name: [name] for name in ours if ours[name]["problems"]} | averaged(ours)

    def paired(names: list[str]) -> Estimate:
        sides = [(ours[n]["by_problem"], theirs[n]["by_problem"]) for n in names]
        return difference([([a[i]["score"] for i in a], [b[i]["score"] for i in a]) for a, b in sides])

    return {"with": folder, "model": other["model"]} | {
        "differences": {label: paired(names).to_json() for label, names in groups.items()}
    }


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
    add("--data", default="", metavar="FOLDER", help="where the files of benchmarks given by name are")
    add("--out", required=True, metavar="FOLDER", help="results to write, or to go on with")
    add("--compare", default="", metavar="FOLDER", help="--out of an earlier evaluation of the same problems")
    add("--samples", type=int, metavar="K", help="samples of each problem (default: the paper's, math 32, code 4)")
    add("--max-tokens", type=int, metavar="N", help=f"response limit (default: {MAX_TOKENS}, or half what the model takes)")
    add("--max-prompt-tokens", type=int, metavar="N", help="prompt limit, template included (default: the longest prompt's)")
    suffix_help = "appended to each prompt (default: for math, unless the prompt does, asks for steps and a \\boxed{} answer)"
    add("--prompt-suffix", metavar="TEXT", help=suffix_help)
    reward_help = "how a file of no known name is verified (default: code where the ground truth is a test specification)"
    add("--reward", choices=["auto", "math", "code"], default="auto", help=reward_help)
    add("--seed", type=int, default=0, metavar="N", help="another seed, other samples (default: %(default)s)")
    add_sampling_options(parser)
    add = add_work_options(parser)
    workers = max(1, (os.cpu_count() or 2) // 2)
    add("--verifiers", type=int, default=workers, metavar="N", help="processes that verify (default: half the CPU cores)")
    limit_help = "seconds for one answer, all its tests together; LiveCodeBench has 6 for each test (default: %(default)s)"
    add("--verifier-timeout", type=float, default=10.0, metavar="S", help=limit_help)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run(evaluate, _parser().parse_args(argv))


if __name__ == "__main__":
    start_processes()
    sys.exit(main())
