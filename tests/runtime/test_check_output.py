"""A file that cannot be written is found before the work that would fill it."""

import pytest

from gopd_jax.runtime.files import check_output

WRONG = {
    "": "expected the name of a file",
    "a\0b": "expected the name of a file",
    "folder": "expected a file, but it is a folder",
    "file/below": "expected a folder above it, but 'file' is a file",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")


@pytest.mark.parametrize("value", WRONG)
def test_what_cannot_be_written(value):
    with pytest.raises(ValueError, match=f"^--out=.*: cannot write there, {WRONG[value]}$"):
        check_output("--out", value)


@pytest.mark.parametrize("value", ["file", "new", "folder/new", "no/such/folder", "gs://b/c"])
def test_what_can_be_written(value, tmp_path):
    check_output("--out", value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]
