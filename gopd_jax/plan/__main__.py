r"""Plans a run for devices that are not here: does it fit, what does it take, what to change.

Compiles every program of the run that `train` would make with the same config, for a TPU slice that
is described and not rented. Needs neither weights nor data: a model is a folder with config.json
alone, or one of those that the config files name. Needs the compiler of the devices:
pip install 'gopd_jax[tpu]' for TPUs.

  python -m gopd_jax.plan --config=math:qwen3_4b --topology=v6e:4x4
  python -m gopd_jax.plan --config=math:qwen3_4b --sweep v5e:4x4,v5e:8x8,v6e:4x4 --fast
  python -m gopd_jax.plan --config=math --topology=cpu:4 --picture=memory.png

  --config=FILE[:PRESET] and --config.PART.FIELD=VALUE are those of train.
"""

import argparse
from collections.abc import Sequence
import os
import sys

from gopd_jax import cli
from gopd_jax.train.__main__ import parse


def parser() -> cli.Parser:
    made = cli.Parser(prog="python -m gopd_jax.plan", description=cli.as_started(__doc__))
    made.add_argument(
        "--topology",
        metavar="SLICE",
        help="the devices: a TPU slice such as v6e:4x4 or v5p:2x2x4, the GPUs of a host such as "
        "h100:8, or cpu:N for this machine",
    )
    made.add_argument(
        "--sweep", metavar="A,B", help="several slices with commas between them: one table"
    )
    made.add_argument(
        "--fast",
        action="store_true",
        help="compile with low effort: in a fraction of the time, to larger temporaries",
    )
    made.add_argument(
        "--all",
        action="store_true",
        help="compile every bucket of prefill, decode and copies, not only the largest of each",
    )
    made.add_argument(
        "--no-remedy", action="store_true", help="do not look for what would make a run fit"
    )
    made.add_argument("--picture", metavar="FILE", help="draw memory by phase into this PNG")
    made.add_argument(
        "--memory",
        metavar="GB",
        type=cli.positive_number,
        help="memory of a device in 10^9 bytes, in place of the published figure",
    )
    made.add_argument(
        "--jobs",
        metavar="N",
        type=cli.integer(1, 64),
        default=0,
        help="programs compiled at the same time (default: as many as memory and cores allow)",
    )
    made.add_argument(
        "--no-cache", action="store_true", help="compile what an earlier plan compiled, too"
    )
    _add_assumptions(made)
    return made


def _add_assumptions(made: cli.Parser) -> None:
    group = made.add_argument_group("what the times assume")
    group.add_argument(
        "--prompt-tokens",
        metavar="N",
        type=cli.integer(1),
        help="mean length of a prompt (default: an eighth of its limit)",
    )
    group.add_argument(
        "--response-tokens",
        metavar="N",
        type=cli.integer(1),
        help="mean length of a response (default: a quarter of its limit)",
    )
    for name, default, what in (
        ("--mfu", 0.4, "the peak FLOP/s that prefill, scoring and updates reach"),
        ("--hbm-share", 0.6, "the memory bandwidth that decoding reaches"),
        ("--network-share", 0.6, "the network's bandwidth that collectives reach"),
    ):
        group.add_argument(
            name,
            metavar="SHARE",
            type=cli.positive_number,
            default=default,
            help=f"share of {what} (default: {default})",
        )


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = parser().parse_known_args(argv)
    return cli.run(_plan, options, rest)


def _plan(options: argparse.Namespace, rest: list[str]) -> None:
    if bool(options.topology) == bool(options.sweep):
        raise ValueError(
            "expected either --topology=SLICE or --sweep=SLICE,SLICE, such as --topology=v6e:4x4"
        )
    config, _ = parse(rest)
    names = [options.topology] if options.topology else options.sweep.split(",")
    _prepare(names)
    with cli.importing():
        from gopd_jax.plan.run import plan_all

    plan_all(config, names, options)


def _prepare(names: Sequence[str]) -> None:
    """Environment variables that JAX reads when it is imported: a plan runs on no accelerator."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    counts = [name.removeprefix("cpu:") for name in names if name.startswith("cpu:")]
    most = max((int(count) for count in counts if count.isdecimal()), default=1)
    if most > 1 and "jax" not in sys.modules:
        flag = f"--xla_force_host_platform_device_count={most}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()


if __name__ == "__main__":
    sys.exit(main())
