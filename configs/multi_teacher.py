r"""Several teachers, one for each domain: a student learns from a math and a code teacher.

Claim: one student reaches both domain teachers, and with lambda = 1.25 (ExOPD) ends above them.

tiny (default): the embedded world, both domains, half of each batch from each.
        python -m gopd_jax.train --config=multi_teacher
    Hardware: 2 CPU cores. Time: 10 minutes on a busy machine (--config.log.rewards=32 runs fewer
    programs). Expected, % right on math / code: start 28.6 / 20.3, teachers 54.4 / 76.3, student
    56.5 / 79.4 (sampler of commit 5926e88); over 5 seeds, with a third of the samples,
    55.6 / 80.2: docs/results.md.

qwen3_4b: the paper's run (arXiv 2602.12125, Table 2). Student and reference: Qwen3-4B,
    non-thinking. Teachers: that model after GRPO on math and on code. Equal data for each domain,
    50 steps of 1024 prompts.
        python -m gopd_jax.train --config=multi_teacher:qwen3_4b \
            --workdir=gs://BUCKET/multi_4b --config.domains.math.teacher=FOLDER \
            --config.domains.code.teacher=FOLDER
    Expected (paper, math / code averages): start 15.4 / 52.4, teachers 46.0 / 61.2,
    OPD 46.4 / 60.6, ExOPD 47.7 / 62.0.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: math and code, 10 minutes on 2 CPU cores",
        lambda: embedded({"math": "math_teacher", "code": "code_teacher"}),
    ),
    "qwen3_4b": Preset(
        "the paper's run: Qwen3-4B learns from its copy after GRPO on math and on code",
        lambda: paper("Qwen/Qwen3-4B", {"math": "MATH_TEACHER", "code": "CODE_TEACHER"}),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("multi_teacher", preset, PRESETS)
