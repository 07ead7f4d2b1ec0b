"""Command: how fast this machine runs a part of the project.

python -m gopd_jax.benchmark rollout --model=FOLDER --slots=64 --prompts=256
python -m gopd_jax.benchmark update --model=FOLDER
"""

import argparse
import sys
from typing import Any

from gopd_jax import cli
from gopd_jax.generate.options import RENAMED
from gopd_jax.learner.settings import PackingSettings
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.schema import choices, defaults

OLD_NAMES = {
    "--mean": "--mean-response-tokens",
    "--max-new": "--max-response-tokens",
    "--prompt-tokens": "--max-prompt-tokens",
}
EPILOG = """\
examples:
  python -m gopd_jax.benchmark rollout --model=FOLDER --slots=64 --prompts=256 \\
      --mean-response-tokens=64 --max-response-tokens=256
  python -m gopd_jax.benchmark rollout --model=FOLDER --workload=chat \\
      --prompt-file=gsm8k_test.jsonl --runs=5
  python -m gopd_jax.benchmark rollout --model=FOLDER --topology=v5e:8x8 --slots=256 \\
      --max-prompt-tokens=2048 --max-response-tokens=16384
  python -m gopd_jax.benchmark update --model=FOLDER --runs=5
  python -m gopd_jax.benchmark score --model=FOLDER --prompts=1024 --max-prompt-tokens=2048 \\
      --mean-response-tokens=4096 --max-response-tokens=16384 --count-only
  python -m gopd_jax.benchmark loop --config=math --steps=30 --config.rollout.slots=32
  python -m gopd_jax.benchmark growth --picture=growth.png
  python -m gopd_jax.benchmark head --vocabulary=151936 --width=2048 --tokens=16384 --rows=16 \\
      --topology=v5e:4x4

With --json, a line has a "record": "warm-up", "run", "program", "median", "compiled" or "counted",
for loop "step", "whole run" or "split", for growth "point" or "growth", and for head "head". The
first run is a warm-up and is not counted, and neither is any run or step that compiles. In rollout
with random weights, answers have geometric lengths: V / MEAN token ids, drawn at random, are stop
ids, so that one token in MEAN (--mean-response-tokens) ends an answer on average.

decode_ms_per_step is the milliseconds of a decode step, over the dispatches that begin with an idle
device, after no prefill; a run without any leaves it out.

update and score count operations of matrix products: the useful ones (real tokens, causal
attention, the head where a response is predicted, nothing twice) and those that are run. mfu is the
useful ones per second over the peak.

--parts adds mlp_of_peak and head_of_peak, what MLP and head run per second over the peak, forward
and backward; head_useful_of_peak counts no logits twice and no chunk filled up.

Exit status: 0 done, 2 for a wrong option, model or file, 130 after Ctrl-C.
"""

GROWTH = """\
The base has 8,192 ids, one teacher and 48 answers of 256 tokens (12 where the vocabulary grows). A
record "point" has what one value costs, a record "growth" the slopes of log cost against log value:
of seconds, seconds without the share that attention has in the executed operations, operations and
memory; for length, of one answer. at_most_linear allows 1.05 without attention.
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        parts=True,
        prog="python -m gopd_jax.benchmark",
        description="Measure a part of the project.",
        epilog=EPILOG,
    )
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")

    def add(name: str, what: str, how: str = "", **options: Any) -> argparse.ArgumentParser:
        return parts.add_parser(
            name,
            help=what,
            description=f"Measure {what}{how}.",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **options,
        )

    by_model = {"renamed": RENAMED | OLD_NAMES, "details": True}
    part = add(
        "rollout",
        "sampling: tokens per second, slot utilisation, bytes, compilations",
        **by_model,
    )
    _add_work(part)
    _add_engine(part)
    learner_parts = {
        "update": "a whole update: teacher and reference score, and the student learns",
        "score": "scoring by one frozen model",
    }
    for name, what in learner_parts.items():
        part = add(name, what, **by_model)
        _add_examples(part)
        _add_learner(part)
        _add_slices(part)
    part = add(
        "loop",
        "training: seconds of each phase of whole steps",
        ", in a run of the train command in a temporary folder",
        epilog="Any --config.FIELD=VALUE of the train command may follow.",
    )
    part.add_argument("--config", default="math", help="config file, as of the train command")
    part.add_argument("--steps", type=cli.integer(2), default=20, help="steps of the run")
    part = add(
        "growth",
        "growth: seconds and memory while one thing grows at a time",
        "; each point by benchmark update, in a process of its own",
        epilog=GROWTH,
    )
    _add_growth(part)
    part = add(
        "head",
        "heads: memory and seconds of each estimator, and of the full loss from whole arrays",
        ", with student, teacher and reference at lambda 1.25",
    )
    _add_head(part)
    return parser


def _add_head(part: argparse.ArgumentParser) -> None:
    """Adds the sizes, and the slice to compile for in place of running."""
    add, count = part.add_argument, {"type": cli.integer(1)}
    add("--vocabulary", **count, default=32_000, help="ids")
    add("--width", **count, default=512, help="of the hidden states of each model")
    add("--tokens", **count, default=2048, help="tokens, all of them trained on")
    add("--rows", **count, default=2, help="rows that they stand in")
    add("--no-reference", action="store_true", help="lambda 1: student and teacher alone")
    add("--runs", **count, default=3, help="runs after the warm-up; medians at the end")
    add("--tensor", **count, default=1, help="devices on the tensor axis; fsdp takes the others")
    add(
        "--topology",
        default="",
        help="compile for this TPU slice, such as v5e:4x4, and run nothing (needs libtpu)",
    )


def _add_growth(part: argparse.ArgumentParser) -> None:
    """Adds what grows, and the values that it takes."""
    add = part.add_argument
    values = {
        "vocabulary": (16, "32768,65536,151936", "ids of the vocabulary"),
        "length": (1, "256,512,1024,2048,4096", "tokens of a response, as many in all"),
        "rollouts": (1, "12,24,48,96", "answers"),
        "teachers": (1, "1,2,3,4", "teachers that share the answers"),
    }
    for name, (least, default, text) in values.items():
        help_ = f"{text}; two rising integers at least"
        add(f"--{name}", type=cli.rising(least), default=default, metavar="N,N,...", help=help_)
    names = {"choices": list(values), "default": list(values), "metavar": "NAME"}
    add("--vary", nargs="+", **names, help=f"what grows: {', '.join(values)}")
    add("--model", default="", help="folder of a config.json; else Qwen3, 4 layers, width 128")
    add("--max-prompt-tokens", type=cli.integer(1), default=64, help="length of every prompt")
    add("--runs", type=cli.integer(1), default=2, help="runs of a point, after its warm-up")
    add("--picture", default="", metavar="FILE.png", help="draw the points there")
    add(
        "--read",
        nargs="+",
        default=[],
        metavar="FILE",
        help="take the points that --json printed to these files, and measure none",
    )


def _add_examples(part: argparse.ArgumentParser) -> None:
    """Adds what the learner is measured on, and how often."""
    add = part.add_argument
    count = {"type": cli.integer(1)}
    add(
        "--model",
        required=True,
        help="Hugging Face folder or hub id; config.json is enough with --random-weights",
    )
    add("--random-weights", action="store_true", help="draw the weights instead of reading them")
    add(
        "--workload",
        choices=["torch_step", "random"],
        default="torch_step",
        help="torch_step: prompts of one length, each answer to one of its own; random: prompts "
        "and answers as of rollout; random token ids and geometric answer lengths in both",
    )
    add("--prompts", **count, default=64, help="number of prompts")
    add(
        "--max-prompt-tokens",
        **count,
        default=96,
        help="torch_step: length of every prompt; random: of the longest, the shortest has half",
    )
    add("--samples-per-prompt", **count, default=1, help="answers to each prompt")
    add("--teachers", **count, default=1, help="teachers, each of its own share of the answers")
    add(
        "--mean-response-tokens",
        **count,
        default=128,
        help="mean answer length, before the limit",
    )
    add("--max-response-tokens", **count, default=512, help="limit of an answer in tokens")
    add("--seed", type=cli.integer(0, 2**32 - 1), default=0, help="of the lengths and ids")
    add("--runs", **count, default=3, help="runs after the warm-up; medians at the end")


def _add_learner(part: argparse.ArgumentParser) -> None:
    """Adds how the learner does the work, and what it is compared with."""
    add = part.add_argument
    default = defaults(PackingSettings)
    add(
        "--rows-per-micro-batch",
        type=cli.integer(0),
        default=default["rows_per_micro_batch"],
        help="packed rows in one forward and backward pass; 0: as many as hold 2,048 tokens",
    )
    add(
        "--row-length",
        type=cli.integer(0),
        default=default["row_length"],
        help="tokens in a packed row; 0: prompt + response limit",
    )
    add(
        "--remat",
        choices=choices(PackingSettings, "remat"),
        default=default["remat"],
        help="what the backward pass computes again: of each layer nothing, all but its attention, "
        "all, or all from inputs that the host keeps",
    )
    add(
        "--no-share-prompts",
        action="store_true",
        help="compute the prompt of each sample, also where samples could share it",
    )
    add(
        "--compute-dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: float32 on CPU, bfloat16 elsewhere",
    )
    add(
        "--peak-flops",
        type=cli.positive_number,
        help="operations per second of all devices, for the MFU; without it, those of a large "
        "matrix product are measured",
    )
    add("--count-only", action="store_true", help="pack and count operations, and run nothing")
    add(
        "--parts",
        action="store_true",
        help="time MLP and head alone, too, forward and backward, as shares of the peak",
    )
    add(
        "--attention",
        choices=choices(PackingSettings, "attention"),
        default=default["attention"],
        help="attention kernel",
    )


def _add_slices(part: argparse.ArgumentParser) -> None:
    """Adds the devices, and the slices to compile for in place of running."""
    add = part.add_argument
    count = {"type": cli.integer(1)}
    add(
        "--topology",
        default="",
        help="compile for this TPU slice, such as v5e:4x4, and run nothing (needs libtpu); several "
        "with commas between them: prompts, rows and the data axis grow with the chips",
    )
    add("--picture", default="", metavar="FILE.png", help="draw what a chip of each slice takes")
    add("--data", **count, default=1, help="devices on the data axis; fsdp takes what is left")
    add("--tensor", **count, default=1, help="devices on the tensor axis")


def _add_work(part: argparse.ArgumentParser) -> None:
    """Adds what is sampled, and how often it is measured."""
    add = part.add_argument
    count = {"type": cli.integer(1)}
    add(
        "--model",
        required=True,
        help="Hugging Face folder or hub id; config.json is enough with --random-weights",
    )
    add("--random-weights", action="store_true", help="draw the weights instead of reading them")
    add(
        "--workload",
        choices=["random", "chat"],
        default="random",
        help="random token ids, or questions in the chat template",
    )
    add(
        "--prompt-file",
        default="",
        help='chat: a JSON-lines file with a "question" in each row, such as GSM8K',
    )
    add("--prompts", **count, default=256, help="number of prompts")
    add(
        "--max-prompt-tokens",
        **count,
        default=128,
        help="random: length of the longest prompt; the shortest has half of that",
    )
    add("--samples-per-prompt", **count, default=1, help="answers to each prompt")
    add(
        "--mean-response-tokens",
        **count,
        default=64,
        help="mean answer length, before the limit, with random weights",
    )
    add("--max-response-tokens", **count, default=256, help="limit of an answer in tokens")
    add("--temperature", type=cli.number(), default=1.0, help="0 is greedy")
    add("--top-k", type=cli.integer(0), default=0, help="0: off")
    add("--top-p", type=cli.number(), default=1.0, help="1: off")
    add("--runs", **count, default=3, help="runs after the warm-up; medians at the end")
    add(
        "--score",
        action="store_true",
        help="compare the sampler's log-probs with the learner's scorer",
    )


def _add_engine(part: argparse.ArgumentParser) -> None:
    """Adds how the engine does the work, and on which devices."""
    add = part.add_argument
    count = {"type": cli.integer(1)}
    default = defaults(EngineOptions)
    add("--slots", **count, default=64, help="answers drawn at once")
    add(
        "--compute-dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: float32 on CPU, bfloat16 elsewhere",
    )
    helps = {
        "kernel": "decode attention kernel",
        "kv_cache": "keys and values in the compute dtype or in int8",
        "weights": "weights in the compute dtype or in int8",
        "layout": "weights whole in each tensor group, or gathered by layer",
    }
    for name, text in helps.items():
        option = f"--{name.replace('_', '-')}"
        add(option, choices=choices(EngineOptions, name), default=default[name], help=text)
    add(
        "--steps-per-dispatch",
        **count,
        default=default["steps_per_dispatch"],
        help="tokens a slot draws in one dispatch",
    )
    add(
        "--prefill-tokens",
        **count,
        default=default["prefill_tokens"],
        help="prompt tokens of one prefill program",
    )
    add("--data", **count, default=1, help="devices on the data axis; fsdp takes what is left")
    add("--tensor", **count, default=1, help="devices on the tensor axis")
    add(
        "--topology",
        default="",
        help="compile for this TPU slice, such as v5e:8x8, and run nothing (needs libtpu)",
    )


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    if args.part == "loop":
        args.settings = [a for a in rest if a.startswith("--config.")]
        rest = [a for a in rest if a not in args.settings]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.part in ("update", "score") and args.picture and not args.topology:
        parser.error("--picture draws what is compiled for slices: expected --topology, too")
    # JAX: seconds, not for --help
    if args.part == "rollout":
        from gopd_jax.benchmark.rollout import benchmark
    elif args.part == "loop":
        from gopd_jax.benchmark.loop import benchmark
    elif args.part == "head":
        from gopd_jax.benchmark.heads import benchmark
    elif args.part == "growth":
        from gopd_jax.benchmark.growth import benchmark
    elif args.topology:
        from gopd_jax.benchmark.compiled_learner import benchmark
    else:
        from gopd_jax.benchmark.update import benchmark

    return cli.run(benchmark, args)


if __name__ == "__main__":
    sys.exit(main())
