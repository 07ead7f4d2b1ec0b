"""Command: the paper's experiments in the embedded world, over seeds, as tables and pictures.

python -m gopd_jax.reproduce --seeds=5 --out=runs/reproduce
"""

import argparse
import os
import sys

import jax

from gopd_jax.reproduce import arms, tables, work
from gopd_jax.reproduce.run import reproduce
from gopd_jax.runtime.progress import say

EPILOG = """
What is run, each with every seed (the seed decides data order, samples, and the draws that score a model):
  table2    single teachers and both together: SFT, ExPO, OPD, ExOPD            paper: Table 2
  figure2   lambda from 0 to 2: score and length                                paper: Figure 2
  table3    from strong to weak, and with reward correction                     paper: Table 3, Figure 6
  table1    instead of distilling, the teachers' own RL goes on                 paper: Table 1
  strength  teachers stopped early, and trained on                              paper: the saturated teachers

OUT gets a folder for each seed and arm (a training run like any other, its model, scores.json), arms.jsonl (a line for each arm
as it finishes), results.json, results.md (tables: mean and 95% interval over seeds, the paper's numbers, claims held or
not) and pictures. The same command again goes on where it was stopped. An hour and a half for 5 seeds on 2 CPU cores; it
stays on the CPU unless JAX_PLATFORMS says otherwise.
"""


def main(argv: list[str] | None = None) -> int:
    size = work.Size()
    parser = argparse.ArgumentParser(
        prog="python -m gopd_jax.reproduce",
        description="Run the paper's experiments in the embedded world, with several seeds, and write tables and pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out",
        default="runs/reproduce",
        help="folder to write, or to go on with (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, help="how many: 0, 1, ... (default: %(default)s)"
    )
    parser.add_argument(
        "--only",
        default=",".join(arms.GROUPS),
        help="groups, comma-separated (default: %(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="processes, one core each (default: all cores)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=size.steps,
        help="training steps of an arm (default: %(default)s)",
    )
    parser.add_argument(
        "--samples-per-step",
        type=int,
        default=size.samples_per_step,
        help="of each domain (default: %(default)s)",
    )
    parser.add_argument(
        "--prompts",
        type=int,
        default=size.math[0],
        help="held-out math prompts; a quarter as many of code (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if (
        "JAX_PLATFORMS" not in os.environ
    ):  # several processes cannot share an accelerator, and these models want none
        os.environ["JAX_PLATFORMS"] = "cpu"  # of the worker processes
        jax.config.update("jax_platforms", "cpu")
    try:
        for name, least in (
            ("seeds", 2),
            ("jobs", 1),
            ("steps", 1),
            ("samples_per_step", 8),
            ("prompts", 2),
        ):
            if getattr(args, name) < least:
                raise ValueError(
                    f"--{name.replace('_', '-')}={getattr(args, name)}: wanted at least {least}"
                )
        size = work.Size(
            args.steps, args.samples_per_step, (args.prompts, 2), (max(1, args.prompts // 4), 2)
        )
        results = reproduce(args.out, args.seeds, args.only.split(","), args.jobs, size)
    except (ValueError, RuntimeError, OSError) as e:
        say(f"error: {e}")
        return 2
    except KeyboardInterrupt:
        say("stopped; the same command goes on from there")
        return 130
    say(tables.text(results))
    say(f"results in {args.out}: results.md, results.json, pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
