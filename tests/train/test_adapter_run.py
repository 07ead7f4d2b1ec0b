"""A run that trains an adapter: what is loaded, held and saved, and what may not change."""

import json

import jax
import jax.numpy as jnp
from loop_cases import small
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.learner.learner import Learner
from gopd_jax.models.config import load_config
from gopd_jax.models.lora import abstract_adapter, adapter_elements
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.train import models
from gopd_jax.train.memory import run_phases
from gopd_jax.train.prepare import roles_of
from gopd_jax.train.run import run

BASE = tiny.model("base")
SETTINGS = {
    "steps": 3,
    "eval.prompts": 8,
    "eval.every": 0,
    "checkpoint.every": 3,
    "lora.rank": 2,
    "lora.alpha": 4.0,
    "lora.targets": ("query", "out", "up"),
    "learner.learning_rate": 1e-2,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run, the paths of the models it loaded, and arrays held in its updates."""
    workdir = tmp_path_factory.mktemp("adapter") / "run"
    loaded, held = [], []
    embedding = load_config(BASE).vocab_size, load_config(BASE).width

    def load(path, *args):
        loaded.append(path)
        return load_params(path, *args)

    def update(learner, *args):
        held.append(sum(x.shape == embedding for x in jax.live_arrays()))
        return update_of(learner, *args)

    load_params, update_of = models.load_params, Learner.update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_params", load)
        patch.setattr(Learner, "update", update)
        run(small(**SETTINGS), str(workdir))
    return workdir, loaded, held


@pytest.mark.slow
def test_the_base_is_the_reference_and_there_once(finished):
    """Two models are held in an update, base and teacher; one of all parameters has five."""
    _, loaded, held = finished
    assert sorted(loaded) == sorted({BASE, tiny.model("math_teacher")})
    assert held == [2] * 3


@pytest.mark.slow
def test_the_sampler_draws_from_the_adapter(finished):
    """It begins at the reference; once it has moved, the gap to the learner is rounding still."""
    workdir, *_ = finished
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    first, *_, last = map(json.loads, lines)
    assert abs(first["kl_reference"]) < 1e-5 and last["kl_reference"] > 1e-3
    assert max(first["sampler_gap"], last["sampler_gap"]) < 1e-5


@pytest.mark.slow
def test_a_checkpoint_holds_the_adapter_alone(finished):
    workdir, *_ = finished
    config = small(**SETTINGS)
    elements = adapter_elements(load_config(BASE), config.lora)
    folder = workdir / "checkpoints/3/state"
    held = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    assert held < 4 * load_config(BASE).num_params  # A, B and two moments of each, and metadata
    assert 3 * 4 * elements < held
    assert json.loads((workdir / "run.json").read_text())["config"]["lora"]["rank"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lora.rank": 3}, "lora.rank: 2 -> 3"),
        ({"lora.alpha": 8.0}, "lora.alpha: 4.0 -> 8.0"),
        ({"lora.rank": 0}, "lora.rank: 2 -> 0"),
        ({"student": tiny.model("math_teacher")}, "fingerprint of weights.student"),
    ],
)
def test_another_adapter_or_base_is_refused(finished, changes, words):
    workdir, *_ = finished
    with pytest.raises(ValueError, match=words):
        run(small(**SETTINGS | {"steps": 4} | changes), str(workdir))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, words",
    [
        ({"lora.rank": 0}, "that run trained an adapter of rank 2 on .*, this one all parameters"),
        ({"lora.targets": ("query",)}, "this one an adapter of rank 2 on query; expected the same"),
        ({"student": tiny.model("math_teacher")}, "belongs to other weights than those of"),
    ],
)
def test_a_start_from_another_adapter_is_refused(finished, tmp_path, changes, words):
    workdir, *_ = finished
    given = SETTINGS | {"init_from": str(workdir)} | changes
    with pytest.raises(ValueError, match=words):
        run(small(**given), str(tmp_path / "run"))


def test_memory_is_that_of_base_and_adapter():
    config = small(**SETTINGS)
    roles, model = roles_of(config), load_config(BASE)
    mesh = make_mesh(devices=jax.devices()[:1])
    architectures = {path: load_config(path) for path in roles.values()}
    phases = run_phases(config, roles, architectures, mesh, jnp.bfloat16)
    found = {part.what: part.bytes for part in phases["update"]}
    assert found["student"] == 2 * model.num_params and "reference" not in found
    arrays = jax.tree.leaves(abstract_adapter(model, config.lora))
    assert found["adapter"] == pytest.approx(4 * 4 * sum(np.prod(x.shape) for x in arrays), abs=64)
    resting = {part.what: part.bytes for part in phases["score"]}
    assert resting["adapter"] * 4 == pytest.approx(found["adapter"] * 3, abs=64)
