import json
import os
from pathlib import Path
from typing import Any

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
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
def lines():
    """Reads a JSON-lines file of a run, without the fields that hold clock times or counts of this process."""
    clock = ("seconds", "tokens_per_second", "compilations")

    def read(folder: Path, name: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(clock)} for r in records]

    return read
