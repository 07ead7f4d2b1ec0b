"""Command: ExPO, the baseline without training: a teacher's weights extrapolated away from the student's start.

python -m gopd_jax.expo --student=base --teacher=math_teacher --alpha=0.5 --out=expo
"""

import argparse
import math
import sys

from absl import logging
import jax
import jax.numpy as jnp

from gopd_jax.data.tokenizer import ChatTokenizer, check_same_vocabulary
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params, logical_axes
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.huggingface_save import check_free, save_pretrained
from gopd_jax.runtime.mesh import make_mesh, shardings
from gopd_jax.runtime.progress import say

EPILOG = """
  weights = teacher + alpha * (teacher - student)

element by element, in float32. Several --teacher are averaged first. alpha 0 is the (averaged) teacher, -1 the student; the
G-OPD paper (arXiv 2602.12125) compares with 0.25 and 0.5. ExPO: Zheng et al., arXiv 2404.16792. All models must have the same
architecture and vocabulary. The folder has the student's tokenizer and chat template and loads like any other model:
  python -m gopd_jax.evaluate --model=FOLDER --suite=math --data=DATA --out=RESULTS
"""


def extrapolate(
    student: str, teachers: list[str], alpha: float, out: str, dtype: str = "bfloat16"
) -> None:
    """Writes teacher + alpha (teacher - student), teachers averaged first, as the Hugging Face folder `out`.

    Raises:
        ValueError: a model that cannot be read, another architecture or vocabulary than the student's, or `out` is not free.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"--alpha={alpha}: wanted a finite number, such as 0.25 or 0.5")
    check_free(out)
    config = load_config(student)
    for path in teachers:
        if (other := load_config(path)) != config:
            raise ValueError(
                f"--teacher={path} is another architecture ({other}) than --student={student} ({config})"
            )
    roles = {"student": student} | {f"teacher {path}": path for path in teachers}
    check_same_vocabulary({role: ChatTokenizer.load(path) for role, path in roles.items()})
    places = shardings(make_mesh(), abstract_params(config), logical_axes(config))

    def load(path: str):
        return load_params(path, config, jnp.float32, places)

    add = jax.jit(lambda total, params: jax.tree.map(jnp.add, total, params), donate_argnums=0)
    total = load(teachers[0])
    for path in teachers[
        1:
    ]:  # one at a time: two models are in memory, however many teachers there are
        total = add(total, load(path))
    mix = jax.jit(
        lambda total, start: jax.tree.map(
            lambda t, s: (1 + alpha) * (t / len(teachers)) - alpha * s, total, start
        ),
        donate_argnums=0,
    )
    save_pretrained(out, config, mix(total, load(student)), dtype=dtype, tokenizer_from=student)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m gopd_jax.expo",
        description="Extrapolate a teacher's weights beyond it, away from the student's start (ExPO); no training.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--student", required=True, help="where the teachers began: Hugging Face folder or hub id"
    )
    parser.add_argument(
        "--teacher",
        required=True,
        action="append",
        help="the same model after training; may be given again",
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
    args = parser.parse_args(argv)
    logging.set_verbosity(logging.ERROR)
    try:
        extrapolate(args.student, args.teacher, args.alpha, args.out, args.dtype)
    except (ValueError, OSError) as e:
        say(f"error: {e}")
        return 2
    say(
        f"wrote {args.out} ({args.dtype}): teacher + {args.alpha:g} (teacher - student), {len(args.teacher)} teachers averaged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
