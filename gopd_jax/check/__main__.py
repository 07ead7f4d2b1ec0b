"""Checks, with weights, what the models of a run must agree on, and trains nothing.

The same checks are made before step 0 of a run (config.check.before_training). Each compares a
number with a bound: teacher := student has no advantage; sampler and learner agree, at temperature
1 too; chat templates, stop ids and the texts of ids are those of the student; teachers differ from
the student; the reference is the one that was asked for; an adapter is attached. Here a teacher is
also compared with the student on a few held-out prompts.

  python -m gopd_jax.check --config=math
  python -m gopd_jax.check --config=math:qwen3_4b --config.domains.math.teacher=FOLDER

  --config=FILE[:PRESET] and --config.PART.FIELD=VALUE are those of train; the settings of the
  checks are config.check.*, with --config.check.accept=NAME,NAME for what may fail.

Exit status: 0 if nothing failed that is not accepted, 2 with one line on what failed, and 130 after
Ctrl-C.
"""

import argparse
from collections.abc import Sequence
import sys

from gopd_jax import cli
from gopd_jax.runtime.progress import result, result_width
from gopd_jax.train.__main__ import parse


def parser() -> cli.Parser:
    return cli.Parser(
        prog="python -m gopd_jax.check", description=cli.as_started(__doc__), details=True
    )


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = parser().parse_known_args(argv)
    return cli.run(_check, options, rest)


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    config, _ = parse(rest)
    with cli.importing():
        from gopd_jax.check.outcome import raise_if_failed, table
        from gopd_jax.runtime.compilation_cache import use_compilation_cache
        from gopd_jax.train.check_alone import check_alone

    use_compilation_cache(config.compilation_cache)
    found = check_alone(config)
    shown = {"record": "checks", "config": config.name, "checks": [o.to_json() for o in found]}
    result(table(found, result_width()), shown)
    raise_if_failed(found)


if __name__ == "__main__":
    sys.exit(main())
