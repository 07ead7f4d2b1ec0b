r"""SFT on the teachers' answers: off-policy distillation, the baseline of the paper's tables.

Each step samples one answer of the domain's teacher to each prompt, as many as OPD samples of the
student, and raises their likelihood. With --config.domains.NAME.teacher= (empty) the answers are
those of the data set (field "response").

tiny (default): the embedded world, both teachers. tiny_math: the math teacher alone.
        python -m gopd_jax.train --config=sft
    Hardware: 2 CPU cores. Time: as configs/multi_teacher.py. Expected: see docs/results.md.

qwen3_4b: the paper's baseline (arXiv 2602.12125, Table 2): learning rate 1e-5, 5% warm-up, 50 steps
    of 1024 answers.
        python -m gopd_jax.train --config=sft:qwen3_4b --workdir=gs://BUCKET/sft \
            --config.domains.math.teacher=FOLDER --config.domains.code.teacher=FOLDER
    Expected (paper, math / code): 44.3 / 60.8.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: math and code, 10 minutes on 2 CPU cores",
        lambda: _tiny({"math": "math_teacher", "code": "code_teacher"}),
    ),
    "tiny_math": Preset(
        "the embedded world: math alone",
        lambda: _tiny({"math": "math_teacher"}),
    ),
    "qwen3_4b": Preset(
        "the paper's baseline: Qwen3-4B learns the answers of both teachers",
        lambda: _paper(),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("sft", preset, PRESETS)


def _tiny(teachers: dict[str, str]):
    config = embedded(teachers)
    config.method = "sft"
    config.learner.warmup_steps = 7  # 5%
    return config


def _paper():
    config = paper("Qwen/Qwen3-4B", {"math": "MATH_TEACHER", "code": "CODE_TEACHER"})
    config.method = "sft"
    config.learner.schedule = "constant"
    config.learner.warmup_steps = 2  # 5% of 50, rounded down
    return config
