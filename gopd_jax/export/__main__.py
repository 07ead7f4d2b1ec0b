"""Command: the student of a run as a Hugging Face folder, for transformers, vLLM or the hub.

In: a run folder with a checkpoint. Out: a model folder. The run is only read.

python -m gopd_jax.export --workdir=runs/math --out=exported/math --step=200 --dtype=bfloat16
"""

import argparse
import sys

from absl import logging

from gopd_jax import cli

EPILOG = """
The folder holds the weights (safetensors), config.json, generation_config.json, and the tokenizer
and chat template of the model that the student started from. It is read with
  transformers.AutoModelForCausalLM.from_pretrained("FOLDER")   or   vllm serve FOLDER

The command runs in one process, on the devices it finds; set JAX_PLATFORMS=cpu to leave an
accelerator alone. The student must fit there in float32, 4 bytes for each parameter.

Exit status: 0 done, 2 for a wrong option or run, 130 after Ctrl-C.
"""


def export(workdir: str, out: str, step: int | None = None, dtype: str = "bfloat16") -> int:
    """Writes the student of a run as a Hugging Face folder.

    Args:
        workdir: folder of the run.
        out: folder to write.
        step: step of the checkpoint; None takes the latest.
        dtype: of the weights written, "bfloat16" or "float32".

    Returns:
        The step.

    Raises:
        ValueError: there is no such run or step, or `out` is not free.
    """
    # JAX and Orbax take seconds to import, and `--help` needs neither.
    from gopd_jax.models.config import load_config
    from gopd_jax.models.decoder import abstract_params, param_shardings
    from gopd_jax.models.huggingface_save import check_free, save_pretrained
    from gopd_jax.runtime.checkpoint import restore_params
    from gopd_jax.runtime.mesh import make_mesh, with_shardings
    from gopd_jax.runtime.run_folder import read_run

    student = read_run(workdir)["config"]["student"]
    check_free(out)  # before restoring, which can take minutes
    config = load_config(student)
    abstract = with_shardings(abstract_params(config), param_shardings(config, make_mesh()))
    step, params = restore_params(workdir, step, abstract)
    save_pretrained(out, config, params, dtype=dtype, tokenizer_from=student)
    return step


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
        default="bfloat16",
        help="of the weights written (default: %(default)s)",
    )
    return parser


def _export(args: argparse.Namespace) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens the run read-only
    step = export(args.workdir, args.out, args.step, args.dtype)
    print(f"wrote the student of step {step} to {args.out} ({args.dtype})")
    print(
        f'load it: transformers.AutoModelForCausalLM.from_pretrained("{args.out}", dtype="auto")   '
        f"or: vllm serve {args.out}"
    )


def main(argv: list[str] | None = None) -> int:
    return cli.run(_export, make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
