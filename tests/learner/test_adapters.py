"""A student with an adapter: what is trained, what rollouts come from, and on 8 devices."""

import dataclasses
import re

import jax
from lora_cases import random_adapter
from model_cases import random_params
import numpy as np
import pytest
from step_cases import (
    TINY,
    make_config,
    make_examples,
    make_learner,
    make_requests,
    trees_equal,
)

from gopd_jax.learner.distance import distances
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.learner.sources import in_order, to_examples
from gopd_jax.models.lora import adapter_elements, merged
from gopd_jax.models.settings import LoraSettings
from gopd_jax.rollout.engine import RolloutEngine

LORA = LoraSettings(rank=3, alpha=6.0)
OF_GRPO = ("behaviour_logprobs",)


@pytest.fixture(scope="module")
def learner():
    return make_learner(make_config(lora=LORA))


@pytest.fixture(scope="module")
def full():
    """The learner of the same run that trains all parameters."""
    return make_learner(make_config())


def examples_of(seed=0):
    """Examples with an advantage from outside."""
    advantages = np.random.default_rng(seed).normal(size=8)
    return [
        dataclasses.replace(e, advantage=float(a))
        for e, a in zip(make_examples(8, seed=seed), advantages, strict=True)
    ]


def started(learner, seed=1):
    return learner.start(random_params(TINY), jax.random.key(seed))


def test_only_the_adapter_is_trained_and_the_base_stays(learner):
    state = started(learner)
    trained = 4 * adapter_elements(TINY, LORA)
    held = sum(x.nbytes for x in jax.tree.leaves(state))
    assert sum(x.nbytes for x in jax.tree.leaves(state.params)) == trained
    assert 3 * trained <= held <= 3 * trained + 64  # A, B and two moments of each
    for seed in range(3):
        packed = learner.pack(examples_of(seed), OF_GRPO)
        state, metrics, _ = learner.update(state, packed)
        assert metrics.applied and metrics.grad_norm > 0
    trees_equal(learner.base, random_params(TINY))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(), state.params, started(learner).params)
    assert min(jax.tree.leaves(moved)) > 0


def test_a_step_is_that_of_the_merged_model_where_nothing_is_learned(learner, full):
    """Loss, log-probs and distances of base and adapter are those of the merged parameters."""
    state = started(learner)
    state = dataclasses.replace(state, params=random_adapter(TINY, LORA))
    whole = merged(learner.student_params(state))
    examples = examples_of()
    teacher = FrozenModel("teacher", TINY, random_params(TINY, 4))
    olds = [
        with_scores(of, examples, {"math": teacher}, old=params)
        for of, params in ((learner, learner.student_params(state)), (full, whole))
    ]
    for ours, theirs in zip(*olds, strict=True):
        np.testing.assert_allclose(ours.old_logprobs, theirs.old_logprobs, atol=2e-5)
        np.testing.assert_array_equal(ours.teacher_logprobs, theirs.teacher_logprobs)
    _, metrics, tokens = learner.update(state, learner.pack(examples, OF_GRPO))
    _, of_whole, expected = full.update(full.start(whole), full.pack(examples, OF_GRPO))
    assert float(metrics.loss) == pytest.approx(float(of_whole.loss), rel=1e-5)
    np.testing.assert_allclose(tokens[0].logprobs, expected[0].logprobs, atol=2e-5)


def test_no_gradient_of_a_frozen_matrix_is_computed(learner, full):
    """The program of all parameters has products of their shapes, that of the adapter has none."""
    frozen = [f"{TINY.vocab_size},{TINY.width}", f"{TINY.mlp_width},{TINY.width}"]
    frozen += [f"{TINY.width},{TINY.mlp_width}", f"{TINY.width},{TINY.heads * TINY.head_size}"]
    products = re.compile(rf"= f32\[({'|'.join(frozen)})\]\S* (dot|custom-call)\(")

    def found(of, state):
        given, options = of.updating(state, of.pack(examples_of(), OF_GRPO).batches)
        return set(products.findall(of.programs.compiled(*given, **options).as_text()))

    assert found(full, full.start(random_params(TINY)))
    assert not found(learner, started(learner))


def test_rollouts_come_from_the_adapter(learner):
    """After some updates the sampler's log-probs are the learner's, and not those of the base."""
    state = started(learner)
    for seed in range(4):
        state, *_ = learner.update(state, learner.pack(examples_of(seed), OF_GRPO))
    engine = RolloutEngine(
        TINY,
        learner.mesh,
        (3,),
        slots=4,
        max_prompt_tokens=8,
        max_response_tokens=10,
        programs=learner.programs,
    )
    params = learner.student_params(state)
    weights = engine.sync_weights(params)
    rollouts = in_order(engine(weights, make_requests([5] * 8), jax.random.key(0)))
    (examples,) = to_examples(rollouts, reward_scales=learner.reward_scales)
    gaps = [
        max(
            np.abs(e.old_logprobs - r.behaviour_logprobs).max()
            for e, r in zip(with_scores(learner, examples, {}, old=read), rollouts, strict=True)
        )
        for read in (params, learner.base)
    ]
    assert gaps[0] < 2e-5 and gaps[1] > 0.05, gaps
    found = [distances(learner, read, None, rollouts) for read in (params, merged(params))]
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours["entropy"], theirs["entropy"], atol=2e-5)


def test_a_new_adapter_needs_a_key(learner):
    with pytest.raises(ValueError, match="expected a random key"):
        learner.start(random_params(TINY))


def test_abstract_state_is_that_of_a_real_one(learner):
    def same(real, abstract):
        assert (real.shape, real.dtype) == (abstract.shape, abstract.dtype)
        assert real.sharding == abstract.sharding

    jax.tree.map(same, started(learner), learner.abstract_state())
    jax.tree.map(same, random_params_on(learner), learner.abstract_base())


def random_params_on(learner):
    return jax.device_put(random_params(TINY), learner.param_shardings)


ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_config, make_learner, make_samples, of_tokens, trees_close
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.scoring import with_scores
from gopd_jax.models.settings import LoraSettings
from gopd_jax.rollout.weights import decode_weight_shardings
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh

config = make_config(
    rows_per_micro_batch=4, row_length=40, samples_per_prompt=6, lora=LoraSettings(rank=3, alpha=6.)
)
examples = make_samples(4, 6, (4, 9), (1, 12))
results = []
for sizes in ({"devices": jax.devices()[:1]}, {"data": 2, "fsdp": 2, "tensor": 2}):
    learner = make_learner(config, make_mesh(**sizes))
    place = lambda p: jax.device_put(p, learner.param_shardings)
    teacher = FrozenModel("teacher", TINY, place(random_params(TINY, 1)))
    state = learner.start(place(random_params(TINY)), jax.random.key(1))
    reference = FrozenModel("reference", TINY, learner.base)
    found = []
    for _ in range(2):
        scored = with_scores(learner, examples, {"math": teacher}, reference)
        state, metrics, tokens = learner.update(state, learner.pack(scored))
        found += [metrics.loss, metrics.grad_norm]
    engine = RolloutEngine(TINY, learner.mesh, (3,), slots=8, max_prompt_tokens=8,
                           max_response_tokens=8, programs=learner.programs)
    weights = engine.sync_weights(learner.student_params(state))
    results.append(jax.device_get((state.params, state.opt_state, found, weights)))
    query = state.params["layers"]["attention"]["query"]
    print(*(x.addressable_shards[0].data.size / x.size for x in (query["a"], query["b"])))
one, eight = results
trees_close(eight[0], one[0], atol=2e-5)
trees_close(eight[1], one[1], atol=2e-5, rtol=1e-4)
np.testing.assert_allclose(eight[2], one[2], rtol=1e-5)
trees_close(eight[3], one[3], atol=2e-5)
"""


@pytest.mark.slow
def test_eight_devices_learn_what_one_does(run_on_fake_devices):
    """Two steps on data 2 x fsdp 2 x tensor 2; A lies in halves of the width, B of the heads."""
    assert run_on_fake_devices(ON_EIGHT).split() == ["1.0", "1.0", "0.5", "0.5"]
