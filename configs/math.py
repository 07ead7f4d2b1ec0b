r"""Single teacher, math: a student passes the teacher it learns from.

Claim: with lambda = 1.25 (ExOPD) the student ends above its own teacher, and further above than with lambda = 1 (OPD).

tiny (default): the embedded world. Student and reference: a base of 107k parameters that answers integer arithmetic right about
    half the time. Teacher: that base after GRPO. 150 steps of 512 samples.
        python -m gopd_jax.train --config=configs/math.py
    Hardware: 2 CPU cores. Time: about 2 minutes. Expected, % of 8,192 held-out prompts right: start 27.0, teacher 53.6, student
    56.0 +- 0.8 (lambda 1.25), 54.9 (1), 56.4 (1.5).

qwen3_4b: the paper's run (arXiv 2602.12125, Table 2). Student and reference: Qwen3-4B, non-thinking. Teacher: that model after
    500 steps of GRPO on math. Data: DeepMath, difficulty >= 6. 50 steps of 1024 prompts, one sample each, 16,384 tokens.
        python -m gopd_jax.train --config=configs/math.py:qwen3_4b --workdir=gs://BUCKET/math_4b \
            --config.domains.math.teacher=FOLDER --config.domains.math.train=deepmath.parquet \
            --config.domains.math.test=aime24.jsonl
    Hardware: a slice whose memory holds three 4B models and Adam. Time: not measured by us.
    Expected (paper, average of four benchmarks at avg@32): start 15.4, teacher 46.0, OPD 46.5, ExOPD 48.0.

qwen3_1_7b: the same with Qwen3-1.7B; the paper has no single-teacher number for it. With a larger model as the teacher
    and 100 steps it is the paper's strong-to-weak student.
"""

from gopd_jax import tiny
from gopd_jax.config import default, domain

MATH_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def get_config(preset: str = "tiny"):
    presets = {"tiny": _tiny, "qwen3_4b": lambda: _qwen3("Qwen/Qwen3-4B"), "qwen3_1_7b": lambda: _qwen3("Qwen/Qwen3-1.7B")}
    if preset not in presets:
        raise ValueError(f"configs/math.py:{preset}: no such preset; wanted one of {sorted(presets)}")
    config = presets[preset]()
    config.name = f"math_{preset}"
    return config


def _tiny():
    config = default()
    config.student = tiny.model("base")
    config.domains.math = domain(
        train="tiny:math/train", test="tiny:math/test", reward="math", teacher=tiny.model("math_teacher")
    )
    config.steps = 150
    config.data.max_prompt_tokens = 12
    config.rollout.prompts_per_step = 512
    config.rollout.max_response_tokens = 20
    config.rollout.slots = 512
    config.learner.reward_scale = 1.25
    config.learner.learning_rate = 1e-3
    config.learner.schedule = "linear"
    config.learner.row_length = 84  # three answers of the usual length
    config.learner.rows_per_micro_batch = 64
    config.learner.remat = False
    config.eval.samples = 4
    config.eval.every = 50
    config.eval.during_prompts = 1024
    config.checkpoint.every = 25
    return config


def _qwen3(student: str):
    """The paper's single-teacher values (section 4.1 and its table of hyper-parameters)."""
    config = default()
    config.student = student
    config.domains.math = domain(
        train="deepmath.parquet",
        test="aime24.jsonl",
        reward="math",
        teacher="TEACHER",  # a folder: the student after GRPO on math
        prompt_suffix=MATH_SUFFIX,
    )
    config.steps = 50
    config.data.max_prompt_tokens = 2048
    config.data.enable_thinking = False
    config.rollout.prompts_per_step = 1024
    config.rollout.samples_per_prompt = 1
    config.rollout.max_response_tokens = 16384
    config.rollout.temperature = 1.0
    config.rollout.top_p = 1.0
    config.learner.reward_scale = 1.25
    config.learner.learning_rate = 1e-5
    config.learner.schedule = "constant"
    config.learner.weight_decay = 0.01
    config.learner.clip_norm = 1.0
    config.eval.samples = 32
    config.checkpoint.every = 5
    return config
