"""What the config files share: the settings of the embedded world and those of the paper.

A config file (configs/*.py) starts from one of the two, says which models learn from which, and
holds the lab notes. In: models and domains. Out: a config dict. Imports neither JAX nor
transformers.

The paper is arXiv 2602.12125; the values are those of its tables of settings. Some are defaults
already (`gopd_jax.config`) and are written out all the same, so that they can be read in one place.
"""

from collections.abc import Callable, Mapping
import dataclasses

from ml_collections import ConfigDict

from gopd_jax import tiny
from gopd_jax.config import default, domain
from gopd_jax.data.embedded import REWARDS
from gopd_jax.data.messages import MATH_SUFFIX

# Give your own copies as --config.domains.NAME.train=FILE and --config.domains.NAME.test=FILE.
PAPER_DATA = {
    "math": {
        "train": "hf://datasets/zwhe99/DeepMath-103K/data/train-*.parquet",
        # 57K prompts. Rows without a difficulty, as in the verl schema, need 0.
        "min_difficulty": 6.0,
        "test": "aime24.jsonl",
        "reward": "math",
        "prompt_suffix": MATH_SUFFIX,
    },
    "code": {"train": "eurus_code.parquet", "test": "livecodebench.jsonl", "reward": "code"},
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """A preset of a config file: one line for `train --help`, and what makes the config."""

    about: str
    make: Callable[[], ConfigDict]


def choose(file: str, preset: str, presets: Mapping[str, Preset]) -> ConfigDict:
    """The preset of a config file, with the name FILE_PRESET.

    Args:
        file: name of the config file, without path and ending.
        preset: name of the preset.
        presets: the presets of the file; the first is the default.

    Raises:
        ValueError: there is no such preset; names the choices.
    """
    if preset not in presets:
        raise ValueError(
            f"configs/{file}.py:{preset}: no such preset; expected one of {sorted(presets)}"
        )
    config = presets[preset].make()
    config.name = f"{file}_{preset}"
    return config


def embedded(teachers: Mapping[str, str], student: str = "base") -> ConfigDict:
    """A run of the embedded world: minutes on 2 CPU cores.

    Args:
        teachers: domain ("math", "code", "steps") -> the embedded model that teaches it, or "".
        student: the embedded model that learns.
    """
    config = default()
    config.student = tiny.model(student)
    for name, teacher in teachers.items():
        path = tiny.model(teacher) if teacher else ""
        config.domains[name] = domain(
            train=f"tiny:{name}/train",
            test=f"tiny:{name}/test",
            reward=REWARDS[name],
            teacher=path,
        )
    config.steps = 150
    if "code" in teachers:
        config.data.max_prompt_tokens = 40
        config.rollout.max_response_tokens = 32
        config.eval.samples = 2
        config.eval.prompts = 4096
    elif "steps" in teachers:
        config.data.max_prompt_tokens = 16
        config.rollout.max_response_tokens = 44  # one answer in twenty of the base is cut there
        config.eval.samples = 2
        config.eval.prompts = 4096
    else:
        config.data.max_prompt_tokens = 12
        config.rollout.max_response_tokens = 20
        config.eval.samples = 4
    config.rollout.prompts_per_step = config.rollout.slots = 512 * len(teachers)
    config.learner.reward_scale = 1.25
    config.learner.learning_rate = 1e-3
    config.learner.schedule = "linear"
    config.learner.remat = "none"
    config.eval.every = 50
    config.eval.during_prompts = 1024
    config.checkpoint.every = 25
    return config


def paper(student: str, teachers: Mapping[str, str], steps: int = 50) -> ConfigDict:
    """A run of the paper: G-OPD with lambda 1.25.

    Args:
        student: hub id.
        teachers: domain -> hub id, or a name in capitals that stands for a folder of yours.
        steps: 50 if teacher and student have one size, 100 from strong to weak.
    """
    config = default()
    config.student = student
    for name, teacher in teachers.items():
        config.domains[name] = domain(teacher=teacher, **PAPER_DATA[name])
    config.steps = steps
    config.data.max_prompt_tokens = 2048
    config.data.template_kwargs.enable_thinking = False
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
        # The limits of `gopd_jax.evaluate`: every program runs against dozens of tests.
        config.verifier.update(timeout_s=10.0, memory_mb=1024)
    config.checkpoint.every = 5
    return config
