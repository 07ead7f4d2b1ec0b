"""Checkpoints that are damaged, cannot be written, or lack their manifest."""

from pathlib import Path
import shutil

from full_disk import full_at
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.runtime import checkpoint
from gopd_jax.runtime.checkpoint import Checkpoints, restore_params
from gopd_jax.types import TrainState

SIZE = 30_000
SHAPES = TrainState(
    step=jax.ShapeDtypeStruct((), jnp.int32),
    params={"w": jax.ShapeDtypeStruct((SIZE,), jnp.float32)},
    opt_state={"m": jax.ShapeDtypeStruct((SIZE,), jnp.float32)},
)
HERE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=HERE), SHAPES)


def state(step):
    """A state that hardly compresses and differs from step to step."""
    noise = np.random.default_rng(step).normal(size=(2, SIZE)).astype(np.float32)
    w, m = jnp.asarray(noise)
    return TrainState(jnp.int32(step), {"w": w}, {"m": m})


def save(workdir, *steps, keep=2):
    checkpoints = Checkpoints(str(workdir), keep)
    for step in steps:
        checkpoints.save(step, state(step), {"next": step})
    checkpoints.close()


def restore(workdir):
    """The step that is restored, after a check of its values; None without a checkpoint."""
    checkpoints = Checkpoints(str(workdir), keep=2)
    try:
        found = checkpoints.restore(ABSTRACT)
    finally:
        checkpoints.close()
    if found is None:
        return None
    assert found.host == {"next": found.step}
    jax.tree.map(np.testing.assert_array_equal, found.state, state(found.step))
    return found.step


def names(workdir):
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("saved")
    save(workdir, 2, 4)
    return workdir


@pytest.fixture
def workdir(saved, tmp_path):
    """A run with the checkpoints of steps 2 and 4."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


# ---- Damage.


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def halve(folder):
    path = largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(folder):
    path = largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "halved": (halve, "bytes, expected"),
    "a flipped byte": (flip, "has other content than its sha256 says"),
    "a missing file": (lambda c: largest(c).unlink(), "is missing"),
    "a missing folder": (lambda c: shutil.rmtree(c / "state"), "is missing"),
    "no host state": (lambda c: shutil.rmtree(c / "host"), "is missing"),
    "an empty file": (lambda c: (c / "host/metadata").write_text(""), "has 0 bytes, expected"),
    "a file Orbax does not read": (
        lambda c: (c / "commit_success.txt").unlink(),
        "commit_success.txt is missing",
    ),
    "an empty folder": (lambda c: (shutil.rmtree(c), c.mkdir()), "it has no manifest"),
    "a halved manifest": (
        lambda c: (c / "manifest.json").write_text('{"files": {'),
        "manifest.json cannot be read",
    ),
    "an empty manifest": (
        lambda c: (c / "manifest.json").write_text('{"files": {}}'),
        "manifest.json cannot be read",
    ),
    "halved, without a manifest": (
        lambda c: ((c / "manifest.json").unlink(), halve(c)),
        "it has no manifest, and restoring it fails",
    ),
}


@pytest.mark.parametrize("harm, reason", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(workdir, harm, reason, capsys):
    good = contents(workdir / "checkpoints/2")
    harm(workdir / "checkpoints/4")
    kept = sorted(contents(workdir / "checkpoints/4").values())
    assert restore(workdir) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "checkpoint of step 4 is damaged" in said and reason in said and "4.damaged" in said
    assert names(workdir) == ["2", "4.damaged"]
    assert sorted(contents(workdir / "checkpoints/4.damaged").values()) == kept
    assert contents(workdir / "checkpoints/2") == good

    save(workdir, 4, 6)  # the step is free again
    assert restore(workdir) == 6
    assert names(workdir) == ["4", "4.damaged", "6"]
    harm(workdir / "checkpoints/6")
    harm(workdir / "checkpoints/4")
    with pytest.raises(ValueError):
        restore(workdir)
    assert names(workdir) == ["4.damaged", "4.damaged-2", "6.damaged"]


def test_no_intact_checkpoint_is_one_sentence_each_time(workdir):
    for step in (2, 4):
        halve(workdir / "checkpoints" / str(step))
    for _ in range(2):  # the second time, a start from step 0 would drop the run's logs
        with pytest.raises(ValueError, match="no checkpoint in .* is intact.*4.damaged") as error:
            restore(workdir)
        assert "\n" not in str(error.value)
    assert names(workdir) == ["2.damaged", "4.damaged"]


def test_a_run_without_checkpoints_has_none_to_restore(tmp_path):
    assert restore(tmp_path) is None


# ---- Without a manifest: killed between the commit and the manifest.


def test_a_checkpoint_without_a_manifest_is_used_and_gets_one(workdir, capsys):
    (workdir / "checkpoints/4/manifest.json").unlink()
    (workdir / "checkpoints/4/manifest.tmp").write_text("{")  # as a kill would leave it
    assert restore(workdir) == 4
    assert capsys.readouterr().err == ""
    flip(workdir / "checkpoints/4")
    assert restore(workdir) == 2


def test_an_intact_checkpoint_that_does_not_fit_is_not_set_aside(workdir):
    checkpoints = Checkpoints(str(workdir), keep=2)
    other = ABSTRACT.replace(params={"other": ABSTRACT.params["w"]})
    with pytest.raises(ValueError, match="step 4 is intact but cannot be restored"):
        checkpoints.restore(other)
    checkpoints.close()
    assert names(workdir) == ["2", "4"]


# ---- Rotation.


def test_older_checkpoints_are_deleted(tmp_path):
    save(tmp_path, 1, 2, 3, keep=1)
    assert names(tmp_path) == ["3"]
    save(tmp_path, 4, 5, 6, keep=2)
    assert names(tmp_path) == ["5", "6"]


def test_the_last_good_checkpoint_outlives_a_newer_one_of_unknown_state(tmp_path, monkeypatch):
    save(tmp_path, 1, keep=1)
    checkpoints = Checkpoints(str(tmp_path), keep=1)
    checkpoints.restore(ABSTRACT)

    def fails(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "write_manifest", fails)
    checkpoints.save(2, state(2), {"next": 2})
    with pytest.raises(OSError, match="step 2 cannot be written.*resumes from step 1"):
        checkpoints.close()
    assert names(tmp_path) == ["1", "2"]
    halve(tmp_path / "checkpoints/2")
    assert restore(tmp_path) == 1


def test_a_run_that_ends_before_it_restores_deletes_nothing(workdir):
    halve(workdir / "checkpoints/4")
    Checkpoints(str(workdir), keep=1).close()
    assert names(workdir) == ["2", "4"]
    assert restore(workdir) == 2


# ---- A disk that is full.


@pytest.fixture
def full_disk():
    """Files larger than 20 kB cannot be written, by TensorStore either."""
    with full_at(20_000):
        yield


@pytest.mark.parametrize("notice", ["the next save", "a check", "the end"])
def test_a_full_disk_is_one_sentence_and_harms_nothing(workdir, notice, request):
    before = contents(workdir / "checkpoints")
    checkpoints = Checkpoints(str(workdir), keep=1)
    checkpoints.restore(ABSTRACT)
    request.getfixturevalue("full_disk")
    checkpoints.save(6, state(6), {"next": 6})
    with pytest.raises(OSError, match="step 6 cannot be written.*resumes from step 4") as error:
        if notice == "the next save":
            checkpoints.save(8, state(8), {"next": 8})
        elif notice == "a check":
            while True:  # it is known soon, without waiting for it
                checkpoints.check()
        else:
            checkpoints.close()
    assert "\n" not in str(error.value)
    checkpoints.close()
    after = contents(workdir / "checkpoints")
    assert {path: after.get(path) for path in before} == before


def test_what_a_failed_save_leaves_does_not_disturb(workdir):
    left = workdir / "checkpoints/6.orbax-checkpoint-tmp/state"
    left.mkdir(parents=True)
    assert restore(workdir) == 4
    save(workdir, 6)
    assert restore(workdir) == 6


# ---- The parameters alone, from a run that is only read.


def params(workdir, step=None):
    found, restored = restore_params(str(workdir), step, ABSTRACT.params)
    jax.tree.map(np.testing.assert_array_equal, restored, state(found).params)
    return found


@pytest.mark.parametrize("harm, reason", DAMAGES.values(), ids=DAMAGES)
def test_parameters_of_a_damaged_checkpoint(workdir, harm, reason, capsys):
    if reason == "it has no manifest, and restoring it fails":
        shutil.rmtree(workdir / "checkpoints/4/state/ocdbt.process_0")
    harm(workdir / "checkpoints/4")
    before = contents(workdir)
    assert params(workdir) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "checkpoint of step 4 is damaged" in said and reason in said
    with pytest.raises(ValueError, match="step 4 is damaged .* has the steps \\[2, 4\\]"):
        params(workdir, 4)
    assert contents(workdir) == before
    halve(workdir / "checkpoints/2")
    with pytest.raises(ValueError, match=r"no checkpoint .* is intact; .* the steps \[2, 4\]"):
        params(workdir)
