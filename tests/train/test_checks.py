"""What is wrong is said before any work: one clear error each, and nothing written."""

import json
import shutil

from loop_cases import small
import pytest

from gopd_jax import tiny, train
from gopd_jax.tiny.tokenizer import save_tokenizer


@pytest.fixture
def base_copy(tmp_path):
    return shutil.copytree(tiny.model("base"), tmp_path / "copy")


def refused(config, workdir, message):
    with pytest.raises(ValueError, match=message):
        train.run(config, str(workdir))
    assert not (workdir / "run.json").exists()


def test_vocabularies_must_agree(tmp_path, base_copy):
    path = base_copy / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
    path.write_text(json.dumps(content))
    refused(small(**{"domains.math.teacher": str(base_copy)}), tmp_path / "run", "teacher of math")


def test_reference_must_exist_unless_lambda_is_one(tmp_path):
    refused(small(reference=str(tmp_path / "nowhere")), tmp_path / "run", "nowhere")
    # lambda = 1 cancels the reference: it is not even looked at
    config = small(
        reference=str(tmp_path / "nowhere"),
        **{"learner.reward_scale": 1.0, "steps": 1, "eval.prompts": 4},
    )
    result = train.run(config, str(tmp_path / "one"))
    assert result["domains"]["math"]["reward_scale"] == 1.0


def test_every_domain_needs_a_teacher():
    with pytest.raises(ValueError, match="domains.math has no teacher"):
        small(**{"domains.math.teacher": ""})


def test_missing_teacher_folder(tmp_path):
    refused(small(**{"domains.math.teacher": str(tmp_path / "gone")}), tmp_path / "run", "gone")


def test_mesh_must_fit_the_devices(tmp_path):
    refused(small(**{"mesh.tensor": 3}), tmp_path / "run", "tensor=3 does not fit 1 devices")


def test_unwritable_workdir(tmp_path):
    (tmp_path / "file").write_text("")
    refused(small(), tmp_path / "file" / "run", "cannot write there")


def test_positions(tmp_path):
    refused(
        small(**{"rollout.max_response_tokens": 600, "learner.row_length": 0}),
        tmp_path / "run",
        "512 positions",
    )


def test_ground_truth_of_the_wrong_kind(tmp_path):
    refused(
        small(**{"domains.math.reward": "code"}), tmp_path / "run", "cannot be verified as 'code'"
    )


def test_unknown_embedded_data(tmp_path):
    refused(small(**{"domains.math.train": "tiny:math/tain"}), tmp_path / "run", "tiny:math/tain")


def test_tokenizer_larger_than_the_model(tmp_path, base_copy):
    save_tokenizer(base_copy)
    path = base_copy / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"extra{i}": len(vocabulary) + i for i in range(64)}
    path.write_text(json.dumps(content))
    refused(
        small(student=str(base_copy), **{"domains.math.teacher": str(base_copy)}),
        tmp_path / "run",
        "at least as many embeddings",
    )


def test_sft_needs_answers(tmp_path):
    refused(
        small(method="sft", **{"domains.math.teacher": ""}),
        tmp_path / "run",
        'no text in "response"',
    )
