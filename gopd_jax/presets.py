"""What the config files have in common: the embedded world's settings, and the paper's (arXiv 2602.12125, its settings tables).

A config file takes one of the two, says which models learn from which, and holds the lab notes. Paper values that are defaults
already (`gopd_jax.config`) are written out here all the same, so that they can be read in one place.
"""

from collections.abc import Callable, Mapping

from ml_collections import config_dict

from gopd_jax import tiny
from gopd_jax.config import default, domain
from gopd_jax.data.messages import MATH_SUFFIX

PAPER_DATA = {  # your own copies: --config.domains.NAME.train=FILE and .test=FILE
    "math": {
        "train": "hf://datasets/zwhe99/DeepMath-103K/data/train-*.parquet",
        "min_difficulty": 6.0,  # 57K prompts; rows without a difficulty, as in the verl schema, want 0
        "test": "aime24.jsonl",
        "reward": "math",
        "prompt_suffix": MATH_SUFFIX,
    },
    "code": {"train": "eurus_code.parquet", "test": "livecodebench.jsonl", "reward": "code"},
}


def choose(
    file: str, preset: str, presets: Mapping[str, Callable[[], config_dict.ConfigDict]]
) -> config_dict.ConfigDict:
    """The preset of a config file, named FILE_PRESET; an unknown one is a ValueError with the choices."""
    if preset not in presets:
        raise ValueError(
            f"configs/{file}.py:{preset}: no such preset; wanted one of {sorted(presets)}"
        )
    config = presets[preset]()
    config.name = f"{file}_{preset}"
    return config


def embedded(teachers: Mapping[str, str], student: str = "base") -> config_dict.ConfigDict:
    """A run of the embedded world: minutes on 2 CPU cores.

    Args:
        teachers: domain ("math", "code") -> embedded model that teaches it, or "".
        student: embedded model that learns.
    """
    config = default()
    config.student = tiny.model(student)
    for name, teacher in teachers.items():
        path = tiny.model(teacher) if teacher else ""
        config.domains[name] = domain(
            train=f"tiny:{name}/train", test=f"tiny:{name}/test", reward=name, teacher=path
        )
    config.steps = 150
    if "code" in teachers:
        config.data.max_prompt_tokens = 40
        config.rollout.max_response_tokens = 32
        config.learner.row_length = 72
        config.eval.samples = 2
        config.eval.prompts = 4096
    else:
        config.data.max_prompt_tokens = 12
        config.rollout.max_response_tokens = 20
        config.learner.row_length = 84  # three answers of the usual length
        config.eval.samples = 4
    config.rollout.prompts_per_step = config.rollout.slots = 512 * len(teachers)
    config.learner.reward_scale = 1.25
    config.learner.learning_rate = 1e-3
    config.learner.schedule = "linear"
    config.learner.rows_per_micro_batch = 64
    config.learner.remat = False
    config.eval.every = 50
    config.eval.during_prompts = 1024
    config.checkpoint.every = 25
    return config


def paper(student: str, teachers: Mapping[str, str], steps: int = 50) -> config_dict.ConfigDict:
    """A run of the paper: G-OPD with lambda 1.25.

    Args:
        student: hub id. teachers: domain -> hub id, or a name in capitals for a folder that only you have. steps: 50 where
            teacher and student are of one size, 100 from strong to weak.
    """
    config = default()
    config.student = student
    for name, teacher in teachers.items():
        config.domains[name] = domain(teacher=teacher, **PAPER_DATA[name])
    config.steps = steps
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
    config.learner.b1, config.learner.b2 = 0.9, 0.999
    config.learner.weight_decay = 0.01
    config.learner.clip_norm = 1.0
    config.eval.samples = 32 if list(teachers) == ["math"] else 4
    if "code" in teachers:
        config.verifier.update(
            timeout_s=10.0, memory_mb=1024
        )  # as `evaluate`: dozens of tests for each program
    config.checkpoint.every = 5
    return config
