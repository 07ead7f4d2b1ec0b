"""Command: what is in a data set, and what a run would leave out of it.

python -m gopd_jax.data deepmath.parquet --tokenizer=Qwen/Qwen3-4B --min-difficulty=6
"""

import argparse
import os
import sys

from gopd_jax import cli
from gopd_jax.data.formats import FORMATS
from gopd_jax.runtime.progress import Bar, result

EPILOG = f"""
SOURCE is what domains.NAME.train of a config accepts: a .jsonl, .jsonl.gz or .parquet file, a
folder or pattern of them, hf://datasets/OWNER/NAME/PATH on the Hugging Face hub, or
tiny:math/train. Rows may have any of these formats:
  {", ".join(f.name for f in FORMATS)}

The report shows the number of rows, their formats, how answers are verified, difficulties, repeated
questions, prompt lengths in tokens, and what a run would leave out and why. A row that cannot be
read is listed with its file and line. With several sources, such as those of train and test, it
also shows how many questions two of them share. With a tokenizer, the report ends with a prompt as
the model reads it, one with tools if there is one; a chat template that drops a part of a row is
an error.
Exit status: 0 done; 2 for a wrong option, data set or tokenizer; 130 after Ctrl-C.
"""


def main(argv: list[str] | None = None) -> int:
    return cli.run(examine, _parser().parse_args(argv))


def examine(args: argparse.Namespace) -> None:
    """Prints a report of every source."""
    # Imported here so that --help answers at once: transformers and JAX take seconds.
    from gopd_jax.data import stats
    from gopd_jax.data.tokenizer import ChatTokenizer

    tokenizer = None
    if args.tokenizer:
        kwargs = args.template_kwargs or {}
        tokenizer = ChatTokenizer.load(args.tokenizer, template_kwargs=kwargs)
    reports = []
    for source in args.sources:
        with Bar(f"read {source}", None, "rows") as bar:
            report = stats.examine(
                source,
                tokenizer,
                suffix=args.prompt_suffix,
                max_prompt_tokens=args.max_prompt_tokens,
                min_difficulty=args.min_difficulty,
                held_out=args.held_out,
                verify=args.verifier_workers if args.verify else 0,
                reward=args.reward,
                advance=bar.advance,
            )
        lines, record = [stats.text(report)], stats.record(report)
        overlaps = {}  # earlier source -> number of questions that are in both
        for earlier in reports:
            if both := stats.shared(report, earlier):
                overlaps[earlier.source] = len(both)
                lines.append(
                    f"  overlap      {len(both):,} questions are also in {earlier.source}, the "
                    f"first in row {both[0]!r}"
                )
        result("\n".join(lines), record | {"overlaps": overlaps})
        reports.append(report)


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m gopd_jax.data",
        description="Say what is in a data set of prompts, and what a run would leave out of it.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="data sets, see below")
    add(
        "--tokenizer",
        metavar="MODEL",
        help="Hugging Face folder or hub id; without it, no tokens are counted",
    )
    add(
        "--template-kwargs",
        type=cli.json_object,
        metavar="JSON",
        help="as data.template_kwargs, as an object",
    )
    add("--prompt-suffix", default="", help="as domains.NAME.prompt_suffix")
    add(
        "--max-prompt-tokens",
        type=cli.integer(1),
        default=2048,
        help="as data.max_prompt_tokens (default: %(default)s)",
    )
    add(
        "--min-difficulty",
        type=cli.number(0),
        default=0.0,
        help="as domains.NAME.min_difficulty",
    )
    add(
        "--held-out",
        type=cli.number(0),
        default=0.0,
        help="as domains.NAME.held_out: a share below 1, or a number",
    )
    add(
        "--reward",
        type=cli.reward_option("auto", "math", "code", "none"),
        default="auto",
        metavar="REWARD",
        help="as domains.NAME.reward; rows need no ground truth with none or with a function of "
        "yours (default: by the ground truth of each row)",
    )
    add(
        "--verify",
        action="store_true",
        help="check every ground truth, or call the reward function on every row with an empty "
        "answer",
    )
    add(
        "--verifier-workers",
        type=cli.integer(1),
        default=max(1, (os.cpu_count() or 2) // 2),
        metavar="N",
        help="processes that verify (default: half the CPU cores)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
