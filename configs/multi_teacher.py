r"""Several teachers, each for its own domain: one student learns from a math teacher and a code teacher.

Claim: one student reaches both domain teachers, and with lambda = 1.25 (ExOPD) ends above them.

tiny (default): the embedded world, both domains, half of each batch from each.
        python -m gopd_jax.train --config=configs/multi_teacher.py
    Hardware: 2 CPU cores. Time: 10 minutes with other work beside it. Expected, % right on math / code:
    start 28.6 / 20.3, teachers 54.4 / 76.3, student 56.5 / 79.4 (sampler of commit 5926e88; not run since).

qwen3_4b: the paper's run (arXiv 2602.12125, Table 2). Student and reference: Qwen3-4B, non-thinking. Teachers: that model after
    GRPO on math and on code. Equal data for each domain, 50 steps of 1024 prompts.
        python -m gopd_jax.train --config=configs/multi_teacher.py:qwen3_4b --workdir=gs://BUCKET/multi_4b \
            --config.domains.math.teacher=FOLDER --config.domains.code.teacher=FOLDER
    Expected (paper, math / code averages): start 15.4 / 52.4, teachers 46.0 / 61.2, OPD 46.4 / 60.6, ExOPD 47.7 / 62.0.
"""

from gopd_jax import tiny
from gopd_jax.config import default, domain

MATH_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def get_config(preset: str = "tiny"):
    presets = {"tiny": _tiny, "qwen3_4b": _qwen3_4b}
    if preset not in presets:
        raise ValueError(f"configs/multi_teacher.py:{preset}: no such preset; wanted one of {sorted(presets)}")
    config = presets[preset]()
    config.name = f"multi_teacher_{preset}"
    return config


def _tiny():
    config = default()
    config.student = tiny.model("base")
    for name in ("math", "code"):
        config.domains[name] = domain(
            train=f"tiny:{name}/train", test=f"tiny:{name}/test", reward=name, teacher=tiny.model(f"{name}_teacher")
        )
    config.steps = 150
    config.data.max_prompt_tokens = 40
    config.rollout.prompts_per_step = 1024
    config.rollout.max_response_tokens = 32
    config.rollout.slots = 1024
    config.learner.reward_scale = 1.25
    config.learner.learning_rate = 1e-3
    config.learner.schedule = "linear"
    config.learner.row_length = 72
    config.learner.rows_per_micro_batch = 64
    config.learner.remat = False
    config.eval.samples = 2
    config.eval.prompts = 4096
    config.eval.every = 50
    config.eval.during_prompts = 1024
    config.checkpoint.every = 25
    return config


def _qwen3_4b():
    """The paper's multi-teacher values; everything that is not set here is already the paper's (see `gopd_jax.config`)."""
    config = default()
    config.student = "Qwen/Qwen3-4B"
    config.domains.math = domain(
        train="deepmath.parquet", test="aime24.jsonl", reward="math", teacher="MATH_TEACHER", prompt_suffix=MATH_SUFFIX
    )
    config.domains.code = domain(train="eurus_code.parquet", test="code_test.jsonl", reward="code", teacher="CODE_TEACHER")
    config.steps = 50
    config.learner.reward_scale = 1.25
    config.eval.samples = 4
    config.checkpoint.every = 5
    return config
