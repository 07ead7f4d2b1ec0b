import os
from pathlib import Path
import shutil

from evaluate_cases import CODE, LONG, MATH, OPTIONS, ROOT, command, write_rows
import pytest

from gopd_jax.generate import job


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with the files of a command that was not interrupted.

    It holds sums.jsonl (math, one prompt too long) and lines.jsonl (code).
    """
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder / "sums.jsonl", [*MATH, LONG])
    write_rows(folder / "lines.jsonl", CODE)
    assert command(folder, *OPTIONS) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def no_weights(monkeypatch):
    """Fails the test if weights are loaded."""

    def load_params(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(job, "load_params", load_params)


@pytest.fixture(scope="session")
def shared_data():
    folder = Path(os.environ.get("GOPD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "needs the shared data folder: ../shared/data beside the repository, or "
            "GOPD_SHARED_DATA"
        )
    return folder
