"""Names of slices, and architectures without a network."""

import importlib.util
import json

import pytest

from gopd_jax.plan.architectures import architectures
from gopd_jax.plan.chips import CHIPS, describe, devices_of, larger

QWEN = "Qwen/Qwen3-4B"


@pytest.mark.parametrize(
    ("name", "count"),
    [("v5e:4x4", 16), ("v6e:8x8", 64), ("v5p:2x2x4", 16), ("tpu7x:2x2x1", 8), ("cpu:4", 4)],
)
def test_a_name_tells_the_number_of_devices(name, count):
    assert devices_of(name) == count


@pytest.mark.parametrize("name", ["v6e", "v6e-16", "v6e:4", "v9:4x4", "cpu:0", "cpu:2x2", "h100:"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match=f"--topology={name}: expected CHIP:SIZE, such as v5e:4x4"):
        devices_of(name)


def test_a_larger_slice_has_twice_the_chips():
    assert larger("v5e:4x4") == ["v5e:4x8", "v5e:8x8"]
    assert larger("v5p:2x2x4") == ["v5p:2x4x4", "v5p:4x4x4"]
    assert larger("cpu:2") == larger("h100:8") == []


def test_the_cpu_is_a_slice():
    where = describe("cpu:1", memory=1e9)
    assert where.chips == len(where.devices) == 1
    assert where.limit == 950_000_000
    with pytest.raises(ValueError, match="expected at most 1, the CPU devices of this process"):
        describe("cpu:2")


def test_a_missing_libtpu_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="expected libtpu.* to be installed: pip install"):
        describe("v6e:4x4")


def test_a_tpu_slice_has_the_devices_of_its_name():
    pytest.importorskip("libtpu")
    for name in ("v5e:4x4", "tpu7x:2x2x1"):
        where = describe(name)
        assert len(where.devices) == devices_of(name)
        assert where.chips * where.chip.devices == len(where.devices)
        assert where.chip is CHIPS[name.partition(":")[0]]


def test_known_models_need_neither_network_nor_folder():
    roles = {
        "student": QWEN,
        "teacher of math": "TEACHER",
        "teacher of code": "Qwen/Qwen3-30B-A3B-Instruct-2507",
        "reference": QWEN,
    }
    models, notes = architectures(roles)
    assert models["TEACHER"] == models[QWEN]
    assert round(models[QWEN].num_params / 1e9, 1) == 4.0
    assert round(models[roles["teacher of code"]].num_params / 1e9, 1) == 30.5
    assert [note.partition(":")[0] for note in notes] == list(roles)[:3]


def test_a_folder_with_config_json_is_enough(tmp_path):
    fields = {"model_type": "qwen3", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    fields |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    fields |= {"intermediate_size": 32, "hidden_act": "silu", "attention_bias": False}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    models, notes = architectures({"student": str(tmp_path)})
    assert models[str(tmp_path)].layers == 2 and notes == []


def test_a_model_that_cannot_be_found_says_what_is_enough(tmp_path):
    missing = str(tmp_path / "missing")
    expected = "folder that holds config.json alone is enough here, such as --config.student=FOLDER"
    with pytest.raises(ValueError, match=f"student: no model at .*{expected}"):
        architectures({"student": missing})
    with pytest.raises(ValueError, match="--config.domains.math.teacher=FOLDER"):
        architectures({"student": QWEN, "teacher of math": missing})
