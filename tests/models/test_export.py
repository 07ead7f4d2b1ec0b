"""The export command, with a stand-in for the checkpoint reader (checkpoints have their own tests)."""

import sys
import types

import jax
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.export import main
from gopd_jax.models.config import load_config
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.huggingface_save import save_pretrained

CONFIG = CASES["qwen3_tied"]
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder whose only checkpoint is step 30, holding random_params(seed=9)."""
    (tmp_path / "run").mkdir()
    save_pretrained(
        tmp_path / "student", CONFIG, random_params(CONFIG), token_ids={"eos_token_id": 3}
    )
    (tmp_path / "student/tokenizer.json").write_text("{}")

    def restore_params(workdir, step, abstract):
        if step not in (None, 30):
            raise ValueError(f"no checkpoint of step {step} in {workdir}; available: [30]")
        return 30, jax.tree.map(
            lambda p, a: jax.device_put(p, a.sharding), random_params(CONFIG, seed=9), abstract
        )

    stand_in = types.ModuleType("gopd_jax.runtime.checkpoint")
    stand_in.restore_params = restore_params
    stand_in.read_run_config = lambda workdir: {"student": str(tmp_path / "student")}
    monkeypatch.setitem(sys.modules, "gopd_jax.runtime.checkpoint", stand_in)
    return tmp_path


def test_export_writes_the_student(run, capsys):
    assert main([f"--workdir={run}/run", f"--out={run}/out", "--dtype=float32"]) == 0
    said = capsys.readouterr().out
    assert "step 30" in said and f"{run}/out" in said and "from_pretrained" in said
    assert load_config(str(run / "out")) == CONFIG
    exported = load_params(run / "out", CONFIG, "float32", HERE)
    jax.tree.map(np.testing.assert_array_equal, exported, random_params(CONFIG, seed=9))
    assert (run / "out/tokenizer.json").is_file()


@pytest.mark.parametrize(
    "workdir, out, extra, words",
    [
        ("nowhere", "out", [], ["no run at --workdir=", "nowhere", "gopd_jax.train"]),
        ("run", "student", [], ["will not overwrite", "student"]),
        ("run", "out", ["--step=31"], ["step 31", "[30]"]),
    ],
)
def test_errors_are_one_line(run, capsys, workdir, out, extra, words):
    assert main([f"--workdir={run}/{workdir}", f"--out={run}/{out}", *extra]) == 1
    said = capsys.readouterr().err
    assert all(word in said for word in words) and said.count("\n") == 1, said
    assert not (run / "out").exists()
