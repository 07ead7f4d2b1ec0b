"""Command: a model's score on benchmarks: avg@k, pass@k and majority@k with intervals.

python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=math --benchmark-dir=DIR --out=results
"""

import os
import sys

from gopd_jax import cli
from gopd_jax.evaluate.catalog import DEFAULT_MAX_TOKENS, KNOWN, SUITES
from gopd_jax.generate.options import (
    RENAMED,
    RESUMES,
    ArgumentGroup,
    add_engine_options,
    add_limit_options,
    add_sampling_options,
)

OLD_NAMES = {
    "--data": "--benchmark-dir",
    "--verifiers": "--verifier-workers",
    "--verifier-timeout": "--verifier-timeout-s",
}
NAMES = [name for name in KNOWN if not name.startswith("tiny:")]

DESCRIPTION = """\
Score a Hugging Face model on benchmarks: draw k samples of each problem, verify them, and say how
certain the score is.

examples:
  python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=math --benchmark-dir=benchmarks \\
      --out=results/base
  python -m gopd_jax.evaluate --model=runs/export --suite=math --benchmark-dir=benchmarks \\
      --out=results/ours --compare=results/base
  python -m gopd_jax.evaluate --model=Qwen/Qwen3-4B --suite=aime24,mine.jsonl \\
      --benchmark-dir=benchmarks --samples-per-prompt=8 --out=results/few
"""
EPILOG = f"""\
SUITE: one or more of these, separated by commas:
  math        {", ".join(SUITES["math"])}
  code        {", ".join(SUITES["code"])}
  a name      {", ".join(NAMES[:7])},
              {", ".join(NAMES[7:])}
  a file      .jsonl, .jsonl.gz or .parquet, each row a problem with its ground truth; or a file of
              the Hugging Face hub, hf://datasets/OWNER/NAME/PATH; or tiny:math/test, tiny:code/test
              or tiny:steps/test
The file of a name is looked for in --benchmark-dir: aime24.jsonl, HumanEvalPlus.jsonl and so on, or
the same with .gz.

OUT: samples.jsonl, one line for each sample: benchmark, prompt_id, sample_id, text, tokens (their
number), finish_reason ("stop" or "length"), answer (the last \\boxed{{}}, or the program; null if
there is none), reward (0 or 1), verdict ("correct", "wrong", "no answer", "timeout", "memory" or
"error: ..."). With a reward function of yours, answer is the text, reward is in [0, 1], verdict is
"judged", "timeout" or "memory", and reward_metrics has what else it returned. results.json: the
figures of the table, each problem's score, settings, versions, speed.

The table: avg@k, the share of right samples or the mean reward, with its 95% interval over problems
(the samples of one problem are not independent); pass@k, the chance that one of k samples is right,
left out where a reward is neither 0 nor 1; maj@k, whether the answer given most often is right (if
answers tie, the chance for a uniform choice), math only. A sample without an answer counts as
wrong. A problem over a limit is not drawn: it is reported,
counted, and left out of the mean. An average over benchmarks gives each the same weight.

--compare: the difference to an earlier evaluation of the same problems, paired by problem; its k
and seed may differ.

The same command started again resumes. A sample depends only on the seed, its prompt, prompt id and
number.

Exit status: 0 done; 2 for a wrong option, problem file or model; 130 after Ctrl-C. Set
JAX_PLATFORMS=cpu to leave an accelerator alone.
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        renamed=RENAMED | OLD_NAMES,
        details=True,
        prog="python -m gopd_jax.evaluate",
        usage="%(prog)s --model=MODEL --suite=SUITE --out=FOLDER [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    group = parser.add_argument_group("what is scored")
    group.add_argument("--model", required=True, help="Hugging Face folder or hub id")
    group.add_argument("--suite", required=True, help="benchmarks by name or file, see below")
    group.add_argument(
        "--benchmark-dir",
        default="",
        metavar="FOLDER",
        help="holds the files of benchmarks given by name",
    )
    group.add_argument(
        "--out", required=True, metavar="FOLDER", help="results to write or to resume"
    )
    group.add_argument(
        "--compare",
        default="",
        metavar="FOLDER",
        help="--out of an earlier evaluation of the same problems",
    )
    group.add_argument(
        "--samples-per-prompt",
        type=cli.integer(1),
        metavar="K",
        help="samples of each problem (default: as in the paper, 32 for math, 4 for code)",
    )
    add_limit_options(group, DEFAULT_MAX_TOKENS)
    group.add_argument(
        "--prompt-suffix",
        metavar="TEXT",
        help="appended to each prompt (default: math asks for steps and a \\boxed{} answer, unless "
        "the prompt does)",
    )
    _add_reward(group)
    add_sampling_options(parser)
    group = add_engine_options(parser)
    group.add_argument(
        "--verifier-workers",
        type=cli.integer(1),
        default=max(1, (os.cpu_count() or 2) // 2),
        metavar="N",
        help="processes that verify (default: half the CPU cores)",
    )
    group.add_argument(
        "--verifier-timeout-s",
        type=cli.positive_number,
        default=10.0,
        metavar="S",
        help="seconds for one answer, all its tests together; LiveCodeBench has 6 for each test "
        "(default: %(default)s)",
    )
    return parser


def _add_reward(group: ArgumentGroup) -> None:
    group.add_argument(
        "--reward",
        type=cli.reward_option("auto", "math", "code"),
        default="auto",
        metavar="REWARD",
        help="how a file that is not known by name is verified: auto (default: code if the ground "
        "truth is a test specification, else math), math or code; or package.module:function of "
        "yours, for every benchmark",
    )


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    with cli.importing(RESUMES):
        from gopd_jax.evaluate.run import evaluate  # JAX and transformers: seconds, not for --help

    return cli.run(evaluate, args, stopped=RESUMES)


if __name__ == "__main__":
    sys.exit(main())
