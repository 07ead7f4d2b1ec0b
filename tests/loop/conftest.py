import json
from pathlib import Path
import runpy
from typing import Any

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

