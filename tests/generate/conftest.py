from generate_cases import OPTIONS, ROWS, command, write_rows
import pytest

from gopd_jax.generate import job


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A folder with the files of a command that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder / "prompts.jsonl", ROWS)
    assert command(folder, *OPTIONS) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    for path in whole.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def no_weights(monkeypatch):
    """Fails the test if weights are loaded."""

    def load_params(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(job, "load_params", load_params)
