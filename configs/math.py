r"""Single teacher, math: a student surpasses the teacher it learns from.

Claim: with lambda = 1.25 (ExOPD) the student ends above its own teacher, and further above it than
with lambda = 1 (OPD).

tiny (default): the embedded world. Student and reference: a base of 107k parameters whose answers
    to integer arithmetic are right about a quarter of the time. Teacher: that base after GRPO. 150
    steps of 512 samples.
        python -m gopd_jax.train --config=math
    Hardware: 2 CPU cores. Time: about 2 minutes. Expected, % of 8,192 held-out prompts right:
    start 27.0, teacher 53.6, student 56.0 +- 0.8 (lambda 1.25), 55.1 (1), 56.0 (1.5).

qwen3_4b: the paper's run (arXiv 2602.12125, Table 2). Student and reference: Qwen3-4B,
    non-thinking. Teacher: that model after 500 steps of GRPO on math
    (configs/grpo.py:qwen3_4b_math). Data: DeepMath, difficulty >= 6. 50 steps of 1024 prompts, one
    sample each, up to 16,384 tokens.
        python -m gopd_jax.train --config=math:qwen3_4b \
            --workdir=gs://BUCKET/math_4b --config.domains.math.teacher=FOLDER \
            --config.domains.math.test=aime24.jsonl
    Hardware: a slice whose memory holds three 4B models and Adam. Time: not measured by us.
    Expected (paper, average of four benchmarks at avg@32): start 15.4, teacher 46.0, OPD 46.5,
    ExOPD 48.0.

qwen3_1_7b: the same with Qwen3-1.7B; the paper has no single-teacher number for it.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: 107k parameters, 2 minutes on 2 CPU cores",
        lambda: embedded({"math": "math_teacher"}),
    ),
    "qwen3_4b": Preset(
        "the paper's run: Qwen3-4B learns from its copy after GRPO on math",
        lambda: paper("Qwen/Qwen3-4B", {"math": "TEACHER"}),
    ),
    "qwen3_1_7b": Preset(
        "the same with Qwen3-1.7B; not in the paper",
        lambda: paper("Qwen/Qwen3-1.7B", {"math": "TEACHER"}),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("math", preset, PRESETS)
