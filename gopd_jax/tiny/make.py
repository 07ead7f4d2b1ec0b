"""Makes the embedded models with this project's own SFT and GRPO: two bases, and teachers from them.

    python -m gopd_jax.tiny.make --out=FOLDER [--only=NAME] [--workdir=runs/tiny_make]

base (107k parameters, both domains) and large_base (252k, math) learn from right answers, then from answers of which many are
wrong. math_teacher and code_teacher are base after GRPO on verified rewards of one domain; large_teacher is large_base after
GRPO on math.
Seeds are fixed: made twice on one machine, the files were the same to the last byte. The three small ones in the tree were made
by commit 5926e88; the sampler has changed since, so this commit makes others (docs/log.md). They took 16 minutes on 2 busy CPU
cores; the large ones, made later, take longer.
"""

import argparse
import dataclasses
import pathlib
import sys

from absl import logging
import jax

from gopd_jax import export, tiny, train
from gopd_jax.config import Config
from gopd_jax.data.settings import DataSettings, DomainSettings
from gopd_jax.evaluate.settings import EvalSettings
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import init_params
from gopd_jax.models.huggingface_save import save_pretrained
from gopd_jax.rollout.settings import RolloutSettings
from gopd_jax.runtime.progress import say
from gopd_jax.runtime.settings import CheckpointSettings, LogSettings
from gopd_jax.tiny.tokenizer import SPECIAL, VOCAB_SIZE, save_tokenizer

SMALL = ModelConfig(
    family="qwen3", vocab_size=VOCAB_SIZE, layers=2, width=64, heads=4, kv_heads=2, head_size=16, mlp_width=192,
    norm_eps=1e-6, rope_theta=10000.0, tied_embeddings=True, max_positions=512,
)  # fmt: skip
LARGE = dataclasses.replace(SMALL, layers=3, width=80, heads=6, kv_heads=3, mlp_width=240)
BASES = {"base": (SMALL, ("math", "code")), "large_base": (LARGE, ("math",))}
SFT_STEPS = {"base": 1400, "large_base": 800}
TEACHERS = {
    "math_teacher": ("base", "math", 20),
    "code_teacher": ("base", "code", 20),
    "large_teacher": ("large_base", "math", 40),
}
DOMAINS = {
    "math": DomainSettings(train="tiny:math/train", test="tiny:math/test", reward="math"),
    "code": DomainSettings(train="tiny:code/train", test="tiny:code/test", reward="code"),
}
EVAL = EvalSettings(prompts=1024, samples=1)


def base_config(name: str, start: str, split: str) -> Config:
    """SFT: a random start on right answers (split "sft"), then that on partly wrong ones ("noisy")."""
    steps, rate, schedule, warmup = {
        "sft": (SFT_STEPS[name], 3e-3, "cosine", 50),
        "noisy": (150, 5e-4, "linear", 20),
    }[split]
    names = BASES[name][1]
    prompt, row = (40, 72) if "code" in names else (12, 84)
    return Config(
        name=f"tiny_{name}_{split}",
        method="sft",
        student=start,
        domains={
            n: DomainSettings(train=f"tiny:{n}/{split}", test=f"tiny:{n}/test", reward=n)
            for n in names
        },
        steps=steps,
        data=DataSettings(max_prompt_tokens=prompt),
        rollout=RolloutSettings(
            prompts_per_step=256, max_response_tokens=32 if "code" in names else 20, slots=512
        ),
        learner=LearnerSettings(
            learning_rate=rate,
            schedule=schedule,
            warmup_steps=warmup,
            b2=0.99,
            row_length=row,
            rows_per_micro_batch=64,
            remat=False,
        ),
        eval=EVAL,
        checkpoint=CheckpointSettings(every=500),
        log=LogSettings(rewards=16),
    )


def teacher_config(name: str, start: str, domain: str, steps: int) -> Config:
    """GRPO of a model on one domain."""
    prompt, response, row = {"math": (12, 20, 64), "code": (40, 32, 72)}[domain]
    return Config(
        name=f"tiny_{name}",
        method="grpo",
        student=start,
        domains={domain: DOMAINS[domain]},
        steps=steps,
        data=DataSettings(max_prompt_tokens=prompt),
        rollout=RolloutSettings(
            prompts_per_step=64, samples_per_prompt=8, max_response_tokens=response, slots=512
        ),
        learner=LearnerSettings(
            learning_rate=3e-4, row_length=row, rows_per_micro_batch=128, remat=False
        ),
        eval=EVAL,
        checkpoint=CheckpointSettings(every=steps),
    )


def make(name: str, out: pathlib.Path, workdir: pathlib.Path) -> None:
    """Trains one model, or goes on where an earlier start was stopped, and writes OUT/NAME; a teacher needs its base in OUT."""
    if name in TEACHERS:
        base, domain, steps = TEACHERS[name]
        train.run(teacher_config(name, str(out / base), domain, steps), str(workdir / name))
        export.export(str(workdir / name), str(out / name), dtype="float32")
        return
    start, knows = workdir / f"{name}_start", workdir / f"{name}_knows"
    if not start.exists():
        save_tokenizer(workdir / "tokenizer")
        ids = {"pad_token_id": SPECIAL.index("<|pad|>"), "eos_token_id": SPECIAL.index("<|end|>")}
        model = BASES[name][0]
        save_pretrained(
            start,
            model,
            init_params(model, jax.random.key(0)),
            "float32",
            workdir / "tokenizer",
            ids,
        )
    train.run(base_config(name, str(start), "sft"), str(workdir / f"{name}_sft"))
    if not knows.exists():
        export.export(str(workdir / f"{name}_sft"), str(knows), dtype="float32")
    train.run(base_config(name, str(knows), "noisy"), str(workdir / f"{name}_noisy"))
    export.export(str(workdir / f"{name}_noisy"), str(out / name), dtype="float32")


def main() -> None:
    names = [*BASES, *TEACHERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        default=str(tiny.MODELS),
        help="folder for the model folders (default: the embedded ones)",
    )
    parser.add_argument(
        "--workdir", default="runs/tiny_make", help="folder for the runs that make them"
    )
    parser.add_argument("--only", choices=names, help="make one; a teacher needs its base in OUT")
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens a finished run read-only
    out = pathlib.Path(args.out)
    for name in names if args.only is None else [args.only]:
        if (out / name).exists():
            say(f"{out / name} exists: delete it to make it again")
            sys.exit(2)
        make(name, out, pathlib.Path(args.workdir))


if __name__ == "__main__":
    main()
