r"""GRPO: reinforcement learning on verified rewards, which makes the teachers.

tiny (default), tiny_code: the embedded base becomes a teacher. 20 steps of 64 prompts x 8 samples.
        python -m gopd_jax.train --config=grpo
        python -m gopd_jax.export --workdir=runs/grpo_tiny --out=teacher
    Hardware: 2 CPU cores. Time: 1 minute (code: 2). Expected: math from 27 to 54% right, code from
    20 to 76%.

qwen3_4b_math, qwen3_4b_code: the paper's teachers (arXiv 2602.12125). 128 prompts x 8 samples,
    learning rate 1e-6; math takes 500 steps of up to 16,384 tokens, code 300 steps of up to 8,192.
        python -m gopd_jax.train --config=grpo:qwen3_4b_math \
            --workdir=gs://BUCKET/math_teacher
    Expected (paper): math 15.4 -> 46.0, code 52.4 -> 61.2.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded math teacher: 1 minute on 2 CPU cores",
        lambda: _tiny("math"),
    ),
    "tiny_code": Preset(
        "the embedded code teacher: 2 minutes on 2 CPU cores",
        lambda: _tiny("code"),
    ),
    "qwen3_4b_math": Preset(
        "the paper's math teacher: Qwen3-4B, 500 steps",
        lambda: _paper("math", steps=500, tokens=16384),
    ),
    "qwen3_4b_code": Preset(
        "the paper's code teacher: Qwen3-4B, 300 steps",
        lambda: _paper("code", steps=300, tokens=8192),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("grpo", preset, PRESETS)


def _tiny(domain: str):
    config = embedded({domain: ""})
    config.method = "grpo"
    config.steps = 20
    config.rollout.prompts_per_step = 64
    config.rollout.samples_per_prompt = 8
    config.learner.learning_rate = 3e-4
    config.learner.schedule = "constant"
    config.eval.every = 0
    config.checkpoint.every = 10
    return config


def _paper(domain: str, steps: int, tokens: int):
    config = paper("Qwen/Qwen3-4B", {domain: ""}, steps)
    config.method = "grpo"
    config.rollout.prompts_per_step = 128
    config.rollout.samples_per_prompt = 8
    config.rollout.max_response_tokens = tokens
    config.learner.learning_rate = 1e-6
    return config
