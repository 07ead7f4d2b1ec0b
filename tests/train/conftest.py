import json
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def shared_work(shared_compilations):
    """Most of the time of these tests is compilation."""


@pytest.fixture
def lines():
    """Reads a JSON-lines file of a run, without the fields that hold clock times or counts of this process."""
    clock = ("seconds", "tokens_per_second", "compilations")

    def read(folder: Path, name: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(clock)} for r in records]

    return read
