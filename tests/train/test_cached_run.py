"""A run with compiled programs from the cache: the same numbers, to the bit."""

import json
import os
from pathlib import Path
import subprocess
import sys

import pytest
from same_run import differences

ROOT = Path(__file__).parents[2]
SETTINGS = ("steps=3", "eval.prompts=64", "eval.every=2", "rollout.prompts_per_step=64")


@pytest.mark.slow
def test_the_second_run_compiles_little_and_is_the_same(tmp_path):
    runs = [tmp_path / name for name in ("fresh", "cached")]
    given = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_COMP", "JAX_PERS"))}
    environment = given | {"JAX_PLATFORMS": "cpu", "GOPD_CACHE": str(tmp_path / "cache")}
    for run in runs:
        subprocess.run(
            [
                *(sys.executable, "-m", "gopd_jax.train", "--config=math"),
                *(f"--config.{setting}" for setting in SETTINGS),
                f"--workdir={run}",
            ],
            cwd=ROOT,
            env=environment,
            check=True,
            timeout=300,
        )
    assert differences(*runs, {3}) == []
    counts = [json.loads((r / "metrics.jsonl").read_text().splitlines()[-1]) for r in runs]
    assert counts[0]["compilations_cached"] == 0
    assert counts[1]["compilations_cached"] > 10
    for run in runs:
        (start,) = json.loads((run / "run.json").read_text())["starts"]
        assert start["compilation_cache"].startswith(str(tmp_path / "cache/compiled"))
