"""GRPO on a reward function of one's own, in seconds on a CPU.

The embedded student learns sums; `reward.py` grades each answer by its digits, so that an answer
which is nearly right earns something. In this folder, after `pip install .` in that of the project:
    python -m gopd_jax.train --config=config.py
With a teacher and method gopd, the same field only decides what is measured.
"""

from gopd_jax import tiny
from gopd_jax.config import default, domain


def get_config():
    config = default()
    config.name, config.method, config.steps = "own_reward", "grpo", 4
    config.student = tiny.model("base")
    config.domains.sums = domain(train="prompts.jsonl", held_out=32, reward="reward:digits")
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = 12, 20
    config.rollout.prompts_per_step, config.rollout.samples_per_prompt = 8, 4
    config.rollout.slots = 32
    config.learner.learning_rate = 3e-4
    config.learner.rows_per_micro_batch = 8
    return config
