"""Rows of a model that stand for no id of its tokenizer: never drawn, never counted, never changed.

The models have 36, 40 and 48 rows for the same 36 ids; what stands in the further rows is NaN.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import optax
import pytest
from step_cases import make_requests, pack_one, run_score, trees_close

from gopd_jax.learner.example import Example
from gopd_jax.learner.step import score, train_step
from gopd_jax.models.decoder import Decoder
from gopd_jax.models.settings import SamplingRule
from gopd_jax.objective.settings import LossSettings
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.types import TrainState

IDS, LIMIT = 36, 12
RULES = [SamplingRule(), SamplingRule(0.8, 38, 0.9)]  # the k is above the number of ids
TABLES = ("embedding", "head")


def config_of(rows, case="qwen3_tied"):
    return dataclasses.replace(CASES[case], vocab_size=rows)


def params_of(rows, case="qwen3_tied", seed=0, fill=np.nan):
    """The same parameters for each number of rows, `fill` in the rows without an id."""
    params = random_params(config_of(IDS, case), seed)

    def padded(table):
        return jnp.pad(table, ((0, rows - IDS), (0, 0)), constant_values=fill)

    return params | {name: padded(params[name]) for name in TABLES if name in params}


def requests():
    drawn = make_requests((3, 7, 1), LIMIT, sample_ids=(0, 1, 2))
    below = [dataclasses.replace(r.prompt, tokens=r.prompt.tokens % IDS) for r in drawn]
    return [dataclasses.replace(r, prompt=prompt) for r, prompt in zip(drawn, below, strict=True)]


@functools.cache
def drawn(rows, rule):
    mesh = make_mesh(devices=jax.devices()[:1])
    engine = RolloutEngine(
        config_of(rows),
        mesh,
        (3,),
        slots=4,
        max_prompt_tokens=8,
        max_response_tokens=LIMIT,
        num_ids=IDS,
    )
    rollouts = engine(engine.sync_weights(params_of(rows)), requests(), jax.random.key(1), rule)
    return {r.request.key: r for r in rollouts}


@pytest.mark.parametrize(
    "rule", [pytest.param(RULES[0], marks=pytest.mark.slow), *RULES[1:]], ids=str
)
def test_rows_without_an_id_are_never_drawn(rule):
    expected = drawn(IDS, rule)
    for rows in (40, 48) if rule == RULES[0] else (48,):
        for key, rollout in drawn(rows, rule).items():
            np.testing.assert_array_equal(rollout.tokens, expected[key].tokens)
            np.testing.assert_allclose(
                rollout.behaviour_logprobs, expected[key].behaviour_logprobs, atol=1e-5
            )


def batch():
    examples = [
        Example(
            key=r.request.key,
            domain=0,
            prompt=r.request.prompt.tokens,
            response=r.tokens,
            weight=0.1,
            reward_scale=1.25,
            behaviour_logprobs=r.behaviour_logprobs,
        )
        for r in drawn(IDS, RULES[0]).values()
    ]
    return pack_one(examples, 5, 2, 20)[0]


def scored(rows, params, case="qwen3_tied", rule=RULES[0]):
    model = Decoder(config_of(rows, case), remat="none")
    run = functools.partial(score, model=model, rule=rule, num_ids=IDS)
    return run_score(jax.jit(run), params, batch())


@pytest.mark.parametrize("case, rule", [("qwen3_tied", RULES[0]), ("qwen3_untied", RULES[1])])
def test_rows_without_an_id_do_not_count_in_scores(case, rule):
    expected = scored(IDS, params_of(IDS, case), case, rule)
    ours = scored(48, params_of(48, case), case, rule)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    if rule != RULES[0]:
        return
    # Without their number, rows that are not NaN would count.
    counted = functools.partial(score, model=Decoder(config_of(48, case), remat="none"))
    others = run_score(jax.jit(counted), params_of(48, case, fill=0.0), batch())
    assert np.abs(others - expected)[batch().weights > 0].min() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, rule",
    [("qwen3_tied", RULES[0]), ("qwen3_untied", RULES[1])],
)
def test_a_student_of_40_rows_learns_from_a_teacher_of_48(case, rule):
    """Its gradient is that of the 36 rows alone."""
    teacher = scored(48, params_of(48, seed=1))
    given = batch().replace(teacher_logprobs=teacher, reference_logprobs=scored(36, params_of(36)))

    def gradient(rows):
        params, sgd = params_of(rows, case), optax.sgd(1.0)
        step = functools.partial(
            train_step,
            model=Decoder(config_of(rows, case)),
            optimizer=sgd,
            settings=LossSettings(),
            num_domains=1,
            rule=rule,
            num_ids=IDS,
        )
        start = TrainState(jnp.int32(0), params, sgd.init(params))
        after, metrics, _ = jax.jit(step)(start, given)
        assert metrics.applied
        return jax.tree.map(jnp.subtract, params, after.params), float(metrics.grad_norm)

    (ours, norm), (expected, expected_norm) = gradient(40), gradient(36)
    assert norm == pytest.approx(expected_norm, rel=1e-5)  # a NaN row's gradient is finite
    kept = {name: ours[name][:IDS] for name in TABLES if name in ours}
    trees_close(ours | kept, expected, atol=2e-5)


def test_the_gradient_of_rows_without_an_id_is_0():
    def total(params):
        model = Decoder(config_of(40, "qwen3_untied"), remat="none")
        b = jax.tree.map(lambda x: x[0], batch().replace(used=None))
        wanted = b.weights > 0
        args = b.tokens, b.positions, b.segments, b.targets, wanted
        return jnp.sum(score(params, *args, model=model, num_ids=IDS))

    gradient = jax.jit(jax.grad(total))(params_of(40, "qwen3_untied"))
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradient))
    assert not np.any(gradient["head"][IDS:]) and np.any(gradient["head"][:IDS])
    assert not np.any(gradient["embedding"][IDS:])
