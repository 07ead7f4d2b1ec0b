"""Models and moments that wait in the host's memory give the same numbers, to the bit."""

import dataclasses

import jax
from model_cases import CASES, random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_examples, make_learner

from gopd_jax.learner import scoring as scoring_module
from gopd_jax.learner.learner import FrozenModel
from gopd_jax.learner.parking import bring, is_parked, park
from gopd_jax.learner.scoring import Scoring

# Teachers of two families, with other layers and widths than the student.
OTHER = dataclasses.replace(CASES["llama_tied_llama3_rope"], layers=1)
MODELS = {"code": (TINY, 1), "math": (OTHER, 2), "unused": (TINY, 3)}
REFERENCE = (TINY, 4)


@pytest.fixture(scope="module")
def learner():
    return make_learner(make_config(("code", "math", "unused"), scales={"code": 1.0}))


def frozen(role, model, seed, parked):
    params = jax.device_put(random_params(model, seed))
    return FrozenModel(role, model, park(params) if parked else params)


def models(parked):
    teachers = {name: frozen(name, *of, parked) for name, of in MODELS.items()}
    return teachers, frozen("reference", *REFERENCE, parked)


def scores(learner, parked, portions):
    """Log-probs of examples of two of the three domains, given in portions."""
    examples = [
        dataclasses.replace(e, reward_scale=(1.0, 1.25)[e.domain])
        for e in make_examples(24, 2, response=(6, 12))
    ]
    scoring = Scoring(learner, *models(parked))
    for i in range(portions):
        scoring.add(examples[i::portions])
    return scoring.finish()


def test_arrays_come_back_as_they_were():
    params = jax.device_put(random_params(TINY))
    parked = park(params)
    assert is_parked(parked) and not is_parked(params) and bring(params) is params
    back = bring(parked)
    assert not is_parked(back)
    for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.sharding == y.sharding


@pytest.mark.parametrize("portions", [1, 6])
def test_parked_models_come_one_at_a_time_where_they_are_needed(learner, portions, monkeypatch):
    expected = scores(learner, False, portions)
    brought, others = [], []
    tables = {(model.vocab_size, model.width) for model, _ in MODELS.values()}

    def watched(tree):
        there = [x for x in jax.live_arrays() if x.shape in tables and id(x) not in ids]
        others.extend(x for x in there if not is_parked(x))
        brought.append(tree)
        return bring(tree)

    before = jax.live_arrays()
    ids = {id(x) for x in before}
    monkeypatch.setattr(scoring_module, "bring", watched)
    found = scores(learner, True, portions)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key].keys() == values.keys()
        for field, logprobs in values.items():
            np.testing.assert_array_equal(found[key][field], logprobs)
    assert len({len(jax.tree.leaves(tree)) for tree in brought}) == 2  # of both families
    if portions == 1:
        assert len(brought) == 3  # two teachers and the reference, each once
    assert not others  # whenever one comes, no other one is there


def test_parked_moments_change_no_bit():
    def states(parked):
        learner = make_learner(make_config(park_optimizer=parked))
        state, kinds = learner.start(random_params(TINY)), []
        for seed in range(2):
            moments = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
            kinds += [x.sharding.memory_kind for x in moments]
            packed = learner.pack(
                make_examples(8, seed=seed, advantage=1.0), ["behaviour_logprobs"]
            )
            state, metrics, _ = learner.update(state, packed)
            assert bool(metrics.applied)
        return kinds, learner.awake(state)

    kinds, expected = states(False)
    assert set(kinds) == {"device"}
    kinds, found = states(True)
    assert set(kinds) == {"pinned_host"}
    for x, y in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(x, y)
        assert y.sharding.memory_kind == "device"
