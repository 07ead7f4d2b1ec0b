"""Command: what is in a data set, and what a run would leave out of it.

python -m gopd_jax.data deepmath.parquet --tokenizer=Qwen/Qwen3-4B --min-difficulty=6
"""

import argparse
import json
from pathlib import Path
import sys

from gopd_jax.data import stats
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.runtime.progress import Bar, say

EPILOG = f"""
SOURCE is what domains.NAME.train of a config takes: a .jsonl, .jsonl.gz or .parquet file, a folder or pattern of them,
hf://datasets/OWNER/NAME/PATH of the Hugging Face hub, or tiny:math/train. Rows may have any of these forms:
  {stats.choices()}

Printed: rows, their formats, how answers are verified, difficulty, repeated questions, prompt lengths in tokens, and what a run
would leave out and why. A row that cannot be read is named with its file and line, and the next one is read.
Exit status: 0, or 2 with one line on what is wrong.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gopd_jax.data",
        description="Say what is in a data set of prompts, and what a run would leave out of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="data sets, see below")
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="Hugging Face folder or hub id; without it lengths are not counted",
    )
    parser.add_argument("--prompt-suffix", default="", help="as domains.NAME.prompt_suffix")
    parser.add_argument(
        "--max-prompt-tokens",
        type=int,
        default=2048,
        help="as data.max_prompt_tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--min-difficulty", type=float, default=0.0, help="as domains.NAME.min_difficulty"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        help="as domains.NAME.held_out: a share below 1, or a number",
    )
    parser.add_argument(
        "--verify",
        type=int,
        default=0,
        metavar="N",
        help="check every ground truth, with N processes",
    )
    parser.add_argument("--json", metavar="FILE", help="write one JSON line for each source")
    args = parser.parse_args(argv)
    try:
        tokenizer = ChatTokenizer.load(args.tokenizer) if args.tokenizer else None
        records = []
        for source in args.sources:
            with Bar(f"read {source}", None, "rows") as bar:
                report = stats.examine(
                    source,
                    tokenizer,
                    suffix=args.prompt_suffix,
                    max_prompt_tokens=args.max_prompt_tokens,
                    min_difficulty=args.min_difficulty,
                    how_many_held_out=args.held_out,
                    verify=args.verify,
                    advance=bar.advance,
                )
            print(stats.text(report))
            records.append(stats.record(report))
        if args.json:
            Path(args.json).write_text("".join(json.dumps(r) + "\n" for r in records))
    except (ValueError, OSError) as e:
        say(f"error: {e}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
