"""Updates with exact estimators: two teachers of different widths, a reference, packed rows."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_config, make_examples, of_tokens, trees_close

from gopd_jax.learner.exact import check_candidates
from gopd_jax.learner.learner import FrozenModel, Learner
from gopd_jax.learner.scoring import with_scores
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.objective.settings import EstimatorSettings
from gopd_jax.objective.shaping_settings import SHAPING
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.train import models

WIDE = dataclasses.replace(TINY, width=2 * TINY.width, vocab_size=TINY.vocab_size + 3)
SCALES = {"code": 1.25, "math": 0.5}
POLICY = ["behaviour_logprobs"]


def frozen():
    """The teacher of each domain, and the reference."""
    code = FrozenModel("teacher of code", WIDE, random_params(WIDE, 1))
    math = FrozenModel("teacher of math", TINY, random_params(TINY, 2))
    return {"code": code, "math": math}, FrozenModel("reference", TINY, random_params(TINY, 3))


def make_learner(estimator, scales=SCALES, with_reference=True, **options) -> Learner:
    objective = EstimatorSettings(estimator=estimator, top_k=TINY.vocab_size)
    config = make_config(tuple(scales), scales=scales, objective=objective)
    mesh = make_mesh(devices=jax.devices()[:1])
    learner = models.make_learner(config, TINY, ProgramTable(mesh), jnp.float32, TINY.vocab_size)
    teachers, reference = frozen()
    of_domains = {name: teachers[name].params for name in scales}
    learner.read_heads(of_domains, reference.params if with_reference else None)
    return learner


def update(learner, examples, with_reference=True):
    teachers, reference = frozen()
    scored = with_scores(learner, examples, teachers, reference if with_reference else None)
    packed = learner.pack(scored, POLICY)
    start = learner.start(random_params(TINY))
    moved, metrics, tokens = learner.update(start, packed)
    return moved, metrics, [of_tokens([t.advantages for t in tokens], packed, e) for e in scored]


def examples_of(scales=SCALES):
    return [
        dataclasses.replace(e, reward_scale=list(scales.values())[e.domain])
        for e in make_examples(8, len(scales))
    ]


LONGEST = 24


@functools.partial(jax.jit, static_argnums=0)
def _log_distributions(config, params, tokens):
    """Of each position of the sequence, which is padded at its end."""
    rows = tokens[None], jnp.arange(LONGEST)[None], jnp.ones((1, LONGEST), jnp.int32)
    hidden = Decoder(config).apply({"params": params}, *rows)
    return jax.nn.log_softmax(hidden[0] @ output_head(params)[: TINY.vocab_size].T)


def naive(examples, params):
    """Sum of weight * full loss, and the advantages minus their mean over the vocabulary."""
    teachers, reference = frozen()
    total, advantages = 0.0, []
    for e in examples:
        tokens = np.concatenate([e.prompt, e.response])
        at = slice(len(e.prompt) - 1, len(tokens) - 1)
        padded = jnp.asarray(np.pad(tokens, (0, LONGEST - len(tokens))))
        teacher = teachers[list(SCALES)[e.domain]]
        p = _log_distributions(TINY, params, padded)[at]
        target = e.reward_scale * _log_distributions(teacher.config, teacher.params, padded)[at]
        target += (1 - e.reward_scale) * _log_distributions(TINY, reference.params, padded)[at]
        states = jnp.sum(jnp.exp(p) * (p - target), axis=-1)
        total += e.weight * jnp.sum(states)
        advantages.append(states + (target - p)[np.arange(len(e.response)), e.response])
    return total, advantages


def test_full_is_the_sum_over_the_vocabulary_of_each_domains_own_teacher():
    """Of rows that share examples; and nothing recompiles for others."""
    examples, learner = examples_of(), make_learner("full")
    total, _ = naive(examples, random_params(TINY))
    _, metrics, _ = update(learner, examples)
    assert float(metrics.loss) == pytest.approx(float(total), rel=1e-5)
    shown = metrics.diagnostics.finish(list(SCALES))
    assert shown["log_z/code"] > 0 > shown["log_z/math"]
    before = compilations()
    update(learner, make_examples(5, 2, seed=1))
    assert compilations() == before
    learner.heads = None
    with pytest.raises(ValueError, match="without heads: expected `read_heads` to be called first"):
        learner.updating(learner.abstract_state(), ())


@pytest.mark.slow
def test_the_gradient_of_full_is_that_of_the_sum():
    examples = examples_of()
    gradient = jax.grad(lambda params: naive(examples, params)[0])(random_params(TINY))
    norm = jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(gradient)))
    _, metrics, _ = update(make_learner("full"), examples)
    assert float(metrics.grad_norm) == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.slow
def test_sampled_baseline_subtracts_the_mean_advantage_of_the_state():
    examples = [dataclasses.replace(e, behaviour_logprobs=None) for e in examples_of()]
    expected = naive(examples, random_params(TINY))[1]
    teachers, reference = frozen()
    learner = make_learner("sampled_baseline")
    packed = learner.pack(with_scores(learner, examples, teachers, reference), [])
    _, _, tokens = learner.update(learner.start(random_params(TINY)), packed)
    for e, right in zip(examples, expected, strict=True):
        found = of_tokens([t.advantages for t in tokens], packed, e)
        np.testing.assert_allclose(found, right, atol=2e-5)


@pytest.mark.slow
def test_top_k_of_the_whole_vocabulary_moves_as_full_does():
    examples = examples_of()
    full, top_k = (update(make_learner(name), examples)[0] for name in ("full", "top_k"))
    trees_close(full.params, top_k.params, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["full", "jsd"])
def test_at_lambda_1_the_reference_changes_nothing_and_can_be_left_out(estimator):
    scales = {"code": 1.0, "math": 1.0}
    examples = examples_of(scales)
    found = [
        update(make_learner(estimator, scales, with_reference), examples, with_reference)
        for with_reference in (True, False)
    ]
    trees_close(found[0][0].params, found[1][0].params, atol=1e-6)
    assert float(found[0][1].loss) == pytest.approx(float(found[1][1].loss), rel=1e-5)


def test_more_candidates_than_ids_are_refused():
    too_many = EstimatorSettings(estimator="top_k", top_k=TINY.vocab_size + 1)
    words = f"top_k={TINY.vocab_size + 1}: expected at most {TINY.vocab_size}, the number of ids"
    with pytest.raises(ValueError, match=words):
        check_candidates(too_many, SHAPING, TINY.vocab_size)
    check_candidates(EstimatorSettings(estimator="full", top_k=10**6), SHAPING, TINY.vocab_size)
