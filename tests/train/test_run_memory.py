"""What a machine cannot hold is refused in one sentence, before anything is read or written."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from loop_cases import small
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.models.config import load_config
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import AXES, make_mesh
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train.memory import run_phases
from gopd_jax.train.models import make_learner
from gopd_jax.train.prepare import roles_of
from gopd_jax.train.run import run

COUNT = 10**9


def parts_of(config, dtype=jnp.float32):
    roles = roles_of(config)
    models = {path: load_config(path) for path in roles.values()}
    mesh = make_mesh(devices=jax.devices()[:1])
    phases = run_phases(config, roles, models, mesh, dtype)
    return {part.what: part for parts in phases.values() for part in parts}


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            {"rollout.slots": COUNT},
            r"config.rollout.slots=1000000000: the rollout cache needs 1,000,000,000 slots x \d+ "
            r"columns x 2 layers x 2 x 2 heads x 16 x 4 bytes = \S+ TB on each of",
        ),
        (
            {"rollout.prompts_per_step": COUNT},
            r"config.rollout.prompts_per_step=1000000000 x samples_per_prompt=1: the packed batch "
            r"needs 1 update\(s\) x \([0-9,]+ rows of .* = \S+ TB",
        ),
        ({"rollout.samples_per_prompt": COUNT}, "samples_per_prompt=1000000000: the packed"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(changes, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        run(small(**changes), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_the_bytes_are_those_of_the_arrays():
    config = small(**{"learner.updates_per_batch": 2})
    parts = parts_of(config)
    base = load_config(tiny.model("base"))
    programs = ProgramTable(make_mesh(devices=jax.devices()[:1]))

    learner = make_learner(config, base, programs, jnp.float32)
    state = sum(x.nbytes for x in jax.tree.leaves(learner.start(zeros(learner)).opt_state))
    assert parts["student"].bytes == pytest.approx(state + 2 * 4 * base.num_params, abs=64)
    assert parts["teacher of math"].bytes == 4 * base.num_params

    engine = RolloutEngine(
        base,
        programs.mesh,
        (2,),
        slots=config.rollout.slots,
        max_prompt_tokens=config.data.max_prompt_tokens,
        max_response_tokens=config.rollout.max_response_tokens,
        options=config.rollout.options,
    )
    assert parts["rollout cache"].bytes == engine.caches.bytes_of(config.rollout.slots)

    tokens = sum(b.micro_batches * b.rows * b.length for b in learner.buckets)
    # tokens, positions, segments, targets, weights, lambda, advantages, and the log-probs of
    # sampler, teacher and reference, of two updates; those of the old student, of the second one;
    # two arrays of what is returned.
    assert parts["packed batch"].bytes == 4 * tokens * (2 * 10 + 1 + 2)


def zeros(learner):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), learner.abstract_state().params)


def test_frozen_models_are_counted_once_in_the_compute_dtype():
    half = parts_of(small(), jnp.bfloat16)
    assert half["teacher of math"].bytes == 2 * load_config(tiny.model("base")).num_params
    same = {"domains.math.teacher": tiny.model("base"), "reference": tiny.model("base")}
    assert len([part for part in parts_of(small(**same)) if part.startswith(("teach", "ref"))]) == 1
    one = parts_of(small(**{"learner.reward_scale": 1.0}))
    assert "reference" not in one and one["packed batch"].bytes < half["packed batch"].bytes


def test_an_exact_estimator_holds_hidden_states_of_every_token():
    assert "hidden states" not in parts_of(small())
    exact = {"objective.estimator": "full"}
    base, config = load_config(tiny.model("base")), small(**exact)
    programs = ProgramTable(make_mesh(devices=jax.devices()[:1]))
    learner = make_learner(config, base, programs, jnp.float32)
    tokens = sum(b.micro_batches * b.rows * b.length for b in learner.buckets)
    assert parts_of(config)["hidden states"].bytes == 2 * 4 * base.width * tokens
    alone = parts_of(small(**exact, **{"learner.reward_scale": 1.0}))["hidden states"]
    assert alone.bytes == 4 * base.width * tokens


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device that is not here."""

    id: int
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    process_index: int = 0


def phases_of(memory=None, **changes):
    """Bytes of each part in each phase, on one of eight chips."""
    config = small(**changes)
    roles = roles_of(config)
    models = {path: load_config(path) for path in roles.values()}
    mesh = Mesh(np.array([Chip(i) for i in range(8)]).reshape(1, 8, 1, 1, 1), AXES)
    phases = run_phases(config, roles, models, mesh, jnp.bfloat16, memory)
    return {name: {part.what: part.bytes for part in parts} for name, parts in phases.items()}


def test_phases_share_the_memory_and_what_is_parked_takes_none():
    models = {"teacher of math", "reference"}
    plain, late = phases_of(), phases_of(**{"learner.score_early": False})
    assert plain["rollout"].keys() == {"student", "rollout cache", "decode weights"} | models
    assert plain["score"].keys() == {"student"} | models == late["score"].keys()
    assert plain["update"].keys() == {"student", "packed batch"} | models
    parked = phases_of(**{"learner.park_frozen": True, "learner.park_optimizer": True})
    for phase in ("rollout", "score"):  # which score as the responses come: one at a time
        assert len(parked[phase].keys() & models) == 1
        assert parked[phase]["student"] < 0.34 * plain[phase]["student"]
    assert not parked["update"].keys() & models
    assert parked["update"]["student"] == plain["update"]["student"]
    late = phases_of(**{"learner.park_frozen": True, "learner.score_early": False})
    assert not late["rollout"].keys() & models and late["score"].keys() & models


def test_decode_weights_are_gathered_where_they_do_not_fit_as_a_whole():
    plain = phases_of()["rollout"]
    enough, whole = 10 * sum(plain.values()), plain["decode weights"]
    assert phases_of(enough)["rollout"] == plain
    little = phases_of(sum(plain.values()))["rollout"]
    # An eighth of all, and a layer of the two.
    assert whole / 8 < little["decode weights"] < whole * 0.7
    assert phases_of(1, **{"rollout.layout": "whole"})["rollout"] == plain
    assert phases_of(**{"rollout.layout": "gathered"})["rollout"] == little
