import json
import os
from pathlib import Path
import runpy
from typing import Any

import jax
import pytest

from gopd_jax.config import Config, from_config_dict

ROOT = Path(__file__).parents[2]


def _small(path: str = "configs/math.py", **changes: Any) -> Config:
    """An embedded config, cut down to a few small steps; `changes` are "part.field" -> value."""
    config = runpy.run_path(str(ROOT / path))["get_config"]()
    settings = {
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
    }
    config.update_from_flattened_dict(settings | changes)
    return from_config_dict(config)


@pytest.fixture(scope="session", autouse=True)
def shared_work(tmp_path_factory):
    """Runs of these tests, in this process and in others, share compiled programs: most of their time is compilation."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    del os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]


@pytest.fixture
def small():
    return _small


@pytest.fixture
def lines():
    """Reads a JSON-lines file of a run, without the fields that hold clock times or counts of this process."""
    clock = ("seconds", "tokens_per_second", "compilations")

    def read(folder: Path, name: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(clock)} for r in records]

    return read
