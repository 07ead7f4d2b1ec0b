"""Files that are replaced as a whole: a failure leaves the old content."""

import json

from etils import epath
from full_disk import full_at
import pytest

from gopd_jax.runtime.files import replace_json, replace_text


def test_the_content_is_replaced_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "summary.json"
    for text in ("a much longer first text\n", "short\n"):
        replace_text(path, text)
        assert path.read_text() == text
    replace_json(str(path), {"b": [1, 2], "a": None})
    assert json.loads(path.read_text()) == {"b": [1, 2], "a": None}
    assert path.read_text().endswith("}\n")
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_while_writing_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    replace_text(path, "old")

    def half(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path(path)), "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        replace_text(path, "new content")
    assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_content_and_names_the_file(tmp_path):
    path = tmp_path / "run.json"
    replace_text(path, "old")
    expected = r"run.json cannot be written \(File too large\); what it held is kept"
    with full_at(50), pytest.raises(OSError, match=expected):
        replace_text(path, "new" * 100)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
