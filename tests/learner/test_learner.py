"""The learner on a mesh: one compile, each teacher on its own rows, skipped references, and 8 devices that do what one does."""

import dataclasses

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_sequences, naive, spot, trees_close

from gopd_jax.learner.learner import Learner
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations


def nan_params():
    return jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), random_params(TINY))


@pytest.fixture(scope="module")
def learner():
    """Two domains, lambda 1 in the first and 1.25 in the second."""
    config = make_config(("code", "math"), scales={"code": 1.0}, reward_scale=1.25)
    return Learner(config, TINY, make_mesh(devices=jax.devices()[:1]), jnp.float32)


def _by_name(packed, array, sequences):
    return {s.name: np.asarray(array)[spot(packed.places, s)] for s in sequences}


def test_each_model_scores_its_own_rows_alone(learner):
    sequences = make_sequences(8, 2)
    packed = learner.pack(sequences)
    params = [random_params(TINY, i) for i in range(4)]
    batch = learner.score(
        packed, {"code": (TINY, params[1]), "math": (TINY, params[2])}, (TINY, params[3]), params[0]
    )
    expected = [naive(p, sequences, {s.name: 0.0 for s in sequences})[1] for p in params]
    teacher, reference = (
        _by_name(packed, x, sequences) for x in (batch.teacher_logprobs, batch.reference_logprobs)
    )
    old = _by_name(packed, batch.old_logprobs, sequences)
    for s in sequences:
        np.testing.assert_allclose(teacher[s.name], expected[1 + s.domain][s.name], atol=2e-5)
        np.testing.assert_allclose(old[s.name], expected[0][s.name], atol=2e-5)
        np.testing.assert_allclose(
            reference[s.name], expected[3][s.name] * s.domain, atol=2e-5
        )  # exact 0 for "code"
    assert not np.any(np.asarray(batch.reference_logprobs)[packed.domain_M == 0])


def test_a_teacher_with_context_scores_the_response_after_its_own_prompt():
    """Domain 0 has a plain teacher, domain 1 one that reads a longer prompt; the student's tokens stay where they are."""
    plain = make_config(("code", "math"), max_teacher_prompt_tokens=14)
    context = dataclasses.replace(plain.domains["math"], teacher_context="{ground_truth}")
    config = dataclasses.replace(plain, domains=plain.domains | {"math": context})
    learner = Learner(config, TINY, make_mesh(devices=jax.devices()[:1]), jnp.float32)
    rng = np.random.default_rng(5)
    longer = [
        rng.integers(1, TINY.vocab_size, int(rng.integers(8, 15)), dtype=np.int32) for _ in range(8)
    ]
    sequences = [
        dataclasses.replace(s, teacher_prompt=longer[i] if s.domain else None)
        for i, s in enumerate(make_sequences(8, 2))
    ]
    params = [random_params(TINY, i) for i in range(3)]
    packed = learner.pack(sequences)
    batch = learner.score(
        packed, {"code": (TINY, params[1]), "math": (TINY, params[2])}, (TINY, params[0]), None
    )
    found = _by_name(packed, batch.teacher_logprobs, sequences)
    read = [
        s if s.teacher_prompt is None else dataclasses.replace(s, prompt=s.teacher_prompt)
        for s in sequences
    ]
    expected = [naive(p, read, {s.name: 0.0 for s in read}, width=32)[1] for p in params]
    for s in sequences:
        np.testing.assert_allclose(found[s.name], expected[1 + s.domain][s.name], atol=2e-5)
    outside = np.ones(packed.batch.tokens.shape, bool)
    for s in sequences:
        outside[spot(packed.places, s)] = False
    assert not np.any(
        np.asarray(batch.teacher_logprobs)[(packed.domain_M == 1)][outside[packed.domain_M == 1]]
    )


def test_the_other_teacher_and_a_skipped_reference_may_be_anything(learner):
    broken, sound = (TINY, nan_params()), (TINY, random_params(TINY, 1))
    code_alone = learner.pack([s for s in make_sequences(8, 2) if s.domain == 0])
    batch = learner.score(code_alone, {"code": sound, "math": broken}, broken, None)
    state, metrics, _ = learner.update(learner.start(random_params(TINY)), batch)
    assert np.isfinite(metrics["loss"]) and all(
        np.isfinite(p).all() for p in jax.tree.leaves(state.params)
    )
    assert metrics["grad_norm"] > 0.01

    both = learner.pack(make_sequences(8, 2))
    batch = learner.score(both, {"code": sound, "math": broken}, sound, None)
    broken_M = np.isnan(np.asarray(batch.teacher_logprobs)).any(axis=(1, 2))
    np.testing.assert_array_equal(
        broken_M, (both.domain_M == 1) & (np.arange(len(broken_M)) < both.used)
    )


def test_varying_lengths_compile_nothing_after_the_first_step_and_the_state_is_donated(learner):
    models = {
        name: (TINY, random_params(TINY, i)) for i, name in enumerate(("code", "math"), start=1)
    }
    state = learner.start(random_params(TINY))
    counts, norms = [], []
    for step in range(4):
        packed = learner.pack(
            make_sequences(8, 2, seed=step, prompt=(1, 2 * step + 2), response=(1, 3 * step + 3))
        )
        batch = learner.score(packed, models, (TINY, models["math"][1]), None)
        before = state
        state, metrics, _ = learner.update(state, batch)
        norms.append(float(metrics["grad_norm"]))
        assert all(
            p.is_deleted()
            for p in jax.tree.leaves(before.params) + jax.tree.leaves(before.opt_state)
        )
        counts.append(compilations())
    assert counts[1:] == [counts[1]] * 3
    assert len(set(norms)) == 4 and int(state.step) == 4


def test_an_update_without_sequences_changes_no_parameter(learner):
    """Every rollout truncated and masked: teachers are still asked for nothing, and nothing becomes NaN."""
    packed = learner.pack([])
    assert packed.used == 0
    sequences = learner.pack(
        make_sequences(8, 2)
    ).batch  # behaviour log-probs, as in every other step
    assert jax.tree.structure(packed.batch) == jax.tree.structure(
        sequences
    )  # so nothing recompiles
    batch = learner.score(
        packed, {"code": (TINY, nan_params()), "math": (TINY, nan_params())}, None, None
    )
    params = random_params(TINY)
    state, metrics, _ = learner.update(learner.start(params), batch)
    assert float(metrics["loss"]) == float(metrics["grad_norm"]) == 0
    trees_close(state.params, random_params(TINY), atol=0)


def test_abstract_state_is_that_of_a_real_one(learner):
    state = learner.start(random_params(TINY))
    jax.tree.map(
        lambda s, a: (
            (s.shape, s.dtype, s.sharding) == (a.shape, a.dtype, a.sharding) or pytest.fail(str(a))
        ),
        state,
        learner.abstract_state(),
    )


def test_rows_that_the_mesh_does_not_divide_are_refused():
    class FakeMesh:
        shape = {"data": 2, "fsdp": 2, "tensor": 1}

    with pytest.raises(ValueError, match=r"rows_per_micro_batch=2: wanted a multiple of 4"):
        Learner(make_config(), TINY, FakeMesh(), jnp.float32)


ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_config, make_sequences, spot, trees_close
from gopd_jax.learner.learner import Learner
from gopd_jax.runtime.mesh import make_mesh

config = make_config(("code", "math"), scales={"code": 1.0}, reward_scale=1.25, rows_per_micro_batch=4)
models = {name: random_params(TINY, i) for i, name in enumerate(("code", "math", "reference"), start=1)}
sequences = make_sequences(8, 2)
results = []
for sizes in ({"devices": jax.devices()[:1]}, {"data": 2, "fsdp": 2, "tensor": 2}):
    learner = Learner(config, TINY, make_mesh(**sizes), np.float32)
    frozen = {name: (TINY, jax.device_put(p, learner.param_shardings)) for name, p in models.items()}
    state = learner.start(jax.device_put(random_params(TINY), learner.param_shardings))
    for _ in range(2):
        packed = learner.pack(sequences)
        batch = learner.score(packed, {k: frozen[k] for k in ("code", "math")}, frozen["reference"], None)
        state, metrics, logprobs = learner.update(state, batch)
    logprobs = [np.asarray(logprobs)[spot(packed.places, s)] for s in sequences]
    metrics = {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"], **metrics["diagnostics"].finish(["code", "math"])}
    results.append(jax.device_get((state.params, state.opt_state, metrics, logprobs)))
    query = state.params["layers"]["attention"]["query"]
    assert state.params["embedding"].sharding == learner.param_shardings["embedding"]
    print(len(query.sharding.device_set), query.addressable_shards[0].data.size / query.size)
one, eight = results
trees_close(eight[0], one[0], atol=2e-5)
trees_close(eight[1], one[1], atol=2e-5, rtol=1e-4)
trees_close(eight[2], one[2], atol=2e-4, rtol=1e-4)
trees_close(eight[3], one[3], atol=2e-5)
moved = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one[0], random_params(TINY)))))
assert moved > 1e-3, moved
"""


def test_eight_devices_learn_what_one_does(run_on_fake_devices):
    """Two steps on data 2 x fsdp 2 x tensor 2; a query kernel lies in quarters."""
    assert run_on_fake_devices(ON_EIGHT).split() == ["1", "1.0", "8", "0.25"]
