"""The train command on a mesh of any shape is the run of one device."""

from host_cases import check_same, finish, start, train
import pytest

TWO_STEPS = {"steps": 2, "eval.every": 0}
MESHES = {
    "data": {"mesh.data": 8, "mesh.fsdp": 1},
    "fsdp": {"mesh.fsdp": 8},
    "tensor": {"mesh.tensor": 2, "mesh.fsdp": 4},
    "expert": {"mesh.expert": 8, "mesh.fsdp": 1},
    "context": {"mesh.context": 8, "mesh.fsdp": 1, "learner.row_length": 256},
    "all": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "parked": {
        "mesh.fsdp": 2,
        "mesh.context": 2,
        "mesh.tensor": 2,
        "learner.row_length": 256,
        "learner.park_frozen": True,
        "learner.park_optimizer": True,
        "learner.score_early": False,
        "rollout.layout": "gathered",
    },
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    finish([start(train(workdir, **TWO_STEPS), 1)])
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("changes", MESHES.values(), ids=MESHES)
def test_a_mesh_changes_no_number(alone, tmp_path, changes):
    workdir = tmp_path / "run"
    finish([start(train(workdir, **TWO_STEPS, **changes), 8)])
    check_same(alone, workdir, tolerance=1e-5)


@pytest.mark.slow
def test_an_adapter_on_a_mesh_is_that_of_one_device(tmp_path):
    changes = TWO_STEPS | {"lora.rank": 2, "learner.learning_rate": 1e-2}
    folders = tmp_path / "one", tmp_path / "eight"
    for workdir, devices, mesh in zip(folders, (1, 8), ({}, MESHES["all"]), strict=True):
        finish([start(train(workdir, **changes, **mesh), devices)])
    check_same(*folders, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("estimator, mesh", [("full", "all"), ("full", "parked"), ("top_k", "all")])
def test_an_exact_estimator_on_a_mesh_is_that_of_one_device(tmp_path, estimator, mesh):
    """top_k with every id: with fewer, rounding decides which of two like ones is the last."""
    changes = TWO_STEPS | {"objective.estimator": estimator, "objective.top_k": 102}
    folders = tmp_path / "one", tmp_path / "eight"
    for workdir, devices, on in zip(folders, (1, 8), ({}, MESHES[mesh]), strict=True):
        finish([start(train(workdir, **changes, **on), devices)])
    check_same(*folders, tolerance=1e-5)
