"""The learner's programs compiled for described devices; here those of this machine."""

import json

import jax
import pytest
from test_benchmark import CONFIG

from gopd_jax.benchmark import compiled_learner
from gopd_jax.benchmark.__main__ import main


@pytest.mark.slow
def test_a_record_for_each_program_and_nothing_runs(tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.setattr(compiled_learner, "described_devices", lambda topology: jax.devices()[:1])
    options = ["--random-weights", "--topology=v5e:1x1", "--rows-per-micro-batch=2", "--json"]
    before = len(jax.live_arrays())
    assert main(["update", f"--model={tmp_path}", *options]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {r["program"] for r in records} == {"score", "train step"}
    for record in records:
        assert record["record"] == "compiled" and record["devices"] == 1
        assert record["attention"].startswith("xla on cpu")
        assert 0 < record["temporary_bytes"] < record["peak_bytes"]
        assert record["arguments_bytes"] < record["at_once_bytes"] <= record["peak_bytes"]
        assert record["host_bytes"] == 0
    assert len(jax.live_arrays()) == before
