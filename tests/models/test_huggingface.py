"""Weights in and out of Hugging Face folders: round trips, shards, dtypes, devices, errors.

Needs no PyTorch; parity with transformers is tested in test_parity.py.
"""

import dataclasses
import json
import re

from full_disk import full_at
import jax
import jax.numpy as jnp
import ml_dtypes
from model_cases import CASES, random_params
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gopd_jax.models import huggingface, tensor_names
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.huggingface_save import save_pretrained

HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
CONFIG = CASES["qwen3_untied"]


def _equal(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def _save(folder, config=CONFIG, **options):
    params = random_params(config)
    save_pretrained(folder, config, params, **({"dtype": "float32"} | options))
    return params


def _edit(folder, change):
    """Rewrites the tensors of model.safetensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000], ids=["one file", "shards"])
def test_save_then_load_is_exact(tmp_path, case, shard_bytes):
    config = CASES[case]
    params = _save(tmp_path / "out", config, shard_bytes=shard_bytes)
    files = sorted(tmp_path.glob("out/*.safetensors"))
    has_index = (tmp_path / "out/model.safetensors.index.json").exists()
    assert (len(files) > 1) == has_index == (shard_bytes < 10**9)
    if len(files) > 1:
        assert all(file.stat().st_size < shard_bytes + 4096 for file in files)
        index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == 4 * config.num_params
    assert load_config(str(tmp_path / "out")) == config
    _equal(load_params(tmp_path / "out", config, "float32", HERE), params)


def test_sharded_and_numpy_parameters_are_written_alike(tmp_path):
    params = _save(tmp_path / "jax")
    save_pretrained(tmp_path / "numpy", CONFIG, jax.tree.map(np.asarray, params), dtype="float32")
    assert weights_fingerprint(tmp_path / "jax") == weights_fingerprint(tmp_path / "numpy")


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_half_files_into_either_dtype(tmp_path, stored):
    params = _save(tmp_path / "out", dtype=stored)
    rounded = jax.tree.map(lambda p: np.asarray(p).astype(jnp.dtype(stored)), params)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == stored
    full = load_params(tmp_path / "out", CONFIG, jnp.float32, HERE)
    assert {p.dtype for p in jax.tree.leaves(full)} == {jnp.dtype("float32")}
    _equal(full, jax.tree.map(lambda p: p.astype(np.float32), rounded))
    half = load_params(tmp_path / "out", CONFIG, jnp.bfloat16, HERE)
    _equal(half, jax.tree.map(lambda p: p.astype(ml_dtypes.bfloat16), rounded))


ON_EIGHT = """
import sys, jax, numpy as np
from model_cases import CASES, random_params
from gopd_jax.models.decoder import Decoder, param_shardings
from gopd_jax.models.huggingface import load_params, weights_fingerprint
from gopd_jax.models.huggingface_save import save_pretrained
from gopd_jax.runtime.mesh import make_mesh

config = CASES[sys.argv[1]]
mesh = make_mesh(data=int(sys.argv[3]), fsdp=-1, tensor=2)
shardings = param_shardings(config, mesh)
params = load_params(sys.argv[2], config, "float32", shardings)
jax.tree.map(np.testing.assert_array_equal, params, random_params(config))
assert all(p.sharding == s for p, s in zip(jax.tree.leaves(params), jax.tree.leaves(shardings)))
part = params["layers"]["attention"]["query"].addressable_shards[0].data.shape
width = config.width // mesh.shape["fsdp"]
assert part == (config.layers, width, config.heads // 2, config.head_size), part

save_pretrained(sys.argv[2] + "-again", config, params, dtype="float32")
assert weights_fingerprint(sys.argv[2] + "-again") == weights_fingerprint(sys.argv[2])

tokens = np.arange(8 * 12, dtype=np.int32).reshape(8, 12) % config.vocab_size
positions = np.broadcast_to(np.arange(12, dtype=np.int32), (8, 12))
segments = np.ones((8, 12), np.int32)
apply = jax.jit(lambda p: Decoder(config).apply({"params": p}, tokens, positions, segments))
with jax.set_mesh(mesh):
    sharded = apply(params)
np.testing.assert_allclose(sharded, apply(random_params(config)), atol=2e-5)
print("devices:", len(jax.devices()), len(sharded.sharding.device_set))
"""


@pytest.mark.parametrize("data", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_eight_devices_hold_and_compute_what_one_does(tmp_path, run_on_fake_devices, data):
    """data=1 means fsdp=4 and tensor=2; with data=2, two devices hold each part."""
    config = CASES["qwen2_untied_linear_rope"]  # biases and a head
    _save(tmp_path / "out", config)
    out = run_on_fake_devices(ON_EIGHT, "qwen2_untied_linear_rope", tmp_path / "out", data)
    assert "devices: 8 8" in out


def test_reads_by_slices_and_one_parameter_at_a_time(tmp_path, monkeypatch):
    """Host memory stays small: a tensor is read after earlier parameters are on their devices."""
    _save(tmp_path / "out")
    events = []
    read, put = tensor_names.Row.read, jax.device_put

    def spy_read(row, tensor, index):
        part = read(row, tensor, index)
        events.append((row.path, part.size))
        return part

    def spy_put(part, place):
        array = put(part, place)
        events.append(("on device", array.size))
        return array

    monkeypatch.setattr(tensor_names.Row, "read", spy_read)
    monkeypatch.setattr(jax, "device_put", spy_put)
    params = load_params(tmp_path / "out", CONFIG, "float32", HERE)
    waiting = 0
    for kind, size in events:
        if kind == "on device":
            assert waiting == size
            waiting = 0
        else:
            waiting += size
    assert waiting == 0
    assert sum(kind == "on device" for kind, _ in events) == len(jax.tree.leaves(params)) > 10


def test_row_reads_any_slice():
    config = CASES["qwen2_tied"]
    rng = np.random.default_rng(0)
    for row in tensor_names.table(config):
        ours = rng.normal(size=row.shape)
        theirs = row.write(ours)
        assert theirs.shape == row.tensor_shape and theirs.flags.c_contiguous
        index = tuple(slice(size // 4, size // 2 + 1) for size in row.shape)
        np.testing.assert_array_equal(row.read(theirs, index), ours[index])
        np.testing.assert_array_equal(row.read(theirs, (slice(None),) * len(row.shape)), ours)


def test_missing_tensor(tmp_path):
    _save(tmp_path / "out")
    _edit(tmp_path / "out", lambda t: t.pop("model.layers.1.self_attn.q_norm.weight"))
    message = r"missing.*model\.layers\.1\.self_attn\.q_norm\.weight \[8\].*query_norm/scale"
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


@pytest.mark.parametrize(
    "name",
    ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "score.weight"],
)
def test_unexpected_tensor(tmp_path, name):
    _save(tmp_path / "out")
    _edit(tmp_path / "out", lambda t: t.update({name: np.zeros(3, np.float32)}))
    with pytest.raises(ValueError, match=f"unexpected.*{name}"):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_head_beside_tied_embedding_and_rotary_buffers_are_tolerated(tmp_path):
    config = CASES["llama_tied_llama3_rope"]
    params = _save(tmp_path / "out", config)

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(8, np.float32)

    _edit(tmp_path / "out", add)
    _equal(load_params(tmp_path / "out", config, "float32", HERE), params)
    _edit(tmp_path / "out", lambda t: t.update({"lm_head.weight": np.zeros((95, 32), np.float32)}))
    with pytest.raises(ValueError, match="unexpected.*lm_head.weight"):
        load_params(tmp_path / "out", config, "float32", HERE)


def test_duplicate_tensor(tmp_path):
    _save(tmp_path / "out", shard_bytes=20_000)
    first, second = sorted((tmp_path / "out").glob("*.safetensors"))[:2]
    twice = "model.embed_tokens.weight"
    save_file(load_file(second) | {twice: load_file(first)[twice]}, second)
    message = rf"duplicate.*{re.escape(twice)} \(in {first.name} and {second.name}\)"
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_single_file_beside_shards(tmp_path):
    _save(tmp_path / "out", shard_bytes=20_000)
    save_file({"a": np.zeros(1)}, tmp_path / "out/model.safetensors")
    with pytest.raises(ValueError, match="both model.safetensors and model.safetensors.index.json"):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_wrong_shape(tmp_path):
    _save(tmp_path / "out")
    name = "model.layers.0.mlp.down_proj.weight"
    _edit(tmp_path / "out", lambda t: t.update({name: np.zeros((48, 32), np.float32)}))
    message = rf"wrong shapes.*{re.escape(name)} is \[48, 32\], expected \[32, 48\]"
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_integer_weights(tmp_path):
    _save(tmp_path / "out")
    _edit(tmp_path / "out", lambda t: t.update({"model.norm.weight": np.zeros(32, np.int8)}))
    with pytest.raises(ValueError, match=r"wrong dtypes.*model\.norm\.weight is I8"):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_shard_named_by_the_index_is_gone(tmp_path):
    _save(tmp_path / "out", shard_bytes=20_000)
    gone = sorted((tmp_path / "out").glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(ValueError, match=f"cannot read {gone.name}"):
        load_params(tmp_path / "out", CONFIG, "float32", HERE)


def test_no_weights_and_no_folder(tmp_path, monkeypatch):
    (tmp_path / "pytorch_model.bin").touch()
    message = "no weights, expected model.safetensors.*pytorch_model.bin"
    with pytest.raises(ValueError, match=message):
        load_params(tmp_path, CONFIG, "float32", HERE)

    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(huggingface.huggingface_hub, "snapshot_download", offline)
    with pytest.raises(ValueError, match="cannot find model 'someone/something'.*offline"):
        load_params("someone/something", CONFIG, "float32", HERE)


def test_fingerprint_is_of_the_tensors(tmp_path):
    _save(tmp_path / "one")
    _save(tmp_path / "many", shard_bytes=20_000)
    same = weights_fingerprint(tmp_path / "one")
    assert weights_fingerprint(tmp_path / "many") == same and len(same) == 64
    _save(tmp_path / "half", dtype="bfloat16")

    def change(tensors):
        tensors["lm_head.weight"][95, 31] += 1

    _edit(tmp_path / "one", change)
    changed, half = (weights_fingerprint(tmp_path / name) for name in ("one", "half"))
    assert len({same, changed, half}) == 3


def _source(folder):
    """A model folder like those of the hub, without weights."""
    folder.mkdir()
    config = {"bos_token_id": None, "eos_token_id": 7, "pad_token_id": 5, "rope_theta": 3.0}
    generation = {"eos_token_id": [7, 8], "bos_token_id": 3, "temperature": 0.6, "do_sample": True}
    contents = {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer.json": {"a": 1},
        "tokenizer_config.json": {"b": 2},
    }
    for name, value in contents.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text("not to be copied")
    return folder


def test_tokenizer_template_and_token_ids_come_along(tmp_path):
    source = _source(tmp_path / "source")
    config = CASES["llama_untied_one_kv_head"]
    _save(tmp_path / "out", config, tokenizer_from=source)
    tokenizer = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    for name in (*tokenizer, "generation_config.json"):
        assert (tmp_path / "out" / name).read_text() == (source / name).read_text()
    assert not (tmp_path / "out/README.md").exists()
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert [written[f"{which}_token_id"] for which in ("bos", "eos", "pad")] == [3, 7, 5]
    assert written["rope_theta"] == config.rope_theta, "transformers 4 reads it here"
    assert load_config(str(tmp_path / "out")) == config


def test_without_a_source_no_token_ids_are_invented(tmp_path):
    _save(tmp_path / "out", CASES["llama_untied_one_kv_head"], token_ids={"eos_token_id": [4, 9]})
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "out" / name).read_text())
        assert written["eos_token_id"] == [4, 9]
        assert written.get("bos_token_id") is None and written.get("pad_token_id") is None


def test_refuses_to_overwrite(tmp_path):
    (tmp_path / "empty").mkdir()
    _save(tmp_path / "empty")
    with pytest.raises(ValueError, match="will not overwrite"):
        _save(tmp_path / "empty")
    with pytest.raises(ValueError, match="cannot write to gs://bucket/out"):
        _save("gs://bucket/out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="will not overwrite"):
        _save(tmp_path / "file")


def test_a_full_disk_leaves_nothing_behind_and_is_named(tmp_path):
    with full_at(5_000), pytest.raises(OSError, match="model cannot be written .*too large"):
        _save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_failure_leaves_nothing_behind(tmp_path):
    params = random_params(CONFIG)
    del params["head"]
    with pytest.raises(KeyError):
        save_pretrained(tmp_path / "out", CONFIG, params)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", CASES)
def test_table_covers_the_tree(case):
    config = CASES[case]
    rows = tensor_names.table(config)
    names = [name for row in rows for name in row.tensor_names()]
    assert len(names) == len(set(names))
    assert len(rows) == len(jax.tree.leaves(abstract_params(config)))
    untied = tensor_names.table(dataclasses.replace(config, tied_embeddings=False))
    heads = [row.shape for row in untied if row.name == "lm_head.weight"]
    assert heads == [(config.vocab_size, config.width)]


@pytest.mark.parametrize(
    "value, dtype", [(np.nan, "float32"), (np.inf, "float32"), (1e30, "float16")]
)
def test_a_tensor_that_is_not_finite_is_named(tmp_path, value, dtype):
    """Also one that overflows in the dtype asked for."""
    save_pretrained(tmp_path / "out", CONFIG, random_params(CONFIG), dtype="float32")

    def change(tensors):
        tensors["model.embed_tokens.weight"][3, 2] = value

    _edit(tmp_path / "out", change)
    with pytest.raises(ValueError, match=r"tensor model\.embed_tokens\.weight is not finite"):
        load_params(tmp_path / "out", CONFIG, dtype, HERE)
