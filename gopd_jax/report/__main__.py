"""Command: one HTML page about one or several runs, to look at in a browser or to send to somebody.

python -m gopd_jax.report runs/math_tiny runs/lambda15 --out=report.html
"""

import argparse
import sys

from gopd_jax import cli
from gopd_jax.runtime.files import replace_text

EPILOG = """
RUN is the --workdir of gopd_jax.train, local or gs://, finished or not: an unfinished run is shown
as far as it got, and lines that cannot be read are named on the page. The page is one file without
links to anything: open it in a browser or attach it to a mail. It holds results with 95% intervals,
curves by step and by position in the response, warnings with advice, and samples with every token
coloured by its advantage. Several runs share the axes, one colour each.

examples:
  python -m gopd_jax.report runs/math_tiny
  python -m gopd_jax.report runs/l100 runs/math_tiny runs/l150 --out=lambda.html

Exit status: 0, or 2 with one line on what is wrong (no such run, no place to write).
"""


def main(argv: list[str] | None = None) -> int:
    parser = cli.Parser(
        prog="python -m gopd_jax.report",
        description="Make one self-contained HTML page from the folders of training runs.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="folder of a run; several are compared (2 to 6 read best)",
    )
    parser.add_argument("--out", default="report.html", help="page to write (default: %(default)s)")
    return cli.run(report, parser.parse_args(argv))


def report(args: argparse.Namespace) -> None:
    """Writes the page and says what state each run is in."""
    # Imported here because they import JAX and SciPy, which --help does not need.
    from gopd_jax.report import page, read

    runs = read.read_runs(args.runs)
    text = page.html(runs)
    replace_text(args.out, text)
    for run in runs:
        state = "finished" if run.finished else f"unfinished at step {run.last_step}"
        print(f"{run.label}: {state}" + "".join(f"\n  {problem}" for problem in run.problems))
    print(f"wrote {args.out} ({len(text.encode()) / 1e6:.2f} MB): open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
