r"""From strong to weak: a small student learns from a larger teacher.

The reference is the student's own start; configs/reward_correction.py uses the teacher's.

tiny (default): the embedded world. Student: 107k parameters. Teacher: 252k parameters after GRPO on
    math.
        python -m gopd_jax.train --config=strong_to_weak
    Hardware: 2 CPU cores. Time: 2 minutes. Expected: see docs/results.md.

qwen3_1_7b, qwen3_4b: the paper's runs (arXiv 2602.12125, Table 3). Teacher:
    Qwen3-30B-A3B-Instruct-2507 (MoE). 100 steps.
        python -m gopd_jax.train --config=strong_to_weak:qwen3_1_7b \
            --workdir=gs://BUCKET/strong_to_weak
    Expected (paper, math average): 1.7B: SFT 13.5, OPD 23.1, ExOPD 25.4. 4B: SFT 35.1, OPD 42.6,
    ExOPD 45.3.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

TEACHER = "Qwen/Qwen3-30B-A3B-Instruct-2507"


PRESETS = {
    "tiny": Preset(
        "the embedded world: 252k teach 107k parameters, 2 minutes on 2 CPU cores",
        lambda: embedded({"math": "large_teacher"}),
    ),
    "qwen3_1_7b": Preset(
        "the paper's run: Qwen3-30B-A3B teaches Qwen3-1.7B",
        lambda: paper("Qwen/Qwen3-1.7B", {"math": TEACHER}, steps=100),
    ),
    "qwen3_4b": Preset(
        "the paper's run: Qwen3-30B-A3B teaches Qwen3-4B",
        lambda: paper("Qwen/Qwen3-4B", {"math": TEACHER}, steps=100),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("strong_to_weak", preset, PRESETS)
