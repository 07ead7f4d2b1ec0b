"""Domains of `python -m gopd_jax.train` whose answers cannot be judged as the config says."""

from bad_train import config
from cases import case, write

REWARDS = "'math', 'code', 'none', or 'package.module:function'"


@case(
    "train",
    "domain that does not say how its answers are verified",
    f"config.domains.math.reward must be set: expected {REWARDS}",
)
def no_reward(folder):
    return [config(folder), "--config.domains.math.reward="]


@case(
    "train",
    "reward that there is not",
    f"config.domains.math.reward='cod': expected {REWARDS}; nearest: 'code'",
)
def unknown_reward(folder):
    return [config(folder), "--config.domains.math.reward=cod"]


@case(
    "train",
    "grpo without a reward",
    "config.domains.math.reward='none': expected one that verifies answers",
)
def grpo_without_reward(folder):
    options = ["--config.method=grpo", "--config.rollout.samples_per_prompt=2"]
    return [config(folder), *options, "--config.domains.math.reward=none"]


@case(
    "train",
    "reward function in a module that is not there",
    (
        "config.domains.math: reward 'judge:f': 'judge' cannot be imported (ModuleNotFoundError: "
        "No module named 'judge'); expected a module in"
    ),
)
def reward_without_module(folder):
    return [config(folder), "--config.domains.math.reward=judge:f"]


@case(
    "train",
    "reward function that its module does not have",
    "config.domains.math: reward 'judge:f': 'f' is nothing in judge (",
    "expected a function(record, answer); nearest: 'g'",
)
def reward_without_function(folder):
    write(folder / "judge.py", "def g(record, answer):\n    return 1.0\n")
    return [config(folder), "--config.domains.math.reward=judge:f"]


@case(
    "train",
    "reward function that fails for the first row",
    "config.domains.math: reward 'judge:f' raised KeyError: 'level' for prompt 'train/000000'",
    "judge.py:2: expected a number in [0, 1]",
)
def reward_that_fails(folder):
    write(folder / "judge.py", "def f(record, answer):\n    return record['level']\n")
    return [config(folder), "--config.domains.math.reward=judge:f"]


@case(
    "train",
    "reward out of its range",
    "config.domains.math: reward 'judge:f' returned 10.0 for prompt 'train/000000'",
)
def reward_out_of_range(folder):
    write(folder / "judge.py", "def f(record, answer):\n    return 10\n")
    return [config(folder), "--config.domains.math.reward=judge:f"]
