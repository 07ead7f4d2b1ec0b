"""The embedded config, cut down, and what plans it on the CPU devices of this process."""

from pathlib import Path
import runpy

from data_folder import DATASETS

from gopd_jax.config import Config, from_config_dict
from gopd_jax.plan.architectures import architectures, ids_of
from gopd_jax.plan.chips import describe
from gopd_jax.plan.compiling import Compiler
from gopd_jax.plan.make import Planner
from gopd_jax.plan.work import Assumed
from gopd_jax.train.prepare import roles_of

ROOT = Path(__file__).parents[2]
# Those of the small runs in tests/train, so that the programs are compiled once for both.
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
}
ASSUMED = Assumed(8, 10, 0.5, 0.5, 0.5)


def small(**changes: object) -> Config:
    """The embedded config with `SETTINGS`; `changes` are "part.field" -> value."""
    config = runpy.run_path(str(ROOT / "configs/math.py"))["get_config"]()
    config.update_from_flattened_dict(SETTINGS | changes)
    return from_config_dict(config)


def planner_of(
    config: Config, topology: str = "cpu:1", memory: float | None = None, every: bool = False
) -> Planner:
    models, _ = architectures(roles_of(config))
    compiler = Compiler(topology, keep=False)
    where = describe(topology, memory)
    return Planner(where, models, compiler, ASSUMED, ids_of(config), every)
