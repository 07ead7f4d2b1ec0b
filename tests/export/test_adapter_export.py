"""The adapter of a run, merged or in PEFT's format, gives the logits that the student has."""

import json

import jax
import jax.numpy as jnp
from lora_cases import ATTENTION, naive_merge, random_adapter
from model_cases import CASES, random_params
import numpy as np
import pytest
from safetensors.numpy import load_file
import transformers

from gopd_jax.export.__main__ import main
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.huggingface_save import save_pretrained
from gopd_jax.models.lora import adapted
from gopd_jax.models.settings import LoraSettings
from gopd_jax.runtime.checkpoint import Checkpoints
from gopd_jax.runtime.run_folder import write_run
from gopd_jax.types import TrainState

ADAPTERS = {
    "qwen3_tied": LoraSettings(rank=3, alpha=24.0),
    "qwen3_moe_untied": LoraSettings(rank=2, alpha=0.5, targets=ATTENTION),
}
TOKENS = np.random.default_rng(1).integers(1, 90, (2, 9))
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


@pytest.fixture(scope="module", params=ADAPTERS)
def run(request, tmp_path_factory):
    """Architecture, adapter, the folder of the base, and a run with one checkpoint of adapter."""
    folder, config = tmp_path_factory.mktemp("adapter"), CASES[request.param]
    lora = ADAPTERS[request.param]
    student = str(folder / "student")
    save_pretrained(
        student, config, random_params(config), "float32", token_ids={"eos_token_id": 3}
    )
    fingerprints = {"weights": {"student": weights_fingerprint(student)}}
    given = {"student": student, "lora": vars(lora)}
    write_run(str(folder / "run"), {"config": given, "fingerprints": fingerprints, "starts": []})
    checkpoints = Checkpoints(str(folder / "run"), keep=1)
    checkpoints.save(30, TrainState(jnp.int32(30), random_adapter(config, lora), {}), {})
    checkpoints.close()
    return config, lora, student, str(folder / "run")


def ours(config, params):
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    apply = Decoder(config).apply
    hidden = apply({"params": params}, TOKENS, positions, np.ones_like(TOKENS))
    return np.asarray(hidden @ output_head(params).T)


def students(config, lora):
    return ours(config, adapted(random_params(config), random_adapter(config, lora), lora))


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32")


def test_merged(run, tmp_path):
    config, lora, _, workdir = run
    out = tmp_path / "out"
    assert main([f"--workdir={workdir}", f"--out={out}", "--dtype=float32"]) == 0
    expected = naive_merge(random_params(config), random_adapter(config, lora), lora)
    exported = load_params(out, config, "float32", HERE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), exported, expected)
    np.testing.assert_allclose(logits(loaded(out)), students(config, lora), atol=1e-4)
    assert f"an adapter (LoRA) of rank {lora.rank}, alpha" in (out / "README.md").read_text()


@pytest.fixture
def exported(run, tmp_path, capsys):
    out = tmp_path / "adapter"
    assert main([f"--workdir={run[3]}", f"--out={out}", "--format=peft"]) == 0
    assert "wrote the adapter of step 30" in capsys.readouterr().out
    return out


def test_the_files_say_what_is_added_to_each_matrix(run, exported):
    """By the rule in PEFT's documentation: weight + lora_alpha / r * lora_B @ lora_A."""
    import torch

    config, lora, student, _ = run
    assert {"README.md", "gopd.json"} <= {path.name for path in exported.iterdir()}
    said = json.loads((exported / "adapter_config.json").read_text())
    assert said["base_model_name_or_path"] == student and said["peft_type"] == "LORA"
    assert (said["r"], said["lora_alpha"]) == (lora.rank, lora.alpha)
    tensors, model = load_file(exported / "adapter_model.safetensors"), loaded(student)
    assert len(tensors) == 2 * config.layers * len(lora.targets)
    for name in [name for name in tensors if "lora_A" in name]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        assert module.split(".")[-1] in said["target_modules"]
        product = tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        with torch.no_grad():
            scaled = said["lora_alpha"] / said["r"] * product
            model.get_submodule(module).weight += torch.tensor(scaled)
    np.testing.assert_allclose(logits(model), students(config, lora), atol=1e-4)


def test_peft_loads_it(run, exported):
    peft = pytest.importorskip("peft")
    config, lora, student, _ = run
    model = peft.PeftModel.from_pretrained(loaded(student), exported)
    np.testing.assert_allclose(logits(model), students(config, lora), atol=1e-4)
    assert np.abs(logits(model) - ours(config, random_params(config))).max() > 0.1
    merged = logits(model.merge_and_unload())
    np.testing.assert_allclose(merged, students(config, lora), atol=1e-4)


def test_another_base_and_a_run_without_an_adapter_are_one_line(run, tmp_path, capsys):
    config, _, student, workdir = run
    given = {"fingerprints": {"weights": {"student": "ab"}}, "starts": []}
    settings = json.loads((tmp_path.parent / workdir / "run.json").read_text())["config"]
    cases = {
        "other": (settings, [], "belongs to other weights than"),
        "none": ({"student": student}, ["--format=peft"], "has no adapter, its config.lora.rank"),
    }
    for name, (said, more, words) in cases.items():
        write_run(str(tmp_path / name), given | {"config": said})
        assert main([f"--workdir={tmp_path}/{name}", f"--out={tmp_path}/out", *more]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
        assert not (tmp_path / "out").exists()
