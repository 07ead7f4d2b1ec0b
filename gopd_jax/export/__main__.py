"""Command: the student of a run as a Hugging Face folder, for transformers, vLLM or the hub.

python -m gopd_jax.export --workdir=runs/math --out=exported/math --step=200 --dtype=bfloat16
python -m gopd_jax.export --workdir=runs/math --out=exported/math --push-to-hub=OWNER/NAME
python -m gopd_jax.export --workdir=runs/lora --out=exported/adapter --format=peft
"""

import argparse
import sys

from absl import logging

from gopd_jax import cli
from gopd_jax.runtime.progress import result

EPILOG = """
The folder holds the weights (safetensors), config.json, generation_config.json, the tokenizer and
chat template of the model that the student started from, and a model card, README.md, that says how
the model was made and what it scored. It is read with
  transformers.AutoModelForCausalLM.from_pretrained("FOLDER")   or   vllm serve FOLDER

Of a run with config.lora.rank, the adapter is merged into the model that it started from.
--format=peft writes the adapter alone, for peft.PeftModel.from_pretrained(MODEL, "FOLDER") or
vllm serve MODEL --enable-lora.

--push-to-hub uploads the folder as one commit. The token is that of `hf auth login` or HF_TOKEN; it
is checked before the work. The card names local models and files by their last name alone.

The command runs in one process, on the devices it finds; set JAX_PLATFORMS=cpu to leave an
accelerator alone. The student must fit there in float32, 4 bytes for each parameter.

Exit status: 0 done, 2 for a wrong option or run, 130 after Ctrl-C.
"""


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m gopd_jax.export",
        description="Write the trained student of a run as a Hugging Face folder.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--workdir", required=True, help="folder of the run: the --workdir given to gopd_jax.train"
    )
    parser.add_argument(
        "--out", required=True, help="folder to write; must not exist yet, or be empty"
    )
    parser.add_argument(
        "--step", type=cli.integer(0), help="checkpoint to export (default: the latest)"
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        help="of the weights written; float32 is what was trained (default: bfloat16, float32 with "
        "--format=peft)",
    )
    parser.add_argument(
        "--format",
        choices=["merged", "peft"],
        default="merged",
        help="a whole model, or the adapter of a run with config.lora.rank alone, as PEFT reads it "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="upload the folder to this model repository, which is created if it does not exist",
    )
    parser.add_argument(
        "--private", action="store_true", help="a repository that is created is private"
    )
    return parser


def _export(args: argparse.Namespace) -> None:
    if args.private and not args.push_to_hub:
        raise ValueError("--private: expected --push-to-hub=OWNER/NAME as well")
    # JAX and Orbax take seconds to import, and `--help` needs neither.
    with cli.importing():
        from gopd_jax.export import hub
        from gopd_jax.export.run import export

    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens the run read-only
    if args.push_to_hub:
        hub.check_can_push(args.push_to_hub)
    alone = args.format == "peft"
    dtype = args.dtype or ("float32" if alone else "bfloat16")
    public = bool(args.push_to_hub)
    step = export(args.workdir, args.out, args.step, dtype, public=public, form=args.format)
    what = "adapter" if alone else "student"
    lines = [f"wrote the {what} of step {step} to {args.out} ({dtype})"]
    where, pushed = args.out, None
    if args.push_to_hub:
        message = f"{what.capitalize()} of step {step} ({dtype})"
        pushed = hub.push(args.out, args.push_to_hub, args.private, message)
        lines.append(f"pushed it to {pushed}")
        where = args.push_to_hub
    if alone:
        lines += [
            f'load it: peft.PeftModel.from_pretrained(MODEL, "{where}")',
            f"serve it: vllm serve MODEL --enable-lora --lora-modules student={where}",
        ]
    else:
        lines += [
            f'load it: transformers.AutoModelForCausalLM.from_pretrained("{where}", dtype="auto")',
            f"serve it: vllm serve {where}",
        ]
    record = {"out": args.out, "step": step, "dtype": dtype, "pushed_to": pushed}
    result("\n".join(lines), record)


def main(argv: list[str] | None = None) -> int:
    return cli.run(_export, make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
