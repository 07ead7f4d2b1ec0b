"""A run of models with different numbers of rows for the ids of one tokenizer."""

import json

from loop_cases import small
from model_folders import with_rows
import pytest

from gopd_jax import expo, tiny
from gopd_jax.train.run import run

FEW = {"steps": 1, "eval.prompts": 8, "eval.every": 0}


def test_rows_without_an_id_change_no_number_of_a_run(tmp_path, lines):
    """The embedded models have 128 rows for 102 ids; this teacher has 136."""
    wider = {"domains.math.teacher": with_rows(tmp_path / "teacher", "math_teacher", 136)}
    run(small(**FEW), str(tmp_path / "plain"))
    run(small(**FEW, **wider), str(tmp_path / "wider"))
    plain, ours = (lines(tmp_path / name, "metrics.jsonl") for name in ("plain", "wider"))
    for record, expected in zip(ours, plain, strict=True):
        assert record.keys() == expected.keys()
        for name, value in expected.items():
            assert record[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
        assert record["rollout_tokens"] == expected["rollout_tokens"]
    scores = [
        [json.loads(line)["by_prompt"] for line in path.read_text().splitlines()]
        for path in (tmp_path / "wider/evaluations.jsonl", tmp_path / "plain/evaluations.jsonl")
    ]
    assert scores[0] == scores[1] and len(scores[0]) == 3


def test_weights_with_different_rows_are_not_extrapolated(tmp_path, capsys):
    teacher = with_rows(tmp_path / "teacher", "math_teacher", 136)
    options = [f"--student={tiny.model('base')}", f"--teacher={teacher}", f"--out={tmp_path / 'o'}"]
    assert expo.main(options) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "another architecture than --student" in said
    assert "vocab_size=136, expected 128" in said
    assert not (tmp_path / "o").exists()
