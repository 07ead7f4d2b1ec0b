"""Rows that cannot be read are named by file and line, and can be skipped."""

from data_cases import sums, write
import pytest

from gopd_jax.data import rows
from gopd_jax.data.datasets import prepare


def test_bad_rows_are_named_and_the_rest_is_unharmed(tmp_path):
    good = sums(0, 4)
    lines = [good[0], "{not json", good[1], {"prompt": "no truth"}, good[2], {"x": 1}, good[3]]
    path = write(tmp_path / "a.jsonl", lines)
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not valid JSON"):
        prepare(path, tmp_path / "prepared", domain="math")
    kept = prepare(path, tmp_path / "prepared", domain="math", skip_bad_rows=True)
    assert [p.ground_truth for p in kept] == ["1", "2", "3", "4"]
    assert [line.split(":")[1] for line in kept.skipped] == ["2", "4", "6"]
    again = prepare(path, tmp_path / "prepared", domain="math", skip_bad_rows=True)
    assert again.skipped == kept.skipped


def test_a_truncated_file_does_not_harm_the_next(tmp_path):
    write(tmp_path / "data" / "b.jsonl", sums(0, 3))
    (tmp_path / "data" / "a.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(ValueError, match=r"a\.parquet"):
        list(rows.read(str(tmp_path / "data")))
    bad = []
    assert len(list(rows.read(str(tmp_path / "data"), bad.append))) == 3
    assert len(bad) == 1 and "a.parquet" in bad[0]
