"""What is wrong is found before any work: one clear error each, and no run is written."""

import importlib.util
import json
import shutil

from loop_cases import small
import pytest

from gopd_jax import tiny
from gopd_jax.tiny.tokenizer import save_tokenizer
from gopd_jax.train.prepare import prepare
from gopd_jax.train.run import run


@pytest.fixture
def base_copy(tmp_path):
    return shutil.copytree(tiny.model("base"), tmp_path / "copy")


def refused(config, workdir, message):
    with pytest.raises(ValueError, match=message):
        run(config, str(workdir))
    assert not (workdir / "run.json").exists()


def edit_vocabulary(model, edit):
    """Rewrites the vocabulary in the tokenizer of a model folder."""
    path = model / "tokenizer.json"
    content = json.loads(path.read_text())
    edit(content["model"]["vocab"])
    path.write_text(json.dumps(content))


# ---- Settings alone.

# Changes of the config; a part of the message.
REFUSED = {
    "missing teacher folder": ({"domains.math.teacher": "/gone/teacher"}, "/gone/teacher"),
    "missing reference folder": ({"reference": "/nowhere/base"}, "/nowhere/base"),
    "mesh and devices": ({"mesh.tensor": 3}, "tensor=3 does not fit 1 devices"),
    "positions": (
        {"rollout.max_response_tokens": 600, "learner.row_length": 0},
        "512 positions",
    ),
    "kind of ground truth": ({"domains.math.reward": "code"}, "cannot be verified as 'code'"),
    "embedded data": ({"domains.math.train": "tiny:math/tain"}, "tiny:math/tain"),
    "sft without answers": (
        {"method": "sft", "domains.math.teacher": ""},
        'expected a .* in its "response"',
    ),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED)
def test_refused_before_any_work(changes, message, tmp_path):
    refused(small(**changes), tmp_path / "run", message)


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = small(**{"log.trackers": ("tensorboard", "trackio")})
    refused(config, tmp_path / "run", "trackio is not installed.*`pip install trackio`")


def test_every_domain_needs_a_teacher():
    with pytest.raises(ValueError, match="domains.math.teacher must be set"):
        small(**{"domains.math.teacher": ""})


def test_the_reference_is_not_looked_at_where_lambda_is_one(tmp_path):
    config = small(reference=str(tmp_path / "nowhere"), **{"learner.reward_scale": 1.0})
    inputs = prepare(config, str(tmp_path / "one"))
    assert inputs.reference is None and "reference" not in inputs.fingerprints["weights"]


# ---- Folders and files.


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    refused(small(), tmp_path / "file" / "run", "cannot write there")


def test_vocabularies_must_agree(tmp_path, base_copy):
    def swap(vocabulary):
        vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]

    edit_vocabulary(base_copy, swap)
    config = small(**{"domains.math.teacher": str(base_copy)})
    refused(config, tmp_path / "run", "teacher of math")


def test_tokenizer_larger_than_the_model(tmp_path, base_copy):
    def grow(vocabulary):
        size = len(vocabulary)
        vocabulary |= {f"extra{i}": size + i for i in range(64)}

    save_tokenizer(base_copy)
    edit_vocabulary(base_copy, grow)
    config = small(student=str(base_copy), **{"domains.math.teacher": str(base_copy)})
    refused(config, tmp_path / "run", "at least as many embeddings")
