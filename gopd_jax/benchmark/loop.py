"""Where the time of whole training steps goes, read from metrics.jsonl of a run of its own.

In: a config and settings, as of the train command, which runs in a process of its own. Out: a
record on stdout for each step, one for the whole run, and the split of the steps that compiled
nothing. Does not import JAX, so that the accelerator is free for the run.
"""

import argparse
from collections.abc import Mapping, Sequence
import json
from pathlib import Path
import subprocess
import sys
import tempfile
import time
from typing import Any

from gopd_jax.benchmark.records import show

WORK = ("weight_sync", "rollout", "score", "update", "evaluation")  # the rest is overhead
PREFIX = "seconds_"
OTHER = "seconds_other"  # what the run itself found in no phase

Record = Mapping[str, Any]


def benchmark(args: argparse.Namespace) -> None:
    """Runs the train command in a temporary folder and prints where its time went.

    Raises:
        ValueError: the run failed; it has said why on stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gopd_jax.train", f"--config={args.config}", "--json"]
        command += [f"--config.steps={args.steps}", *args.settings, f"--workdir={folder}/run"]
        start = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        wall = time.perf_counter() - start
        if done.returncode:
            raise ValueError(f"{' '.join(command)}: exit status {done.returncode}, expected 0")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines]
    for step in steps:
        show({"record": "step", "step": step["step"]} | phases([step]))
    inside = phases(steps)
    outside = {"seconds": wall, "seconds_outside_steps": wall - inside["seconds"]}
    show({"record": "whole run", "steps": len(steps)} | inside | outside)
    warm = without_compilations(steps)
    if not warm:
        raise ValueError(
            f"--steps={args.steps}: expected more, every one of these compiled something"
        )
    show(split(warm) | {"settings": vars(args)})


def without_compilations(steps: Sequence[Record]) -> list[Record]:
    """The steps in which the count of compiled programs did not rise; never the first."""
    pairs = zip(steps, steps[1:], strict=False)
    return [now for before, now in pairs if now["compilations"] == before["compilations"]]


def phases(steps: Sequence[Record]) -> dict[str, float]:
    """Seconds of some steps together, of each of their phases, and what is in none of these."""
    names = dict.fromkeys(name for step in steps for name in step if name.startswith(PREFIX))
    sums = {name: sum(step.get(name, 0.0) for step in steps) for name in names if name != OTHER}
    total = sum(step["seconds"] for step in steps)
    return {"seconds": total, **sums, "seconds_in_none": total - sum(sums.values())}


def split(steps: Sequence[Record]) -> dict[str, Any]:
    """Seconds and shares of each phase of some steps together.

    Returns:
        A record. share_in_none is what no phase covers; share_overhead is all but rollouts, the
        weights for them, scores, updates and evaluations.
    """
    seconds = phases(steps)
    total, tokens = seconds["seconds"], sum(step["rollout_tokens"] for step in steps)
    shares = {name.removeprefix(PREFIX): s / total for name, s in seconds.items()}
    del shares["seconds"]
    return {
        "record": "split",
        "steps": len(steps),
        "rollout_tokens": tokens,
        "rollout_tokens_per_second": tokens / total,
        **seconds,
        **{f"share_{name}": share for name, share in shares.items()},
        "share_overhead": 1 - sum(shares.get(name, 0.0) for name in WORK),
    }
