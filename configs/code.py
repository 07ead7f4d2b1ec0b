r"""Single teacher, code: a student surpasses the teacher it learns from, on programs that are run.

tiny (default): the embedded world: linear functions of two integers, to be found from three of
    their values. 150 steps of 512 samples.
        python -m gopd_jax.train --config=code
    Hardware: 2 CPU cores. Time: 5 minutes, most of it running programs (--config.log.rewards=32
    runs fewer of them). Expected: see docs/results.md.

qwen3_4b: the paper's run (arXiv 2602.12125, Table 2). Student and reference: Qwen3-4B,
    non-thinking. Teacher: that model after 300 steps of GRPO on code
    (configs/grpo.py:qwen3_4b_code). Data: Eurus code, 25K prompts. 50 steps of 1024 prompts.
        python -m gopd_jax.train --config=code:qwen3_4b \
            --workdir=gs://BUCKET/code_4b --config.domains.code.teacher=FOLDER \
            --config.domains.code.train=eurus_code.parquet
    Expected (paper, average of HumanEval+, MBPP+ and LiveCodeBench at avg@4): start 52.4,
    teacher 61.2, OPD 60.8, ExOPD 62.1.
"""

from gopd_jax.presets import Preset, choose, embedded, paper

PRESETS = {
    "tiny": Preset(
        "the embedded world: 107k parameters, 5 minutes on 2 CPU cores",
        lambda: embedded({"code": "code_teacher"}),
    ),
    "qwen3_4b": Preset(
        "the paper's run: Qwen3-4B learns from its copy after GRPO on code",
        lambda: paper("Qwen/Qwen3-4B", {"code": "TEACHER"}),
    ),
}


def get_config(preset: str = "tiny"):
    return choose("code", preset, PRESETS)
