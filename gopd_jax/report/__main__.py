"""Command: one HTML page about one or several runs, to look at in a browser or to send to somebody.

python -m gopd_jax.report runs/math_tiny runs/lambda15 --out=report.html
"""

import argparse
import sys
import time

from etils import epath

from gopd_jax import cli
from gopd_jax.runtime.files import replace_text

EPILOG = """
RUN is the --workdir of gopd_jax.train, local or gs://, finished or not: an unfinished run is shown
as far as it got, and lines that cannot be read are named on the page. The page is one file without
links to anything: open it in a browser or attach it to a mail. It holds results with 95% intervals,
curves by step and by position in the response, warnings with advice, and samples with every token
coloured by its advantage, to be searched and compared. Several runs share the axes, one colour
each. With --watch the page is written again until every run is finished, and reloads itself.

examples:
  python -m gopd_jax.report runs/math_tiny
  python -m gopd_jax.report runs/l100 runs/math_tiny runs/l150 --out=lambda.html
  python -m gopd_jax.report runs/math_tiny --watch=30

Exit status: 0, 2 with one line on what is wrong (no such run, no place to write), or 130 after
Ctrl-C, which ends --watch.
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
    parser.add_argument(
        "--watch",
        nargs="?",
        type=cli.positive_number,
        const=10.0,
        metavar="SECONDS",
        help="write the page again every so many seconds (%(const)g where no number is given) "
        "until every run is finished",
    )
    args = parser.parse_args(argv)
    stopped = f"stopped by Ctrl-C: {args.out} shows the runs as far as they got"
    return cli.run(report, args, stopped=stopped)


def report(args: argparse.Namespace) -> None:
    """Writes the page and says what state each run is in."""
    # Imported here because they import JAX and SciPy, which --help does not need.
    from gopd_jax.report import page, read

    runs = read.read_runs(args.runs)
    folder = epath.Path(args.out).parent
    if "://" not in args.out and not folder.is_dir():
        raise ValueError(f"--out={args.out}: expected a file in a folder that exists")
    try:
        while args.watch and not all(run.finished for run in runs):
            replace_text(args.out, page.html(runs, args.watch))
            time.sleep(args.watch)
            runs = read.read_runs(args.runs)
    finally:  # the last page, also after Ctrl-C, does not reload itself
        text = page.html(runs)
        replace_text(args.out, text)
    for run in runs:
        state = "finished" if run.finished else f"unfinished at step {run.last_step}"
        print(f"{run.label}: {state}" + "".join(f"\n  {problem}" for problem in run.problems))
    print(f"wrote {args.out} ({len(text.encode()) / 1e6:.2f} MB): open it in a browser")


if __name__ == "__main__":
    sys.exit(main())
