"""What is wrong is found before any work: one clear error each, and no run is written."""

import importlib.util
import json
import shutil

from loop_cases import small
import pytest
from safetensors.numpy import load_file, save_file

from gopd_jax import tiny
from gopd_jax.runtime.errors import NonFiniteError
from gopd_jax.tiny.tokenizer import save_tokenizer
from gopd_jax.train.checks import undone_if_refused
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


# ---- Warnings.


def test_other_templates_and_test_prompts_that_are_trained_on_are_warned_of(
    tmp_path, base_copy, capsys
):
    other = (base_copy / "chat_template.jinja").read_text().replace("<|end|>", "<|end|>\n")
    (base_copy / "chat_template.jinja").write_text(other)
    config = small(
        **{"domains.math.teacher": str(base_copy), "domains.math.test": "tiny:math/train"}
    )
    inputs = prepare(config, str(tmp_path / "run"))
    assert len(inputs.in_train["math"]) == len(inputs.test["math"])
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert any("teacher of math" in w and "renders '\\n<|assistant|>'" in w for w in warnings)
    first = inputs.test["math"][0].source.prompt_id
    assert any(f"also in math/train, the first is {first!r}" in w for w in warnings)


def test_a_usual_run_is_not_warned(tmp_path, capsys):
    inputs = prepare(small(), str(tmp_path / "run"))
    assert inputs.in_train == {"math": []}
    assert "warning" not in capsys.readouterr().err


# ---- What a refused start leaves behind.


def test_a_refused_start_leaves_nothing(tmp_path):
    config = small(**{"data.cache_dir": "", "domains.math.reward": "code"})
    refused(config, tmp_path / "runs/run", "cannot be verified")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_refused_start_leaves_what_was_there(tmp_path):
    mine = tmp_path / "run/datasets/mine"
    mine.mkdir(parents=True)
    (mine / "file").write_text("mine")
    config = small(**{"data.cache_dir": "", "domains.math.reward": "code"})
    refused(config, tmp_path / "run", "cannot be verified")
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "datasets", "mine", "file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, NonFiniteError])
def test_a_run_is_never_undone(tmp_path, error):
    """Nor are data sets, which take long to prepare, when it was stopped before it began."""
    with pytest.raises(error), undone_if_refused(str(tmp_path / "run")):
        (tmp_path / "run/datasets/new").mkdir(parents=True)
        if error is ValueError:
            (tmp_path / "run/run.json").write_text("{}")
        raise error
    assert (tmp_path / "run/datasets/new").is_dir()


def test_weights_are_checked_before_the_run_is_written(tmp_path, base_copy):
    tensors = load_file(base_copy / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, base_copy / "model.safetensors")
    refused(small(student=str(base_copy)), tmp_path / "run", "missing tensors")
    assert not (tmp_path / "run").exists()
