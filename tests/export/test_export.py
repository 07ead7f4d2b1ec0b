"""The export command on a run folder with one checkpoint."""

import os
import shutil

import huggingface_hub
import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest
import transformers

from gopd_jax.export.__main__ import main
from gopd_jax.models.config import load_config
from gopd_jax.models.huggingface import load_params
from gopd_jax.models.huggingface_save import save_pretrained
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.runtime.run_folder import write_run
from gopd_jax.types import TrainState

CONFIG = CASES["qwen3_tied"]
RUN = {"fingerprints": {}, "starts": []}
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a student and a run whose only checkpoint is step 30, of another seed."""
    folder = tmp_path_factory.mktemp("export")
    student = random_params(CONFIG)
    save_pretrained(folder / "student", CONFIG, student, token_ids={"eos_token_id": 3})
    (folder / "student/tokenizer.json").write_text("{}")
    write_run(str(folder / "run"), RUN | {"config": {"student": str(folder / "student")}})
    checkpoints = Checkpoints(str(folder / "run"), keep=1)
    checkpoints.save(30, TrainState(jnp.int32(30), random_params(CONFIG, seed=9), {}), {})
    checkpoints.close()
    return folder


def test_export_writes_the_student(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([f"--workdir={run}/run", f"--out={out}", "--dtype=float32"]) == 0
    said = capsys.readouterr().out
    assert "step 30" in said and str(out) in said and "from_pretrained" in said
    assert load_config(str(out)) == CONFIG
    exported = load_params(out, CONFIG, "float32", HERE)
    jax.tree.map(np.testing.assert_array_equal, exported, random_params(CONFIG, seed=9))
    assert (out / "tokenizer.json").is_file()
    assert "at step 30" not in (card := (out / "README.md").read_text()) and "step 30" in card
    loaded = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    embedding = loaded.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(embedding, exported["embedding"])


def test_a_relative_student_is_found_from_any_folder(run, tmp_path, monkeypatch):
    """The folder that run.json records counts, also where another has the same relative path."""
    shutil.copytree(run / "run", moved := tmp_path / "run")
    models = {"student": {"given": "student", "folder": str(run / "student"), "weights": ""}}
    write_run(str(moved), RUN | {"config": {"student": "student"}, "models": models})
    (tmp_path / "student").mkdir()  # another model's
    monkeypatch.chdir(tmp_path)
    assert main(["--workdir=run", "--out=out"]) == 0
    assert load_config("out") == CONFIG and (tmp_path / "out/tokenizer.json").is_file()


class Hub:
    """In place of `HfApi`: an account that may push, and what it was given."""

    pushed = []

    def whoami(self):
        return {"name": "jo"}

    def create_repo(self, repo_id, *, repo_type, private, exist_ok):
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id, folder_path, commit_message, **_):
        self.pushed.append((repo_id, sorted(os.listdir(folder_path)), commit_message))


def test_export_pushes_the_folder(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    out = tmp_path / "out"
    assert main([f"--workdir={run}/run", f"--out={out}", "--push-to-hub=jo/x", "--private"]) == 0
    assert "pushed it to https://hub/jo/x" in capsys.readouterr().out
    ((repo, files, message),) = Hub.pushed
    assert (repo, message) == ("jo/x", "Student of step 30 (bfloat16)")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(files)


@pytest.mark.parametrize(
    "workdir, out, extra, words",
    [
        ("nowhere", "out", [], ["no run", "nowhere", "gopd_jax.train"]),
        ("run", "student", [], ["will not overwrite", "student"]),
        ("run", "out", ["--step=31"], ["step 31", "[30]"]),
        ("run", "out", ["--private"], ["--private: expected --push-to-hub=OWNER/NAME"]),
        ("run", "out", ["--push-to-hub=x"], ["--push-to-hub=x: expected OWNER/NAME"]),
    ],
)
def test_errors_are_one_line(run, capsys, workdir, out, extra, words):
    assert main([f"--workdir={run}/{workdir}", f"--out={run}/{out}", *extra]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words) and said.count("\n") == 1, said
    assert not (run / "out").exists()


def test_a_damaged_run_is_one_line(run, tmp_path, capsys):
    workdir = shutil.copytree(run / "run", tmp_path / "run")
    files = [p for p in (workdir / "checkpoints/30").rglob("*") if p.is_file()]
    os.truncate(max(files, key=lambda p: p.stat().st_size), 10)
    for step, words in (([], ["no checkpoint", "is intact"]), (["--step=30"], ["step 30 is dam"])):
        assert main([f"--workdir={workdir}", f"--out={tmp_path}/out", *step]) == 2
        said = capsys.readouterr().err.splitlines()
        assert all(word in said[-1] for word in words), said
        assert all("step 30 is damaged" in line for line in said[:-1]), said
    (workdir / "run.json").write_text("{")
    assert main([f"--workdir={workdir}", f"--out={tmp_path}/out"]) == 2
    said = capsys.readouterr().err
    assert "run.json is damaged" in said and said.count("\n") == 1, said
    assert not (tmp_path / "out").exists()
