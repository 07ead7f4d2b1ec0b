"""The learner on a mesh: models score their own rows, nothing recompiles, 8 devices equal one."""

import dataclasses

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import (
    TINY,
    make_config,
    make_examples,
    make_learner,
    naive,
    predictions,
    trees_close,
)

from gopd_jax.learner.learner import BatchShape, FrozenModel, Learner
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable


def frozen(params):
    return FrozenModel("a frozen model", TINY, params)


def nan_params():
    return jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), random_params(TINY))


@pytest.fixture(scope="module")
def learner():
    """Two domains, lambda 1 in the first and 1.25 in the second."""
    return make_learner(make_config(("code", "math"), scales={"code": 1.0}, reward_scale=1.25))


def by_key(packed, array, examples):
    return {e.key: np.asarray(array)[predictions(packed.slices, e)] for e in examples}


# ---- Scoring.


def test_each_model_scores_its_own_rows_alone(learner):
    examples = make_examples(8, 2)
    packed = learner.pack(examples)
    params = [random_params(TINY, i) for i in range(4)]
    teachers = {"code": frozen(params[1]), "math": frozen(params[2])}
    batch = learner.score(packed, teachers, frozen(params[3]), params[0])
    student, code, math, reference = (naive(p, examples)[1] for p in params)
    found_teacher = by_key(packed, batch.teacher_logprobs, examples)
    found_reference = by_key(packed, batch.reference_logprobs, examples)
    found_old = by_key(packed, batch.old_logprobs, examples)
    for e in examples:
        teacher = (code, math)[e.domain][e.key]
        np.testing.assert_allclose(found_teacher[e.key], teacher, atol=2e-5)
        np.testing.assert_allclose(found_old[e.key], student[e.key], atol=2e-5)
        # Lambda is 1 in "code", domain 0: exact zeros.
        expected = reference[e.key] * e.domain
        np.testing.assert_allclose(found_reference[e.key], expected, atol=2e-5)
    assert not np.any(np.asarray(batch.reference_logprobs)[packed.domain_M == 0])


def test_a_teacher_with_context_scores_the_response_after_its_own_prompt():
    """Domain 0 has a plain teacher; that of domain 1 reads a longer prompt.

    The log-probs of both stand where the student's tokens are.
    """
    plain = make_config(("code", "math"), max_teacher_prompt_tokens=14)
    context = dataclasses.replace(plain.domains["math"], teacher_context="{ground_truth}")
    learner = make_learner(dataclasses.replace(plain, domains=plain.domains | {"math": context}))
    rng = np.random.default_rng(5)
    longer = [
        rng.integers(1, TINY.vocab_size, int(rng.integers(8, 15)), dtype=np.int32) for _ in range(8)
    ]
    examples = [
        dataclasses.replace(e, teacher_prompt=longer[i] if e.domain else None)
        for i, e in enumerate(make_examples(8, 2))
    ]
    params = [random_params(TINY, i) for i in range(3)]
    packed = learner.pack(examples)
    teachers = {"code": frozen(params[1]), "math": frozen(params[2])}
    batch = learner.score(packed, teachers, frozen(params[0]), None)
    found = by_key(packed, batch.teacher_logprobs, examples)
    read = [
        e if e.teacher_prompt is None else dataclasses.replace(e, prompt=e.teacher_prompt)
        for e in examples
    ]
    expected = [naive(p, read, width=32)[1] for p in params]
    for e in examples:
        np.testing.assert_allclose(found[e.key], expected[1 + e.domain][e.key], atol=2e-5)
    outside = np.ones(packed.batch.tokens.shape, bool)
    for e in examples:
        outside[predictions(packed.slices, e)] = False
    is_math = packed.domain_M == 1
    assert not np.any(np.asarray(batch.teacher_logprobs)[is_math][outside[is_math]])


def test_the_other_teacher_and_a_skipped_reference_may_be_anything(learner):
    broken, sound = frozen(nan_params()), frozen(random_params(TINY, 1))
    teachers = {"code": sound, "math": broken}
    code_alone = learner.pack([e for e in make_examples(8, 2) if e.domain == 0])
    batch = learner.score(code_alone, teachers, broken, None)
    state, metrics, _ = learner.update(learner.start(random_params(TINY)), batch)
    assert np.isfinite(metrics.loss)
    assert all(np.isfinite(p).all() for p in jax.tree.leaves(state.params))
    assert metrics.grad_norm > 0.01

    both = learner.pack(make_examples(8, 2))
    batch = learner.score(both, teachers, sound, None)
    broken_M = np.isnan(np.asarray(batch.teacher_logprobs)).any(axis=(1, 2))
    holds_math = (both.domain_M == 1) & (np.arange(len(broken_M)) < both.used)
    np.testing.assert_array_equal(broken_M, holds_math)


# ---- The update.


def test_varying_lengths_compile_nothing_after_the_first_step_and_the_state_is_donated(learner):
    teachers = {
        name: frozen(random_params(TINY, i)) for i, name in enumerate(("code", "math"), start=1)
    }
    state = learner.start(random_params(TINY))
    counts, norms = [], []
    for step in range(4):
        prompt, response = (1, 2 * step + 2), (1, 3 * step + 3)
        packed = learner.pack(make_examples(8, 2, seed=step, prompt=prompt, response=response))
        batch = learner.score(packed, teachers, teachers["math"], None)
        before = state
        state, metrics, _ = learner.update(state, batch)
        norms.append(float(metrics.grad_norm))
        donated = jax.tree.leaves(before.params) + jax.tree.leaves(before.opt_state)
        assert all(p.is_deleted() for p in donated)
        counts.append(compilations())
    assert counts[1:] == [counts[1]] * 3
    assert len(set(norms)) == 4 and int(state.step) == 4


def test_an_update_without_examples_changes_no_parameter(learner):
    """Every rollout is truncated and masked: no teacher is run, and nothing becomes NaN."""
    packed = learner.pack([])
    assert packed.used == 0
    # Behaviour log-probs are there as in every other step, so that nothing recompiles.
    usual = learner.pack(make_examples(8, 2)).batch
    assert jax.tree.structure(packed.batch) == jax.tree.structure(usual)
    teachers = {"code": frozen(nan_params()), "math": frozen(nan_params())}
    batch = learner.score(packed, teachers, None, None)
    state, metrics, _ = learner.update(learner.start(random_params(TINY)), batch)
    assert float(metrics.loss) == float(metrics.grad_norm) == 0
    trees_close(state.params, random_params(TINY), atol=0)


def test_the_step_returns_the_advantages_that_the_loss_used(learner):
    """lambda log teacher - log student + (1 - lambda) log reference, from what it returns."""
    examples = [
        dataclasses.replace(e, reward_scale=(1.0, 1.25)[e.domain]) for e in make_examples(8, 2)
    ]
    packed = learner.pack(examples)
    sound = frozen(random_params(TINY, 1))
    batch = learner.score(packed, {"code": sound, "math": sound}, frozen(random_params(TINY)), None)
    _, _, tokens = learner.update(learner.start(random_params(TINY)), batch)
    for e in examples:
        here = predictions(packed.slices, e)
        student, teacher, reference = (
            np.asarray(x)[here]
            for x in (tokens.logprobs, batch.teacher_logprobs, batch.reference_logprobs)
        )
        expected = e.reward_scale * teacher - student + (1 - e.reward_scale) * reference
        np.testing.assert_allclose(np.asarray(tokens.advantages)[here], expected, atol=1e-5)


def test_abstract_state_is_that_of_a_real_one(learner):
    def facts(x):
        return x.shape, x.dtype, x.sharding

    def same(real, abstract):
        assert facts(real) == facts(abstract)

    jax.tree.map(same, learner.start(random_params(TINY)), learner.abstract_state())


def test_rows_that_the_mesh_does_not_divide_are_refused():
    class FakeMesh:
        shape = {"data": 2, "fsdp": 2, "tensor": 1}

    with pytest.raises(ValueError, match=r"rows_per_micro_batch=2: expected a multiple of 4"):
        make_learner(make_config(), FakeMesh())


def test_rows_are_as_long_as_the_longest_example_unless_told():
    for row_length, expected in {0: 20, 48: 48}.items():
        shape = BatchShape(examples=8, longest=20, rows=4, row_length=row_length)
        programs = ProgramTable(make_mesh(devices=jax.devices()[:1]))
        settings, scales = LearnerSettings(), {"math": 1.25}
        learner = Learner(TINY, programs, settings, reward_scales=scales, shape=shape, updates=1)
        assert learner.pack(make_examples(8)).batch.tokens.shape[1:] == (4, expected)


# ---- Several devices.

ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_config, make_examples, make_learner, predictions, trees_close
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.runtime.mesh import make_mesh

domains = ("code", "math")
config = make_config(domains, scales={"code": 1.0}, reward_scale=1.25, rows_per_micro_batch=4)
roles = (*domains, "reference")
params = {role: random_params(TINY, i) for i, role in enumerate(roles, start=1)}
examples = make_examples(8, 2)
results = []
for sizes in ({"devices": jax.devices()[:1]}, {"data": 2, "fsdp": 2, "tensor": 2}):
    learner = make_learner(config, make_mesh(**sizes))
    place = lambda p: jax.device_put(p, learner.param_shardings)
    frozen = {role: FrozenModel(role, TINY, place(p)) for role, p in params.items()}
    teachers = {name: frozen[name] for name in domains}
    state = learner.start(place(random_params(TINY)))
    for _ in range(2):
        packed = learner.pack(examples)
        batch = learner.score(packed, teachers, frozen["reference"], None)
        state, metrics, tokens = learner.update(state, batch)
    logprobs = [np.asarray(tokens.logprobs)[predictions(packed.slices, e)] for e in examples]
    values = metrics.diagnostics.finish(domains)
    values |= {"loss": metrics.loss, "grad_norm": metrics.grad_norm}
    results.append(jax.device_get((state.params, state.opt_state, values, logprobs)))
    query = state.params["layers"]["attention"]["query"]
    assert state.params["embedding"].sharding == learner.param_shardings["embedding"]
    print(len(query.sharding.device_set), query.addressable_shards[0].data.size / query.size)
one, eight = results
trees_close(eight[0], one[0], atol=2e-5)
trees_close(eight[1], one[1], atol=2e-5, rtol=1e-4)
trees_close(eight[2], one[2], atol=2e-4, rtol=1e-4)
trees_close(eight[3], one[3], atol=2e-5)
leaves = zip(jax.tree.leaves(one[0]), jax.tree.leaves(random_params(TINY)))
moved = max(np.abs(a - b).max() for a, b in leaves)
assert moved > 1e-3, moved
"""


def test_eight_devices_learn_what_one_does(run_on_fake_devices):
    """Two steps on data 2 x fsdp 2 x tensor 2; a query kernel lies in quarters."""
    assert run_on_fake_devices(ON_EIGHT).split() == ["1", "1.0", "8", "0.25"]
