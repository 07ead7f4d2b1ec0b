"""Embedded configs, cut down to a few small steps."""

from pathlib import Path
import runpy

from data_folder import DATASETS

from gopd_jax.config import Config, from_config_dict

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "data.cache_dir": DATASETS,
    "steps": 6,
    "rollout.prompts_per_step": 16,
    "rollout.slots": 16,
    "learner.rows_per_micro_batch": 8,
    "eval.prompts": 32,
    "eval.during_prompts": 8,
    "eval.every": 4,
    "eval.samples": 1,
    "checkpoint.every": 2,
    "log.samples_every": 2,
    "check.before_training": False,  # test_contracts has its own runs
}


def small(path: str = "configs/math.py", **changes: object) -> Config:
    """An embedded config with `SETTINGS`; `changes` are "part.field" -> value."""
    config = runpy.run_path(str(ROOT / path))["get_config"]()
    config.update_from_flattened_dict(SETTINGS | changes)
    return from_config_dict(config)
