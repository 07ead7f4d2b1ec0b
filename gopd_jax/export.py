"""Command: the student of a run as a Hugging Face folder, for transformers, vLLM or the hub.

python -m gopd_jax.export --workdir=runs/math --out=exported/math --step=200 --dtype=bfloat16
"""

import argparse
import sys

from absl import logging
from etils import epath
import jax

from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.huggingface_save import check_free, save_pretrained
from gopd_jax.runtime.mesh import make_mesh, shardings

EPILOG = """
The folder holds weights (safetensors), config.json, generation_config.json, and the tokenizer and chat template of the model
the student started from. Read it with
  transformers.AutoModelForCausalLM.from_pretrained("FOLDER")   or   vllm serve FOLDER
Runs in one process, on whatever devices it sees; JAX_PLATFORMS=cpu keeps it off an accelerator that is in use. The student
must fit there in float32, 4 bytes for each parameter.
"""


def export(workdir: str, out: str, step: int | None = None, dtype: str = "bfloat16") -> int:
    """Writes the student of checkpoint `step` (None: the latest) of a run to the folder `out`; returns the step.

    Raises:
        ValueError: no such run, no such step, or `out` is not free.
    """
    from gopd_jax.runtime.checkpoint import restore_params
    from gopd_jax.runtime.run_folder import read_run

    if not epath.Path(workdir).is_dir():
        raise ValueError(
            f"no run at --workdir={workdir}: no such folder; wanted the --workdir of gopd_jax.train"
        )
    check_free(out)  # before minutes of restoring, not after
    student = read_run(workdir)["config"]["student"]
    config = load_config(student)
    abstract = abstract_params(config)
    mesh = make_mesh()
    placed = jax.tree.map(
        lambda p, s: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=s),
        abstract,
        shardings(mesh, abstract, logical_axes(config)),
    )
    step, params = restore_params(workdir, step, placed)
    save_pretrained(out, config, params, dtype=dtype, tokenizer_from=student)
    return step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gopd_jax.export",
        description="Write the trained student of a run as a Hugging Face folder.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--workdir", required=True, help="folder of the run: the --workdir given to gopd_jax.train"
    )
    parser.add_argument(
        "--out", required=True, help="folder to write; must not exist yet, or be empty"
    )
    parser.add_argument("--step", type=int, help="checkpoint to export (default: the latest)")
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of the weights written (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens the run read-only
    try:
        step = export(args.workdir, args.out, args.step, args.dtype)
    except (ValueError, FileNotFoundError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    print(f"wrote the student of step {step} to {args.out} ({args.dtype})")
    print(
        f'load it: transformers.AutoModelForCausalLM.from_pretrained("{args.out}", dtype="auto")   or: vllm serve {args.out}'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
