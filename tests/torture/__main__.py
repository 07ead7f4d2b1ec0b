"""Kills a training run again and again, and compares what comes of it, to the bit.

  python -m tests.torture --seed=1                20 kills, about 10 minutes on 2 CPU cores
  python -m tests.torture --seed=2 --kills=4 --json

A run of two domains on the embedded models is first trained without a strike. Then the same command
is struck by kill -9 (the group with all processes below it; the main process; the verifier
workers), SIGTERM, SIGINT and SIGSTOP, at moments drawn from the seed: in rollout, score, update,
save and evaluation, all after step 1. A run is struck four times and resumed after each strike that
ends it. At its end checkpoints, metrics, evaluations, samples and summary must equal those of the
first run to the bit, apart from clock times. Every step is in the metrics, so that one strike that
changes anything shows.

Exit status: 0 if all are equal, no process is left behind, and every run ends or goes on as it
should; otherwise 1.
"""

import collections
import dataclasses
import os
from pathlib import Path
import signal
import sys
import tempfile
import time

from absl import logging

from gopd_jax import cli
from gopd_jax.runtime.progress import result, say
from tests.torture.chain import Chain, Outcome, run_chain
from tests.torture.phases import usual_seconds
from tests.torture.plan import (
    EVALUATE_EVERY,
    PHASES,
    SAVE_EVERY,
    STEPS,
    draw,
)

SETTINGS = {
    "steps": STEPS,
    "checkpoint.every": SAVE_EVERY,
    "eval.every": EVALUATE_EVERY,
    "eval.prompts": 128,
    "eval.during_prompts": 128,
    "eval.samples": 1,
    "rollout.prompts_per_step": 256,
    "rollout.slots": 64,
    "learner.rows_per_micro_batch": 32,
    "log.samples_every": 2,
}
SAID = 80  # characters of the last line of a run that ends by itself
COLUMNS = ("", "signal", "aimed at", "came in", "exit", "gone", "resumed", "equal", "it said")


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--seed", type=cli.integer(0), default=1, help="decides every strike")
    parser.add_argument("--kills", type=cli.integer(1, 1000), default=20, help="number of strikes")
    parser.add_argument("--keep", help="a new folder for the runs; the default deletes them")
    options = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax warns of a file that it does not need
    # A shell that starts this in the background has SIGINT ignored, and the runs would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="gopd_torture_") as temporary:
        start = time.monotonic()
        outcomes = torture(Path(options.keep or temporary), options.seed, options.kills)
        seconds = time.monotonic() - start
    strikes = [dataclasses.asdict(outcome) for outcome in outcomes]
    text = f"{table(outcomes)}\n\n{totals(outcomes, options.seed, seconds)}"
    result(text, {"seed": options.seed, "seconds": seconds, "strikes": strikes})
    return int(any(outcome.wrong or not outcome.equal for outcome in outcomes))


def torture(folder: Path, seed: int, kills: int) -> list[Outcome]:
    """Trains without a strike, then strikes; returns what each strike did."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    settings = SETTINGS | {"data.cache_dir": folder / "datasets"}
    arguments = ["--config=configs/multi_teacher.py"]
    arguments += [f"--config.{name}={value}" for name, value in settings.items()]
    plain = Chain(folder / "uninterrupted", arguments)
    try:
        plain.finish()
    finally:
        plain.run.close()
    usual_s = usual_seconds(plain.run.phases.update())
    usual = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in usual_s.items())
    say(f"never struck: {usual}")
    outcomes = []
    for number, strikes in enumerate(draw(seed, kills), 1):
        chain = folder / f"chain_{number}"
        done = run_chain(chain, strikes, arguments, usual_s, plain.workdir)
        outcomes += done
        wrong = "; ".join(dict.fromkeys(w for outcome in done for w in outcome.wrong))
        say(f"chain {number}, {len(strikes)} strikes: {wrong or 'equal to the bit'}")
    return outcomes


def table(outcomes: list[Outcome]) -> str:
    """One Markdown row for each strike."""
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    for outcome in outcomes:
        strike = outcome.strike
        exit_status = "goes on" if outcome.status is None else outcome.status
        gone = "" if outcome.gone_s is None else f"{outcome.gone_s:.1f} s"
        equal = "yes" if outcome.equal and not outcome.wrong else "NO: " + "; ".join(outcome.wrong)
        rows.append(
            (
                strike.number,
                strike.signal,
                f"{strike.phase} of {strike.step}",
                f"{' + '.join(outcome.struck)} of {outcome.step}",
                exit_status,
                gone,
                "" if outcome.resumed is None else f"step {outcome.resumed}",
                equal,
                "" if outcome.status in (None, -9) else outcome.said[:SAID],
            )
        )
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def totals(outcomes: list[Outcome], seed: int, seconds: float) -> str:
    """How many strikes were equal, and how many came in each phase."""
    equal = sum(outcome.equal and not outcome.wrong for outcome in outcomes)
    came = collections.Counter(phase for outcome in outcomes for phase in outcome.struck)
    phases = ", ".join(f"{phase} {came[phase]}" for phase in PHASES)
    return (
        f"seed {seed}: {equal} of {len(outcomes)} equal to the bit, in {seconds:.0f} s; "
        f"strikes in {phases}"
    )


if __name__ == "__main__":
    sys.exit(main())
