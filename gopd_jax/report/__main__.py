"""Command: one HTML page about one or several runs, to look at in a browser or to send to somebody.

python -m gopd_jax.report runs/math_tiny runs/lambda15 --out=report.html
"""

import argparse
import sys
import time

from etils import epath

from gopd_jax import cli
from gopd_jax.runtime import files
from gopd_jax.runtime.progress import result

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
    stopped = f": {args.out} shows the runs as far as they got"
    return cli.run(report, args, stopped=stopped)


def report(args: argparse.Namespace) -> None:
    """Writes the page and says what state each run is in."""
    # Imported here because they import JAX and SciPy, which --help does not need.
    with cli.importing():
        from gopd_jax.report import page, read

    _check_out(args.out, page.START)
    runs = read.read_runs(args.runs)
    try:
        while args.watch and not all(run.finished for run in runs):
            files.replace_text(args.out, page.html(runs, args.watch))
            time.sleep(args.watch)
            runs = read.read_runs(args.runs)
    finally:  # the last page, also after Ctrl-C, does not reload itself
        text = page.html(runs)
        files.replace_text(args.out, text)
    lines = []
    for run in runs:
        state = "finished" if run.finished else f"unfinished at step {run.last_step}"
        lines += [f"{run.label}: {state}", *(f"  {problem}" for problem in run.problems)]
    lines.append(f"wrote {args.out} ({len(text.encode()) / 1e6:.2f} MB): open it in a browser")
    states = [
        {"run": r.label, "finished": r.finished, "step": r.last_step, "problems": r.problems}
        for r in runs
    ]
    result("\n".join(lines), {"out": args.out, "runs": states})


def _check_out(out: str, start: str) -> None:
    """Raises ValueError unless a report, whose text begins with `start`, may be written to `out`.

    Only an earlier report is replaced.
    """
    files.check_output("--out", out)
    path = epath.Path(out)
    if "://" not in out and not path.parent.is_dir():
        raise ValueError(f"--out={out!r}: expected a folder that exists, not {str(path.parent)!r}")
    if path.exists():
        with path.open("rb") as file:
            found = file.read(len(start))
        if found and found != start.encode():
            raise ValueError(f"--out={out!r} is not an earlier report: expected another name")


if __name__ == "__main__":
    sys.exit(main())
