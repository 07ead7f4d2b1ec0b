"""The options that `gopd_jax.generate` and `gopd_jax.evaluate` share.

In: a parser or a group of its options. Out: the same with more options; `job.make_job` reads what
they parse to. Imports nothing but settings, so that `--help` answers at once.
"""

import argparse

from gopd_jax.cli import Parser, integer, json_object, number
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.schema import choices, defaults

RESUMES = "; the same command started again resumes from here"
DEFAULT_SLOTS = 64
DEFAULT_MAX_TOKENS = 1024  # of gopd_jax.generate
RENAMED = {
    "--stop-ids": "--extra-stop-ids",
    "--samples": "--samples-per-prompt",
    "--max-tokens": "--max-response-tokens",
    "--dtype": "--compute-dtype",
    "--enable-thinking": """--template-kwargs='{"enable_thinking": true}'""",
}

ArgumentGroup = argparse._ArgumentGroup  # argparse has no public name for it


def engine_options(args: argparse.Namespace) -> EngineOptions:
    """The engine options that a command has, as parsed; the others at their defaults."""
    given = {name: value for name, value in vars(args).items() if name in defaults(EngineOptions)}
    return EngineOptions(**given)


def sampling_rule(args: argparse.Namespace) -> SamplingRule:
    return SamplingRule(temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)


def add_limit_options(group: ArgumentGroup, max_tokens: int) -> None:
    """Adds the length limits and the seed; `max_tokens` is the default response limit."""
    group.add_argument(
        "--max-response-tokens",
        type=integer(1),
        metavar="N",
        help=f"response limit (default: {max_tokens}, or half the positions of the model)",
    )
    group.add_argument(
        "--max-prompt-tokens",
        type=integer(1),
        metavar="N",
        help="prompt limit, template included (default: the longest prompt)",
    )
    group.add_argument(
        "--seed",
        type=integer(0, 2**32 - 1),
        default=0,
        metavar="N",
        help="another seed draws other samples (default: %(default)s)",
    )


def add_sampling_options(parser: Parser) -> None:
    """Adds the group that decides which distribution is drawn from, and where a response ends."""
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--temperature",
        type=number(),
        default=1.0,
        metavar="T",
        help="0 is greedy (default: %(default)s)",
    )
    group.add_argument(
        "--top-k",
        type=integer(0),
        default=0,
        metavar="K",
        help="only the K most likely tokens (default: 0, all)",
    )
    group.add_argument(
        "--top-p",
        type=number(),
        default=1.0,
        metavar="P",
        help="only the most likely tokens that reach P (default: 1, all)",
    )
    group.add_argument(
        "--extra-stop-ids",
        type=integer(0),
        nargs="+",
        default=[],
        metavar="ID",
        help="token ids that end a response, besides those of the model",
    )
    group.add_argument(
        "--template-kwargs",
        type=json_object,
        metavar="JSON",
        help="keyword arguments of the chat template, as an object, such as "
        """'{"enable_thinking": true}'; those of a row override them""",
    )


def add_engine_options(parser: Parser) -> ArgumentGroup:
    """Adds the group that decides how the work is done, and returns it for further options."""
    group = parser.add_argument_group("how the work is done")
    group.add_argument(
        "--slots",
        type=integer(1),
        metavar="N",
        help=f"sequences decoded at once (default: {DEFAULT_SLOTS}, fewer for fewer samples)",
    )
    group.add_argument(
        "--compute-dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of activations and weights; auto is float32 on CPU, bfloat16 elsewhere",
    )
    helps = {
        "kernel": "decode attention kernel (default: %(default)s)",
        "kv_cache": "keys and values in the compute dtype or in int8 (default: %(default)s)",
        "weights": "weights in the compute dtype or in int8 (default: %(default)s)",
        "layout": "weights whole in each tensor group, or gathered by layer (default: %(default)s)",
    }
    for name, text in helps.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            choices=choices(EngineOptions, name),
            default=defaults(EngineOptions)[name],
            help=text,
        )
    group.add_argument(
        "--tensor",
        type=integer(1),
        default=1,
        metavar="N",
        help="devices that share each layer; the slots are spread over the rest",
    )
    return group
