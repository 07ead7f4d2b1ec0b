"""The learner on a mesh: nothing recompiles, rows of any length and 8 devices give one result."""

import dataclasses

import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_examples, make_learner, of_tokens, trees_close

from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.runtime.metrics import compilations

OF_GOPD = ("behaviour_logprobs", "teacher_logprobs", "reference_logprobs")


def frozen(params):
    return FrozenModel("a frozen model", TINY, params)


@pytest.fixture(scope="module")
def learner():
    """Two domains, lambda 1 in the first and 1.25 in the second."""
    return make_learner(make_config(("code", "math"), scales={"code": 1.0}, reward_scale=1.25))


# ---- The update.


def test_varying_lengths_compile_nothing_after_the_first_step_and_the_state_is_donated(learner):
    teachers = {
        name: frozen(random_params(TINY, i)) for i, name in enumerate(("code", "math"), start=1)
    }
    state = learner.start(random_params(TINY))
    counts, norms = [], []
    for step in range(4):
        prompt, response = (1, 2 * step + 2), (1, 3 * step + 3)
        examples = make_examples(8, 2, seed=step, prompt=prompt, response=response)
        scored = with_scores(learner, examples, teachers, teachers["math"])
        before = state
        state, metrics, _ = learner.update(state, learner.pack(scored, OF_GOPD))
        norms.append(float(metrics.grad_norm))
        donated = jax.tree.leaves(before.params) + jax.tree.leaves(before.opt_state)
        assert all(p.is_deleted() for p in donated)
        counts.append(compilations())
    assert counts[1:] == [counts[1]] * 3
    assert len(set(norms)) == 4 and int(state.step) == 4


def test_an_update_without_examples_changes_no_parameter(learner):
    """Every rollout is truncated and masked: no teacher is run, and nothing becomes NaN."""
    packed = learner.pack([], OF_GOPD)
    assert set(packed.used) == {0} and packed.cost.executed.total == 0
    # The arrays of every other step are there, so that nothing recompiles.
    usual = learner.pack(make_examples(8, 2), OF_GOPD)
    assert jax.tree.structure(packed.batches) == jax.tree.structure(usual.batches)
    state, metrics, _ = learner.update(learner.start(random_params(TINY)), packed)
    assert float(metrics.loss) == float(metrics.grad_norm) == 0
    trees_close(state.params, random_params(TINY), atol=0)


def test_the_step_returns_the_advantages_that_the_loss_used(learner):
    """lambda log teacher - log student + (1 - lambda) log reference, from what it returns."""
    examples = [
        dataclasses.replace(e, reward_scale=(1.0, 1.25)[e.domain]) for e in make_examples(8, 2)
    ]
    sound = frozen(random_params(TINY, 1))
    teachers, reference = {"code": sound, "math": sound}, frozen(random_params(TINY))
    packed = learner.pack(with_scores(learner, examples, teachers, reference), OF_GOPD)
    _, _, tokens = learner.update(learner.start(random_params(TINY)), packed)
    for e in packed.examples.values():
        student = of_tokens([t.logprobs for t in tokens], packed, e)
        expected = e.reward_scale * e.teacher_logprobs - student
        if e.domain:  # lambda is 1 in the other
            expected += (1 - e.reward_scale) * e.reference_logprobs
        advantages = of_tokens([t.advantages for t in tokens], packed, e)
        np.testing.assert_allclose(advantages, expected, atol=1e-5)


def test_abstract_state_is_that_of_a_real_one(learner):
    def facts(x):
        return x.shape, x.dtype, x.sharding

    def same(real, abstract):
        assert facts(real) == facts(abstract)

    jax.tree.map(same, learner.start(random_params(TINY)), learner.abstract_state())


@pytest.mark.slow
def test_rows_of_both_lengths_learn_what_rows_of_one_do(learner):
    """The same examples, with short rows for what is left over and without."""
    teachers = {name: frozen(random_params(TINY, 1)) for name in ("code", "math")}
    scored = with_scores(learner, make_examples(8, 2), teachers, frozen(random_params(TINY, 2)))
    results, used = [], []
    for row_length in (24, 1024):
        config = make_config(("code", "math"), row_length=row_length, rows_per_micro_batch=1)
        other = make_learner(config)
        packed = other.pack(scored, OF_GOPD)
        state, metrics, tokens = other.update(other.start(random_params(TINY)), packed)
        logprobs = [of_tokens([t.logprobs for t in tokens], packed, e) for e in scored]
        values = metrics.diagnostics.finish(["code", "math"])
        results.append((state.params, logprobs, values))
        used.append(packed.used)
    assert len(used[0]) == 1 and used[1][1] > 0
    for a, b in zip(*results, strict=True):
        trees_close(a, b, atol=2e-5, rtol=1e-4)


# ---- Several devices.

ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_config, make_learner, make_samples, of_tokens, trees_close
from gopd_jax.kernels.packed_attention import MEMBERS
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.runtime.mesh import make_mesh

domains = ("code", "math")
config = make_config(
    domains,
    scales={"code": 1.0},
    reward_scale=1.25,
    rows_per_micro_batch=4,
    row_length=40,
    samples_per_prompt=6,
)
roles = (*domains, "reference")
params = {role: random_params(TINY, i) for i, role in enumerate(roles, start=1)}
examples = make_samples(4, 6, (4, 9), (1, 12), domains=2)
results = []
for sizes in ({"devices": jax.devices()[:1]}, {"fsdp": 2, "context": 2, "tensor": 2}):
    learner = make_learner(config, make_mesh(**sizes))
    if learner.mesh.size == 1:
        learner.sharing = None
    place = lambda p: jax.device_put(p, learner.param_shardings)
    frozen = {role: FrozenModel(role, TINY, place(p)) for role, p in params.items()}
    teachers = {name: frozen[name] for name in domains}
    state = learner.start(place(random_params(TINY)))
    for _ in range(2):
        packed = learner.pack(with_scores(learner, examples, teachers, frozen["reference"]))
        state, metrics, tokens = learner.update(state, packed)
    shared = any((np.asarray(batch.segments) % MEMBERS).any() for batch in packed.batches)
    assert shared == (learner.mesh.size > 1)
    logprobs = [of_tokens([t.logprobs for t in tokens], packed, e) for e in examples]
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
    """Two steps on fsdp 2 x context 2 x tensor 2; a query kernel lies in eighths.

    On eight devices samples share their prompts, on one they do not. `test_mesh` has other meshes.
    """
    assert run_on_fake_devices(ON_EIGHT).split() == ["1", "1.0", "8", "0.125"]
