"""Command: draws samples and their log-probs from a Hugging Face model, without training.

python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompt-file=prompts.jsonl --out=samples.jsonl
"""

import sys

from gopd_jax import cli
from gopd_jax.generate.options import (
    DEFAULT_MAX_TOKENS,
    RENAMED,
    RESUMES,
    add_engine_options,
    add_limit_options,
    add_sampling_options,
)

DESCRIPTION = """\
Draw samples from a Hugging Face model, with the log-prob of every token.

example:
  cat > prompts.jsonl <<END
  {"prompt": "What is 17 * 23?"}
  {"prompt_id": "hi", "messages": [{"role": "user", "content": "Hi"}], "max_response_tokens": 64}
  END
  python -m gopd_jax.generate --model=Qwen/Qwen3-4B --prompt-file=prompts.jsonl \\
      --samples-per-prompt=4 --out=samples.jsonl
"""
EPILOG = """\
FILE: JSON lines. Each has "messages" (a chat: role and content) or "prompt" (the text of one
user message), and may have "prompt_id" (unique; default line-N, where N is the line number),
"max_response_tokens" (the response limit of this prompt), "tools" and "chat_template_kwargs";
messages may hold tool calls and results, as in training. The chat template of the model is
applied. A prompt over a limit is reported and skipped.

OUT: JSON lines, one for each sample as soon as it is finished, in any order: prompt_id, sample_id
(0 to samples - 1), text (without special tokens), tokens (ids, including the stop token), logprobs
(one for each token, in nats, of the distribution it was drawn from: after temperature, top-k and
top-p), finish_reason ("stop" or "length"). The settings, versions, counts, skipped prompts and
speed are written beside it, to OUT with the suffix .summary.json.

The same command started again resumes: the samples in OUT stay. A sample depends only on the seed,
its prompt, prompt_id and sample_id, so an interruption does not change it.

Exit status: 0 done; 2 for a wrong option, prompt file or model; 130 after Ctrl-C. Set
JAX_PLATFORMS=cpu to leave an accelerator alone.
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        renamed=RENAMED | {"--prompts": "--prompt-file"},
        details=True,
        prog="python -m gopd_jax.generate",
        usage="%(prog)s --model=MODEL --prompt-file=FILE.jsonl --out=FILE.jsonl [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    group = parser.add_argument_group("what is drawn")
    group.add_argument("--model", required=True, help="Hugging Face folder or hub id")
    group.add_argument(
        "--prompt-file", required=True, metavar="FILE", help="JSON lines of prompts, see below"
    )
    group.add_argument(
        "--out", required=True, metavar="FILE", help="JSON lines of samples to write or to resume"
    )
    group.add_argument(
        "--samples-per-prompt",
        type=cli.integer(1),
        default=1,
        metavar="N",
        help="samples of each prompt (default: %(default)s)",
    )
    add_limit_options(group, DEFAULT_MAX_TOKENS)
    add_sampling_options(parser)
    add_engine_options(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    with cli.importing(RESUMES):
        from gopd_jax.generate.run import generate  # JAX and transformers: seconds, not for --help

    return cli.run(generate, args, stopped=RESUMES)


if __name__ == "__main__":
    sys.exit(main())
