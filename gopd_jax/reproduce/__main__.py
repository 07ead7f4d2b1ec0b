"""Command: the paper's experiments in the embedded world, over seeds, as tables and pictures.

python -m gopd_jax.reproduce --seeds=5 --out=runs/reproduce
"""

import argparse
import os
import sys

from gopd_jax import cli
from gopd_jax.reproduce.arms import GROUPS, Size
from gopd_jax.runtime.progress import result, say

EPILOG = """
What is run, each with every seed (the seed decides the order of the data, the samples, and the
draws that score a model):
  table2    single teachers and both together: SFT, ExPO, OPD, ExOPD        paper: Table 2
  figure2   lambda from 0 to 2: score and length                            paper: Figure 2
  table3    from strong to weak, and with reward correction                 paper: Table 3, Figure 6
  table1    the teachers' own RL continues, in place of distillation        paper: Table 1
  strength  teachers stopped early, and trained further                     paper: saturation
  estimators  ExOPD with each estimator, over a quarter, half and all of the steps
  controls  ExOPD without the teacher's knowledge: is the gain the teacher's?
  self      self-distillation: the teacher is the student's start and is shown the answer
  preview   students trained for long, and the optimum that gopd_jax.preview samples
  steps     figure2 on a task whose answers differ in length: score, length, share cut at the limit

OUT gets a folder for each seed and arm (a training run like any other, its model, scores.json),
arms.jsonl (a line for each arm as it finishes), results.json, results.md (tables with means and 95%
intervals over seeds, the paper's numbers, and which claims held) and pictures. The same command
again continues where it was stopped. 5 seeds take an hour and a half on 2 CPU cores. Everything
runs on the CPU unless JAX_PLATFORMS says otherwise.

Exit status: 0 done, 2 with one line on what is wrong, 130 stopped by
Ctrl-C, 143 by SIGTERM.
"""


def main(argv: list[str] | None = None) -> int:
    size = Size()
    parser = cli.Parser(
        prog="python -m gopd_jax.reproduce",
        description="Repeat the paper's experiments in the embedded world over several seeds, with "
        "tables and pictures.",
        epilog=EPILOG,
    )

    def add_count(name: str, least: int, default: int, meaning: str) -> None:
        meaning += " (default: %(default)s)"
        parser.add_argument(name, type=cli.integer(least), default=default, help=meaning)

    parser.add_argument(
        "--out",
        default="runs/reproduce",
        help="folder to write, or to continue (default: %(default)s)",
    )
    add_count("--seeds", 2, 5, "number of seeds: 0, 1, ...")
    parser.add_argument(
        "--only", default=",".join(GROUPS), help="groups, comma-separated (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=cli.integer(1),
        default=len(os.sched_getaffinity(0)),
        help="processes, one core each (default: one for each core)",
    )
    add_count("--steps", 1, size.steps, "training steps of an arm")
    add_count("--samples-per-step", 8, size.samples_per_step, "samples per domain and step")
    prompts = "held-out prompts of math and of steps; a quarter as many of code"
    add_count("--prompts", 2, size.math[0], prompts)
    return cli.run(
        _reproduce,
        parser.parse_args(argv),
        stopped="; the same command continues from there",
        bad_input=(ValueError, OSError, RuntimeError),
    )


def _reproduce(args: argparse.Namespace) -> None:
    # Several processes cannot share an accelerator, and models of this size do not need one. Set
    # before JAX is imported, by the next lines and by the worker processes.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from gopd_jax.reproduce import tables
    from gopd_jax.reproduce.run import reproduce

    math, code = (args.prompts, 2), (max(1, args.prompts // 4), 2)
    size = Size(args.steps, args.samples_per_step, math, code)
    results = reproduce(args.out, args.seeds, args.only.split(","), args.jobs, size)
    result(tables.text(results), results)
    say(f"results in {args.out}: results.md, results.json, pictures")


if __name__ == "__main__":
    sys.exit(main())
