"""Paths on an object store (gs://), against a stand-in for it."""

from pathlib import Path
import shutil
import sys
import threading
import types

from etils import epath
import jax
import numpy as np
import optax
import pytest

from gopd_jax import tiny
from gopd_jax.data import rows
from gopd_jax.models.config import load_config
from gopd_jax.models.huggingface import local_folder
from gopd_jax.runtime import checkpoint, object_store
from gopd_jax.runtime.files import replace_text
from gopd_jax.runtime.metrics import JsonLines
from gopd_jax.runtime.object_store import check_reachable, local_copy
from gopd_jax.runtime.tensorboard import Board
from gopd_jax.types import TrainState

sys.path.append(str(Path(__file__).parents[1] / "stand_ins"))
import bucket  # noqa: E402
from remote import served  # noqa: E402

MODEL = "gs://bucket/models/tiny"
CONFIG = "models/tiny/config.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The object store of this module; TensorStore asks for its address once per process."""
    folder = tmp_path_factory.mktemp("buckets")
    with served(folder) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield bucket.Buckets(folder)


@pytest.fixture
def model(store, tmp_path, monkeypatch):
    """A model in the store, nothing of it on this host yet, and the names of the objects read."""
    read = []
    get = bucket.Buckets.get
    monkeypatch.setattr(bucket.Buckets, "get", lambda s, b, k: read.append(k) or get(s, b, k))
    monkeypatch.setenv("GOPD_CACHE", str(tmp_path / "cache"))
    for file in Path(tiny.model("base")).iterdir():
        store.put("bucket", f"models/tiny/{file.name}", file.read_bytes())
    store.put("bucket", "models/tiny/pytorch_model.bin", b"not read")
    local_copy.cache_clear()
    yield read
    local_copy.cache_clear()


def copies(tmp_path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache/models").iterdir() if p.is_dir())


def test_a_model_is_read_once_and_is_the_model(model, tmp_path, capfd):
    folder = local_copy(MODEL)
    names = {p.name for p in Path(tiny.model("base")).iterdir()}
    assert {p.name for p in Path(folder).iterdir()} == names
    for name in names:
        assert (Path(folder) / name).read_bytes() == (Path(tiny.model("base")) / name).read_bytes()
    assert sorted(model) == sorted(f"models/tiny/{name}" for name in names)
    total = sum(p.stat().st_size for p in Path(folder).iterdir()) / 1e6
    said = capfd.readouterr().err
    assert f"read {MODEL}: {len(names)} files, {total:.1f} MB at " in said and "MB/s" in said

    model.clear()
    local_copy.cache_clear()  # as in another process
    assert local_copy(MODEL) == folder and model == []
    assert load_config(MODEL) == load_config(tiny.model("base"))
    assert str(local_folder(MODEL)) == folder
    assert len(copies(tmp_path)) == 1


def test_a_changed_model_is_another_copy(model, store, tmp_path):
    old = local_copy(MODEL)
    store.put("bucket", CONFIG, b"{}")
    assert local_copy(MODEL) == old  # a process sees one version
    local_copy.cache_clear()
    new = local_copy(MODEL)
    assert new != old and (Path(new) / "config.json").read_bytes() == b"{}"
    assert (Path(old) / "config.json").read_bytes() != b"{}" and len(copies(tmp_path)) == 2


def test_an_interrupted_copy_is_never_used(model, store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(bucket.Buckets, "get", lambda *_: (_ for _ in ()).throw(OSError("reset")))
        with pytest.raises(ValueError, match="cannot read 'gs://bucket/models/tiny'.*expected"):
            local_copy(MODEL)
    (left,) = copies(tmp_path)
    assert left.endswith(object_store.PARTIAL)
    folder = local_copy(MODEL)
    assert load_config(folder) == load_config(tiny.model("base"))
    assert copies(tmp_path) == [Path(folder).name]


def test_a_file_that_changes_while_it_is_read_is_refused(model, store, tmp_path, monkeypatch):
    get = bucket.Buckets.get
    monkeypatch.setattr(bucket.Buckets, "get", lambda s, b, k: get(s, b, k)[:-1])
    with pytest.raises(ValueError, match=r"had [\d,]+ bytes, [\d,]+ were read"):
        local_copy(MODEL)


def test_processes_of_a_host_read_a_model_once(model, monkeypatch):
    """Each call opens the lock for itself, as another process would."""
    found, threads = [], []
    for _ in range(3):
        threads.append(threading.Thread(target=lambda: found.append(local_copy.__wrapped__(MODEL))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 3
    assert len(model) == len(set(model))


def test_without_a_cache_a_copy_lasts_as_long_as_the_process(model, monkeypatch, tmp_path):
    monkeypatch.setenv("GOPD_CACHE", "off")
    folder = local_copy(MODEL)
    assert load_config(folder) == load_config(tiny.model("base"))
    assert not (tmp_path / "cache").exists()


def test_what_does_not_fit_is_not_begun(model, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: types.SimpleNamespace(free=10))
    with pytest.raises(ValueError, match="0.0 GB left: expected room for it; GOPD_CACHE names"):
        local_copy(MODEL)
    assert model == []


def test_what_is_not_there_is_one_sentence(model):
    with pytest.raises(ValueError, match="no model at 'gs://bucket/none': expected a folder with"):
        load_config("gs://bucket/none")


def test_a_store_that_cannot_be_asked_is_one_sentence(store, monkeypatch):
    check_reachable("--workdir", "gs://bucket/new")
    check_reachable("--workdir", "/no/such/folder")
    for error, expected in (
        (PermissionError("403"), r"expected a folder that this host may read \(403\)"),
        (ImportError("no gcsfs"), r"for gs:// pip install gcsfs \(no gcsfs\)"),
    ):
        monkeypatch.setattr(bucket.Buckets, "info", lambda *_, e=error: (_ for _ in ()).throw(e))
        monkeypatch.setattr(bucket.Buckets, "list", lambda *_, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(ValueError, match=f"^--workdir='gs://bucket/new': .*{expected}"):
            check_reachable("--workdir", "gs://bucket/new")


def test_a_write_that_the_store_refuses_names_the_file(store, monkeypatch):
    class HttpError(Exception): ...

    def refuse(*_):
        raise HttpError("503")

    monkeypatch.setattr(bucket.Buckets, "put", refuse)
    with pytest.raises(OSError, match=r"gs://bucket/text cannot be written \(503\)"):
        replace_text("gs://bucket/text", "c")


def test_a_local_path_is_left_alone():
    assert local_copy("/a/b") == "/a/b" and local_copy("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"


def test_prompts_are_read_from_there(store):
    lines = '{"prompt": "1+1", "ground_truth": "2"}\n{"prompt": "1+2", "ground_truth": "3"}\n'
    store.put("bucket", "data/sums.jsonl", lines.encode())
    for source in ("gs://bucket/data/sums.jsonl", "gs://bucket/data", "gs://bucket/data/s*.jsonl"):
        assert [row["ground_truth"] for row in rows.read(source)] == ["2", "3"]


# ---- What a run writes.


def test_a_text_is_replaced_as_a_whole(store, monkeypatch):
    written, put = [], bucket.Buckets.put
    monkeypatch.setattr(
        bucket.Buckets, "put", lambda s, b, k, c: written.append(k) or put(s, b, k, c)
    )
    replace_text("gs://bucket/text", "a")
    replace_text("gs://bucket/text", "b")
    assert epath.Path("gs://bucket/text").read_text() == "b"
    assert written == ["text", "text"]  # no other object, and no copy of one


def test_lines_are_uploaded_only_when_there_are_new_ones(store, monkeypatch):
    lines = JsonLines("gs://bucket/lines.jsonl", 0)
    lines.write({"step": 1})
    lines.flush()
    before = store.info("bucket", "lines.jsonl")
    lines.flush()
    assert store.info("bucket", "lines.jsonl") == before
    lines.write({"step": 2})
    lines.close()
    assert [r["step"] for r in JsonLines("gs://bucket/lines.jsonl", 1).records()] == [1]


def test_tensorboard_events_are_uploaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 1.8e9)
    content = []
    for folder in ("gs://bucket/board", str(tmp_path / "board")):
        board = Board(folder, 1)
        board.scalars(1, {"loss": 0.5})
        board.flush()
        (file,) = epath.Path(folder).iterdir()
        half = file.read_bytes()
        board.scalars(2, {"loss": 0.25})
        board.close()
        (file,) = epath.Path(folder).iterdir()
        content.append((half, file.read_bytes()))
    assert content[0] == content[1] and len(content[0][0]) < len(content[0][1])


@pytest.fixture
def state():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = {"w": jax.device_put(np.arange(6, dtype=np.float32).reshape(2, 3), here)}
    return TrainState(step=jax.numpy.int32(0), params=params, opt_state=optax.EmptyState())


def test_checkpoints_are_saved_restored_and_left_out_if_incomplete(store, state):
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    checkpoints = checkpoint.Checkpoints("gs://bucket/run", keep=2)
    for step in (1, 2, 3):
        params = jax.tree.map(lambda x, s=step: x * s, state.params)
        checkpoints.save(step, state.replace(params=params), {"seen": step})
    checkpoints.close()
    assert checkpoint.saved_steps("gs://bucket/run") == [2, 3]
    # What a kill in the middle of a save leaves: no mark that it is complete.
    for found in list(store.list("bucket", "run/checkpoints/3/")):
        key = found.key.replace("/3/", "/4/", 1)
        if "commit_success" not in key and "manifest.json" not in key:
            store.put("bucket", key, store.get("bucket", found.key))
    assert checkpoint.saved_steps("gs://bucket/run") == [2, 3]
    restored = checkpoint.Checkpoints("gs://bucket/run", keep=2).restore(abstract)
    assert (restored.step, restored.host) == (3, {"seen": 3})
    np.testing.assert_array_equal(restored.state.params["w"], 3 * state.params["w"])

    # A file that is too short by its manifest: set aside, and the one before it is used.
    key = next(o.key for o in store.list("bucket", "run/checkpoints/3/state/d/"))
    store.put("bucket", key, store.get("bucket", key)[:-1])
    restored = checkpoint.Checkpoints("gs://bucket/run", keep=2).restore(abstract)
    assert restored.step == 2
    assert any(o.key.startswith("run/checkpoints/3.damaged/") for o in store.list("bucket", "run/"))
