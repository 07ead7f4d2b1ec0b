r"""Previews what each lambda of a run converges to, before any training.

With teacher and reference fixed, the optimum of G-OPD is known at every state s:

  pi(v | s)  =  teacher(v | s)^lambda  *  reference(v | s)^(1 - lambda)  /  Z(s)

This command samples from it, both models side by side, and scores the samples with the verifiers of
the run. It shows how good a student would be that reached the optimum; a student of too few
parameters, or of too few steps, stays away from it.

  python -m gopd_jax.preview --config=math --lambdas=0.5,1,1.25,1.5,2
  python -m gopd_jax.preview --config=math:qwen3_4b --config.domains.math.teacher=FOLDER \
      --prompts=256 --samples-per-prompt=4 --out=runs/preview_4b
  python -m gopd_jax.preview --config=strong_to_weak --config.reference=FOLDER --lambdas=1,1.25

  --config=FILE[:PRESET] and --config.PART.FIELD=VALUE are those of train: models, test prompts,
  verifiers, limits (config.rollout.max_response_tokens), slots, the sampling rule (config.eval) and
  the seed. Settings of training, and the lambdas of the config, have no influence.

The table, for each domain and its teacher, by lambda: right, the share of right samples with its
95% interval over prompts; against 1, the difference to lambda = 1, paired by prompt, because every
lambda is drawn with the same random numbers; tokens, the mean length of a response; cut, the share
that reached the limit; entropy and log Z, nats per token. log Z is the greatest value that the
objective has at a state: 0 at lambda = 0 and 1, below 0 between them, above 0 beyond 1.
lambda = 1 needs the teacher alone, and 0 the reference. 1 is drawn even if it is not asked for.

--out gets preview.json (the table, each prompt's score, settings, versions) and preview.png.

Exit status: 0 done; 2 for a wrong option, config, model or prompt; 130 after Ctrl-C, 143 after
SIGTERM. A preview that was stopped begins again.
"""

import argparse
from collections.abc import Sequence
import math
import os
import sys

from gopd_jax import cli
from gopd_jax.train.__main__ import parse

LAMBDAS = (0.5, 1.0, 1.25, 1.5, 2.0)
PROMPTS = 1024
STOPPED = "; the lambdas that were finished are in preview.json"


def lambdas(text: str) -> list[float]:
    """The argparse type of several lambdas, rising."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or len(set(values)) < len(values) or not all(0 <= v < math.inf for v in values):
        expected = "expected different numbers >= 0 with commas between them, such as 0.5,1,1.25"
        raise argparse.ArgumentTypeError(f"invalid value {text!r}: {expected}")
    return sorted(values)


def parser() -> cli.Parser:
    made = cli.Parser(
        details=True,
        prog="python -m gopd_jax.preview",
        usage="%(prog)s --config=FILE[:PRESET] [options]",
        description=cli.as_started(__doc__),
    )
    made.add_argument(
        "--lambdas",
        metavar="A,B",
        type=lambdas,
        default=list(LAMBDAS),
        help=f"what is drawn (default: {','.join(f'{x:g}' for x in LAMBDAS)})",
    )
    made.add_argument(
        "--prompts",
        metavar="N",
        type=cli.integer(0),
        default=PROMPTS,
        help="test prompts of each domain, 0 for all (default: %(default)s)",
    )
    made.add_argument(
        "--samples-per-prompt",
        metavar="K",
        type=cli.integer(1),
        help="samples of each prompt (default: config.eval.samples)",
    )
    made.add_argument(
        "--out", metavar="FOLDER", default="", help="results (default: runs/NAME_preview)"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = parser().parse_known_args(argv)
    return cli.run(_preview, options, rest, stopped=STOPPED)


def _preview(options: argparse.Namespace, rest: list[str]) -> None:
    unknown = [a for a in rest if a.startswith("--workdir")]
    if unknown:
        raise ValueError(f"{unknown[0]}: expected --out=FOLDER, because nothing is trained")
    config, _ = parse(rest)
    with cli.importing(STOPPED):
        from gopd_jax.preview.run import preview  # JAX and transformers: seconds, not for --help

    out = options.out or os.path.join("runs", f"{config.name}_preview")
    preview(config, options.lambdas, options.prompts, options.samples_per_prompt, out)


if __name__ == "__main__":
    sys.exit(main())
