r"""Reward correction: from strong to weak, with the teacher's own start as the reference.

The teacher's start is the teacher before its RL. The implicit reward
lambda (log teacher - log reference) then holds what RL taught the teacher, and not the difference
in size between teacher and student. Nothing changes at lambda = 1, where the reference cancels.

tiny (default): the embedded world. Student: 107k parameters. Teacher: 252k parameters after GRPO;
    reference: that model before GRPO.
        python -m gopd_jax.train --config=reward_correction
    Hardware: 2 CPU cores. Time: 2 minutes. Expected: see docs/results.md.

qwen3_1_7b, qwen3_1_7b_code: the paper's runs (arXiv 2602.12125, Figure 6). Student: Qwen3-1.7B.
    Teacher: Qwen3-4B after GRPO (configs/grpo.py:qwen3_4b_math, qwen3_4b_code); reference:
    Qwen3-4B. 100 steps.
        python -m gopd_jax.train --config=reward_correction:qwen3_1_7b \
            --workdir=gs://BUCKET/corrected --config.domains.math.teacher=FOLDER
    Expected (paper, math / code): SFT 22.7 / 47.0, OPD 27.5 / 50.5, ExOPD with the student's start
    as the reference 28.1 / 51.3, corrected 28.7 / 52.3.
"""

from gopd_jax import tiny
from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: 252k teach 107k parameters, 2 minutes on 2 CPU cores",
        lambda: _tiny(),
    ),
    "qwen3_1_7b": Preset(
        "the paper's run: Qwen3-4B after GRPO on math teaches Qwen3-1.7B",
        lambda: _paper("math"),
    ),
    "qwen3_1_7b_code": Preset(
        "the paper's run: Qwen3-4B after GRPO on code teaches Qwen3-1.7B",
        lambda: _paper("code"),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("reward_correction", preset, PRESETS)


def _tiny():
    config = embedded({"math": "large_teacher"})
    config.reference = tiny.model("large_base")
    return config


def _paper(domain: str):
    config = paper("Qwen/Qwen3-1.7B", {domain: "TEACHER"}, steps=100)
    config.reference = "Qwen/Qwen3-4B"
    return config
