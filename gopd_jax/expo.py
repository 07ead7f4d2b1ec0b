"""Command: ExPO, a baseline without training: a teacher's weights, extrapolated.

In: the folders of a student and of teachers that started from it. Out: a model folder.

python -m gopd_jax.expo --student=base --teacher=math_teacher --alpha=0.5 --out=expo
"""

import argparse
from collections.abc import Sequence
import dataclasses
import math
import sys

from gopd_jax import cli
from gopd_jax.runtime.progress import result

EPILOG = """
  weights = teacher + alpha * (teacher - student)

element by element, in float32. Several teachers are averaged first. An alpha of 0 gives the
(averaged) teacher, -1 the student; the G-OPD paper (arXiv 2602.12125) compares with 0.25 and 0.5.
ExPO: Zheng et al., arXiv 2404.16792. All models must have the same architecture and vocabulary. The
folder has the student's tokenizer and chat template and loads like any other model:
  python -m gopd_jax.evaluate --model=FOLDER --suite=math --benchmark-dir=DATA --out=RESULTS

Exit status: 0 done, 2 for a wrong option or model, 130 after Ctrl-C.
"""


def extrapolate(
    student: str, teachers: Sequence[str], alpha: float, out: str, dtype: str = "bfloat16"
) -> None:
    """Extrapolates teachers beyond themselves, away from the student's start.

        weights = teacher + alpha (teacher - student),   teacher = mean of the teachers

    Args:
        student: Hugging Face folder or hub id of the model that the teachers started from.
        teachers: folders or hub ids of the same model after training.
        alpha: how far beyond the teacher.
        out: folder to write.
        dtype: of the weights written, "bfloat16" or "float32".

    Raises:
        ValueError: alpha is not finite, a model cannot be read or has another architecture or
            vocabulary than the student, or `out` is not free.
    """
    # JAX and transformers take seconds to import, and `--help` needs neither.
    import jax
    import jax.numpy as jnp

    from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary
    from gopd_jax.models.config import load_config
    from gopd_jax.models.decoder import param_shardings
    from gopd_jax.models.huggingface import load_params
    from gopd_jax.models.huggingface_save import check_free, save_pretrained
    from gopd_jax.runtime.mesh import make_mesh
    from gopd_jax.types import Params

    if not math.isfinite(alpha):
        raise ValueError(f"--alpha={alpha}: expected a finite number, such as 0.25 or 0.5")
    check_free(out)
    config = load_config(student)
    ours = dataclasses.asdict(config)
    for path in teachers:
        theirs = dataclasses.asdict(load_config(path))
        differing = [name for name in ours if ours[name] != theirs[name]]
        if differing:
            raise ValueError(
                f"--teacher={path} is another architecture than --student={student}: "
                + "; ".join(f"{n}={theirs[n]!r}, expected {ours[n]!r}" for n in differing)
            )
    roles = {"student": student} | {f"teacher {path}": path for path in teachers}
    tokenizers = {role: ChatTokenizer.load(path) for role, path in roles.items()}
    check_same_vocabulary(tokenizers)
    for role, path in roles.items():
        tokenizers[role].check_fits(f"{role.split()[0]} {path!r}", config.vocab_size)
    shardings = param_shardings(config, make_mesh())

    def load(path: str) -> Params:
        return load_params(path, config, jnp.float32, shardings)

    def extrapolated(total: Params, start: Params) -> Params:
        return jax.tree.map(
            lambda t, s: (1 + alpha) * (t / len(teachers)) - alpha * s, total, start
        )

    # One teacher at a time: two models are in memory, however many teachers there are.
    add = jax.jit(lambda total, params: jax.tree.map(jnp.add, total, params), donate_argnums=0)
    total = load(teachers[0])
    for path in teachers[1:]:
        total = add(total, load(path))
    weights = jax.jit(extrapolated, donate_argnums=0)(total, load(student))
    save_pretrained(out, config, weights, dtype=dtype, tokenizer_from=student)


def make_parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m gopd_jax.expo",
        description="Extrapolate a teacher's weights beyond it, away from the student's start "
        "(ExPO); no training.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "--student",
        required=True,
        help="the model that the teachers started from: Hugging Face folder or hub id",
    )
    parser.add_argument(
        "--teacher",
        required=True,
        action="append",
        help="the same model after training; may be given several times",
    )
    parser.add_argument(
        "--alpha", type=float, default=0.5, help="how far beyond the teacher (default: %(default)s)"
    )
    parser.add_argument(
        "--out", required=True, help="folder to write; must not exist yet, or be empty"
    )
    parser.add_argument(
        "--dtype",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="of the weights written (default: %(default)s)",
    )
    return parser


def _expo(args: argparse.Namespace) -> None:
    extrapolate(args.student, args.teacher, args.alpha, args.out, args.dtype)
    result(
        f"wrote {args.out} ({args.dtype}): teacher + {args.alpha:g} (teacher - student), "
        f"{len(args.teacher)} teachers averaged",
        {"out": args.out, "dtype": args.dtype, "alpha": args.alpha, "teachers": args.teacher},
    )


def main(argv: list[str] | None = None) -> int:
    return cli.run(_expo, make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
