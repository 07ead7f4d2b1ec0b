"""Makes the embedded models with this project's own SFT and GRPO: a base, then a math teacher and a code teacher from it.

    python -m gopd_jax.tiny.make --out=FOLDER [--only=base|math_teacher|code_teacher] [--workdir=runs/tiny_make]

The base learns from right answers, then from answers of which many are wrong; each teacher is the base after GRPO on verified
rewards of one domain.
Seeds are fixed: made twice on one machine, the files were the same to the last byte. Those in the tree were made by commit
5926e88; the sampler has changed since, so this commit makes others (docs/log.md). Time: 16 minutes on 2 busy CPU cores.
"""

import argparse
import pathlib
import sys

from absl import logging
import jax

from gopd_jax import export, tiny, train
from gopd_jax.config import CheckpointConfig, Config, DataConfig, DomainConfig, EvalConfig, LearnerConfig, RolloutConfig
from gopd_jax.models import ModelConfig
from gopd_jax.models.decoder import init_params
from gopd_jax.models.huggingface_save import save_pretrained
from gopd_jax.runtime.progress import say
from gopd_jax.tiny.tokenizer import SPECIAL, VOCAB_SIZE, save_tokenizer

MODEL = ModelConfig(
    family="qwen3", vocab_size=VOCAB_SIZE, layers=2, width=64, heads=4, kv_heads=2, head_size=16, mlp_width=192,
    norm_eps=1e-6, rope_theta=10000.0, tied_embeddings=True, max_positions=512,
)  # fmt: skip
DOMAINS = {
    "math": DomainConfig(train="tiny:math/train", test="tiny:math/test", reward="math"),
    "code": DomainConfig(train="tiny:code/train", test="tiny:code/test", reward="code"),
}
EVAL = EvalConfig(prompts=1024, samples=1)


def base_config(start: str, split: str) -> Config:
    """SFT on both domains: a random start on right answers (split "sft"), then that on partly wrong ones ("noisy")."""
    steps, rate, schedule, warmup = {"sft": (1400, 3e-3, "cosine", 50), "noisy": (150, 5e-4, "linear", 20)}[split]
    domains = {n: DomainConfig(train=f"tiny:{n}/{split}", test=f"tiny:{n}/test", reward=n) for n in DOMAINS}
    return Config(
        name=f"tiny_base_{split}",
        method="sft",
        student=start,
        domains=domains,
        steps=steps,
        data=DataConfig(max_prompt_tokens=40),
        rollout=RolloutConfig(prompts_per_step=256, max_response_tokens=32, slots=512),
        learner=LearnerConfig(
            learning_rate=rate,
            schedule=schedule,
            warmup_steps=warmup,
            b2=0.99,
            row_length=72,
            rows_per_micro_batch=64,
            remat=False,
        ),
        eval=EVAL,
        checkpoint=CheckpointConfig(every=500),
    )


def teacher_config(domain: str, base: str) -> Config:
    """GRPO of the base on one domain."""
    prompt, response, row = {"math": (12, 20, 64), "code": (40, 32, 72)}[domain]
    return Config(
        name=f"tiny_{domain}_teacher",
        method="grpo",
        student=base,
        domains={domain: DOMAINS[domain]},
        steps=20,
        data=DataConfig(max_prompt_tokens=prompt),
        rollout=RolloutConfig(prompts_per_step=64, samples_per_prompt=8, max_response_tokens=response, slots=512),
        learner=LearnerConfig(learning_rate=3e-4, row_length=row, rows_per_micro_batch=128, remat=False),
        eval=EVAL,
        checkpoint=CheckpointConfig(every=20),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(tiny.MODELS), help="folder for the model folders (default: the embedded ones)")
    parser.add_argument("--workdir", default="runs/tiny_make", help="folder for the runs that make them")
    parser.add_argument("--only", choices=["base", "math_teacher", "code_teacher"], help="make one; teachers need OUT/base")
    args = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax warns that it opens a finished run read-only
    out, workdir = pathlib.Path(args.out), pathlib.Path(args.workdir)
    for name in ["base", "math_teacher", "code_teacher"] if args.only is None else [args.only]:
        if (out / name).exists():
            say(f"{out / name} exists: delete it to make it again")
            sys.exit(2)
        if name == "base":
            start, knows = workdir / "start", workdir / "knows"
            if not start.exists():
                save_tokenizer(workdir / "tokenizer")
                ids = {"pad_token_id": SPECIAL.index("<|pad|>"), "eos_token_id": SPECIAL.index("<|end|>")}
                save_pretrained(start, MODEL, init_params(MODEL, jax.random.key(0)), "float32", workdir / "tokenizer", ids)
            train.run(base_config(str(start), "sft"), str(workdir / "base_sft"))
            if not knows.exists():
                export.export(str(workdir / "base_sft"), str(knows), dtype="float32")
            train.run(base_config(str(knows), "noisy"), str(workdir / "base_noisy"))
            export.export(str(workdir / "base_noisy"), str(out / name), dtype="float32")
        else:
            train.run(teacher_config(name.removesuffix("_teacher"), str(out / "base")), str(workdir / name))
            export.export(str(workdir / name), str(out / name), dtype="float32")


if __name__ == "__main__":
    main()
