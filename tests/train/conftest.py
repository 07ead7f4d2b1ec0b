import json
from pathlib import Path

import pytest

CLOCK = ("seconds", "tokens_per_second", "compilations", "cached")


@pytest.fixture
def lines():
    """Reads a JSON-lines file of a run without the clock times and counts of the process."""

    def read(folder: Path, name: str) -> list[dict[str, object]]:
        records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [{k: v for k, v in r.items() if not k.startswith(CLOCK)} for r in records]

    return read
