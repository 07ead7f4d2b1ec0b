"""Command: makes the embedded models with this project's own SFT and GRPO.

    python -m gopd_jax.tiny.make --out=FOLDER [--only=NAME] [--workdir=runs/tiny_make]

base (107k parameters, math and code), large_base (252k, math) and steps_base (107k, steps) learn
from right answers, then from answers of which many are wrong. math_teacher and code_teacher are
base after GRPO on verified rewards of one domain; large_teacher is large_base after GRPO on math,
steps_teacher steps_base after GRPO on steps. hinted_base is base after more SFT on math, where half
of the questions end in their answer: it can read a hint.

Seeds are fixed: two runs on one machine gave the same files to the last byte. The three small
models in the tree were made by commit 5926e88; the sampler has changed since, so that a later
commit makes others (docs/log.md). They took 16 minutes on 2 busy CPU cores; the large ones, made
later, take longer.
"""

import argparse
import dataclasses
import pathlib
import sys

from absl import logging
import jax

from gopd_jax import cli, tiny
from gopd_jax.config import Config
from gopd_jax.data.embedded import REWARDS
from gopd_jax.data.settings import DataSettings, DomainSettings
from gopd_jax.evaluate.settings import EvalSettings
from gopd_jax.export.run import export
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models import exported
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import init_params
from gopd_jax.models.huggingface_save import check_free, save_pretrained
from gopd_jax.rollout.settings import RolloutSettings
from gopd_jax.runtime.files import check_output
from gopd_jax.runtime.progress import result
from gopd_jax.runtime.settings import CheckpointSettings, LogSettings
from gopd_jax.tiny.tokenizer import SPECIAL, VOCAB_SIZE, save_tokenizer
from gopd_jax.train.run import run as train

SMALL = ModelConfig(
    family="qwen3",
    vocab_size=VOCAB_SIZE,
    layers=2,
    width=64,
    heads=4,
    kv_heads=2,
    head_size=16,
    mlp_width=192,
    norm_eps=1e-6,
    rope_theta=10000.0,
    tied_embeddings=True,
    max_positions=512,
)
LARGE = dataclasses.replace(SMALL, layers=3, width=80, heads=6, kv_heads=3, mlp_width=240)

# Base -> architecture, domains, and steps of SFT on right answers.
BASES = {
    "base": (SMALL, ("math", "code"), 1400),
    "large_base": (LARGE, ("math",), 800),
    "steps_base": (SMALL, ("steps",), 3000),
}

# Teacher -> base, domain, and steps of GRPO.
TEACHERS = {
    "math_teacher": ("base", "math", 20),
    "code_teacher": ("base", "code", 20),
    "large_teacher": ("large_base", "math", 40),
    "steps_teacher": ("steps_base", "steps", 6),
}

# Model -> base, domain, and steps of SFT on questions of which half end in their answer.
HINTED = {"hinted_base": ("base", "math", 400)}

HINT_TOKENS = 5  # "=-999"
EVAL = EvalSettings(prompts=1024, samples=1)


def base_config(name: str, start: str, split: str) -> Config:
    """SFT of a base on one split of its domains' data.

    Args:
        name: the base.
        start: model folder that training starts from.
        split: "sft" (right answers), "noisy" (partly wrong ones) or "hinted".
    """
    if name in HINTED:
        _, domain, sft_steps = HINTED[name]
        domains = (domain,)
    else:
        _, domains, sft_steps = BASES[name]
    steps, rate, schedule, warmup = {
        "sft": (sft_steps, 3e-3, "cosine", 50),
        "noisy": (150, 5e-4, "linear", 20),
        "hinted": (sft_steps, 5e-4, "linear", 20),
    }[split]
    prompt, response, row = {"math": (12, 20, 84), "code": (40, 32, 72), "steps": (16, 44, 88)}[
        domains[-1]
    ]
    if name in HINTED:
        prompt += HINT_TOKENS
    return Config(
        name=f"tiny_{name}_{split}",
        method="sft",
        student=start,
        domains={domain: _domain(domain, split) for domain in domains},
        steps=steps,
        data=DataSettings(max_prompt_tokens=prompt),
        rollout=RolloutSettings(prompts_per_step=256, max_response_tokens=response, slots=512),
        learner=LearnerSettings(
            learning_rate=rate,
            schedule=schedule,
            warmup_steps=warmup,
            b2=0.99,
            row_length=row,
            rows_per_micro_batch=64,
            remat="none",
        ),
        eval=EVAL,
        checkpoint=CheckpointSettings(every=500),
        log=LogSettings(rewards=16),
    )


def teacher_config(name: str, start: str, domain: str, steps: int) -> Config:
    """GRPO on one domain, from the model folder `start`."""
    prompt, response, row = {
        "math": (12, 20, 64),
        "code": (40, 32, 72),
        "steps": (16, 44, 88),
    }[domain]
    return Config(
        name=f"tiny_{name}",
        method="grpo",
        student=start,
        domains={domain: _domain(domain, "train")},
        steps=steps,
        data=DataSettings(max_prompt_tokens=prompt),
        rollout=RolloutSettings(
            prompts_per_step=64, samples_per_prompt=8, max_response_tokens=response, slots=512
        ),
        learner=LearnerSettings(
            learning_rate=3e-4, row_length=row, rows_per_micro_batch=128, remat="none"
        ),
        eval=EVAL,
        checkpoint=CheckpointSettings(every=steps),
    )


def make(name: str, out: pathlib.Path, workdir: pathlib.Path) -> None:
    """Trains one model and writes it to OUT/NAME; continues a training run that was stopped.

    Args:
        name: a base or a teacher. A teacher needs its base in `out`.
        out: folder of the model folders.
        workdir: folder of the training runs.
    """
    if name in TEACHERS:
        base, domain, steps = TEACHERS[name]
        train(teacher_config(name, str(out / base), domain, steps), str(workdir / name))
        _export(workdir / name, out / name)
        return
    if name in HINTED:
        base = str(out / HINTED[name][0])
        train(base_config(name, base, "hinted"), str(workdir / name))
        _export(workdir / name, out / name)
        return
    start, after_sft = workdir / f"{name}_start", workdir / f"{name}_knows"
    if not start.exists():
        _save_untrained(BASES[name][0], start, workdir / "tokenizer")
    train(base_config(name, str(start), "sft"), str(workdir / f"{name}_sft"))
    if not after_sft.exists():
        _export(workdir / f"{name}_sft", after_sft)
    train(base_config(name, str(after_sft), "noisy"), str(workdir / f"{name}_noisy"))
    _export(workdir / f"{name}_noisy", out / name)


def _export(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Exports a student as a model of the embedded world: a place to start from, its own reference.

    What names the run that made it is taken away.
    """
    export(str(workdir), str(out), dtype="float32")
    for name in (exported.NAME, "README.md"):
        (out / name).unlink()


def _domain(name: str, split: str) -> DomainSettings:
    return DomainSettings(
        train=f"tiny:{name}/{split}", test=f"tiny:{name}/test", reward=REWARDS[name]
    )


def _save_untrained(model: ModelConfig, folder: pathlib.Path, tokenizer: pathlib.Path) -> None:
    """Writes a model folder with random parameters."""
    save_tokenizer(tokenizer)
    ids = {"pad_token_id": SPECIAL.index("<|pad|>"), "eos_token_id": SPECIAL.index("<|end|>")}
    params = init_params(model, jax.random.key(0))
    save_pretrained(folder, model, params, "float32", tokenizer, ids)


def main(argv: list[str] | None = None) -> int:
    names = [*BASES, *TEACHERS, *HINTED]
    parser = cli.Parser(prog="python -m gopd_jax.tiny.make", description=__doc__)
    parser.add_argument(
        "--out",
        default=str(tiny.MODELS),
        help="folder for the model folders (default: the embedded ones)",
    )
    parser.add_argument(
        "--workdir",
        default="runs/tiny_make",
        help="folder for the training runs (default: %(default)s)",
    )
    parser.add_argument("--only", choices=names, help="make one; a teacher needs its base in OUT")
    args = parser.parse_args(argv)
    return cli.run(_make_all, args, names if args.only is None else [args.only])


def _make_all(args: argparse.Namespace, names: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens a finished run read-only
    out = pathlib.Path(args.out)
    for name in names:
        if (out / name).exists():
            raise ValueError(f"{out / name} exists: expected none; delete it to make it again")
        check_free(out / name)
        check_output("--workdir", pathlib.Path(args.workdir) / name / "run.json")
        make(name, out, pathlib.Path(args.workdir))
        result(f"made {out / name}", {"out": str(out / name)})


if __name__ == "__main__":
    sys.exit(main())
