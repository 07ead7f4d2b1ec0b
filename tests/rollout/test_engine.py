"""The engine: what a sample depends on, where it ends, and what is kept from call to call."""

from engine_cases import (
    KEY,
    LENGTHS,
    MAX_RESPONSE,
    PLAIN,
    REQUESTS,
    STOP_IDS,
    expected,
    make_engine,
    new_engine,
    same,
    sample,
    weights,
)
import jax
from model_cases import random_params
import numpy as np
import pytest
from step_cases import TINY, make_requests

from gopd_jax.models.settings import SamplingRule
from gopd_jax.runtime.mesh import make_mesh
from gopd_jax.runtime.metrics import compilations
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import EncodedPrompt, Request

# ---- A sample depends on nothing else.


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"slots": 7}, marks=pytest.mark.slow),
        {"slots": 2},  # fewer than the samples of a prompt
        {"max_prompt": 150},  # three blocks of columns instead of one
        pytest.param({"steps_per_dispatch": 3}, marks=pytest.mark.slow),
        {"prefill_tokens": 6},  # prompts in several chunks
    ],
    ids=str,
)
def test_slots_blocks_and_dispatches_change_nothing(settings):
    same(sample(make_engine(**settings), REQUESTS), expected())


def test_order_and_other_requests_change_nothing():
    same(sample(make_engine(), REQUESTS[::-1]), expected())
    for request in REQUESTS[::5]:
        same(sample(make_engine(), [request]), expected())


def test_step_sample_prompt_and_weights_change_the_draw():
    def tokens(rollouts):
        return [tuple(rollouts[key].tokens) for key in sorted(rollouts)]

    ours = tokens(expected())
    assert len(set(ours)) == len(REQUESTS)  # the three samples of each prompt differ too
    for other in (
        sample(make_engine(), REQUESTS, jax.random.key(2)),
        sample(make_engine(), REQUESTS, seed=5),
    ):
        differ = sum(a != b for a, b in zip(tokens(other), ours, strict=True))
        assert differ >= len(REQUESTS) - 1
    first, second = make_requests((12, 12), seed=3)
    twin = EncodedPrompt(second.prompt.source, first.prompt.tokens)  # equal tokens, another id
    requests = [Request(p, s, 10) for p in (first.prompt, twin) for s in range(3)]
    assert len(set(tokens(sample(make_engine(), requests)))) == 6


ON_EIGHT = """
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_requests
from gopd_jax.models.decoder import param_shardings
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import make_mesh

requests = make_requests((3, 20, 7, 16, 18, 1, 12), 10, sample_ids=(0, 1, 2))
results = []
for sizes in (
    {"devices": jax.devices()[:1]},
    {"fsdp": 2, "context": 2, "tensor": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
):
    mesh = make_mesh(**sizes)
    engine = RolloutEngine(
        TINY, mesh, (3, 40, 41, 42, 95), slots=4, max_prompt_tokens=20, max_response_tokens=10
    )
    params = jax.device_put(random_params(TINY), param_shardings(TINY, mesh))
    weights = engine.sync_weights(params)
    rollouts = engine(weights, requests, jax.random.key(1))
    results.append({r.request.key: r for r in rollouts})
    query = weights["layers"][0]["attention"]["query"]
    print(len(query.sharding.device_set), query.addressable_shards[0].data.size / query.size)
one, *others = results
for eight in others:
    for key, r in one.items():
        np.testing.assert_array_equal(eight[key].tokens, r.tokens)
        np.testing.assert_allclose(eight[key].behaviour_logprobs, r.behaviour_logprobs, atol=1e-5)
        assert eight[key].finish_reason == r.finish_reason
np.savez(__import__("sys").argv[1], **{f"{p} {s}": r.tokens for (p, s), r in eight.items()})
"""


@pytest.mark.slow
def test_eight_devices_draw_what_one_does(run_on_fake_devices, tmp_path):
    """data or context 2 x fsdp 2 x tensor 2: weights are whole on each fsdp rank, in halves over
    tensor.

    Another process draws the same samples, too.
    """
    output = run_on_fake_devices(ON_EIGHT, tmp_path / "tokens.npz").split("\n")
    assert [line for line in output if line] == ["1 1.0", "8 0.5", "8 0.5"]
    with np.load(tmp_path / "tokens.npz") as tokens:
        for (prompt, number), rollout in expected().items():
            np.testing.assert_array_equal(tokens[f"{prompt} {number}"], rollout.tokens)


# ---- Where a response ends.


def test_a_stop_token_ends_the_response_and_belongs_to_it():
    seen = set()
    for rollout in expected().values():
        assert len(rollout.tokens) == len(rollout.behaviour_logprobs) >= 1
        assert rollout.tokens.dtype == np.int32
        assert not set(rollout.tokens[:-1]) & set(STOP_IDS)
        stopped = rollout.tokens[-1] in STOP_IDS
        ending = ("stop", False) if stopped else ("length", True)
        assert (rollout.finish_reason, rollout.truncated) == ending
        assert stopped or len(rollout.tokens) == MAX_RESPONSE
        seen |= {int(rollout.tokens[-1])} & set(STOP_IDS)
    assert len(seen) > 1 and any(r.truncated for r in expected().values())


def test_each_request_has_its_own_limit():
    limited = [Request(r.prompt, r.sample_id, 1 + i % MAX_RESPONSE) for i, r in enumerate(REQUESTS)]
    for key, rollout in sample(make_engine(), limited).items():
        limit, whole = rollout.request.max_tokens, expected()[key]
        np.testing.assert_array_equal(rollout.tokens, whole.tokens[:limit])
        assert rollout.truncated == (len(whole.tokens) > limit or whole.truncated)


def test_a_stop_token_at_the_limit_is_a_stop():
    stopped = ((k, r) for k, r in expected().items() if not r.truncated and len(r.tokens) > 1)
    key, whole = next(stopped)
    request = Request(whole.request.prompt, whole.request.sample_id, len(whole.tokens))
    same(sample(make_engine(), [request]), {key: whole})


# ---- One call at a time, a rollout at a time.


def test_an_engine_draws_for_one_iterator_at_a_time():
    engine = make_engine()
    first, second = engine(weights(), REQUESTS, KEY), engine(weights(), REQUESTS, KEY)
    drawn = next(first)
    for other in (second, engine(weights(), REQUESTS[:1], KEY)):
        with pytest.raises(
            RuntimeError,
            match="this engine is drawing already: finish or close the other iterator first",
        ):
            next(other)
    keys = {r.request.key for r in (drawn, next(first))}
    assert keys <= expected().keys()  # the first iterator continues
    first.close()
    same(sample(engine, REQUESTS), expected())


def test_rollouts_come_out_before_the_last_one_is_drawn():
    engine = make_engine()
    rollouts = engine(weights(), REQUESTS, KEY)
    next(rollouts)
    steps, dispatches = engine.stats.steps, engine.stats.dispatches
    assert dispatches == 1
    assert engine.stats.timed_steps == engine.stats.timed_seconds == 0  # it followed a prefill
    assert len(list(rollouts)) == len(REQUESTS) - 1
    assert engine.stats.steps > 3 * steps and engine.stats.dispatches > 3
    assert engine.stats.timed_steps <= engine.stats.steps - steps
    assert (engine.stats.timed_steps > 0) == (engine.stats.timed_seconds > 0)


def test_the_mesh_in_use_between_rollouts_is_the_callers():
    rollouts = make_engine()(weights(), REQUESTS, KEY)
    next(rollouts)
    between = jax.sharding.get_abstract_mesh()
    rollouts.close()
    assert between.empty


def test_after_an_error_the_engine_draws_again():
    engine = make_engine()
    with pytest.raises(KeyError, match="embedding"):
        next(engine({}, REQUESTS, KEY))
    assert engine.cache_bytes == 0  # what a program has taken may be lost
    same(sample(engine, REQUESTS), expected())


# ---- Prompts are prefilled once; caches and programs are kept.

EIGHT = make_requests(LENGTHS, MAX_RESPONSE, sample_ids=range(8))


def test_a_prompt_is_prefilled_once_for_eight_samples():
    engine = make_engine(slots=8)
    drawn = sample(engine, EIGHT)
    same({key: r for key, r in drawn.items() if key in expected()}, expected())
    stats = engine.stats
    assert stats.prefill_tokens == stats.prompt_tokens == sum(LENGTHS)
    assert 0 < stats.copies <= len(EIGHT) - len(LENGTHS)
    assert stats.samples == len(EIGHT)
    assert stats.tokens == sum(len(r.tokens) for r in drawn.values())
    assert stats.slot_steps == 8 * stats.steps
    assert stats.utilisation == stats.tokens / stats.slot_steps > 0.5


def test_a_cache_lives_while_samples_are_drawn_and_gives_way_to_a_narrower_one():
    engine = make_engine(slots=16)
    column = 2 * TINY.layers * TINY.kv_heads * TINY.head_size * 4  # keys and values in float32
    sizes = [n * column * (32 + 16) for n in (16, 4)]  # 20 + 10 columns in a block, 16 fresh ones
    assert [engine.caches.bytes_of(n) for n in (16, 4)] == sizes
    drawn, compiled = [], []
    for _ in range(2):
        drawn.append({})
        held = []
        for rollout in engine(weights(), EIGHT, KEY):
            drawn[-1][rollout.request.key] = rollout
            held.append(engine.cache_bytes)
        assert held[0] == sizes[0] and held[-1] == sizes[1] and set(held) == set(sizes)
        assert engine.cache_bytes == 0
        compiled.append(len(engine.programs.programs))
    same(*drawn)
    assert compiled[0] == compiled[1]


def test_the_described_cache_is_the_one_that_is_allocated():
    engine = make_engine()
    sample(engine, REQUESTS)
    shapes, cache = engine.caches.abstract(4), engine.caches[4]
    for shape, array in zip(jax.tree.leaves(shapes), jax.tree.leaves(cache), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)
        assert shape.sharding == array.sharding


def test_later_steps_compile_nothing():
    counts = []
    for step in range(3):
        synced = make_engine().sync_weights(random_params(TINY, step))
        chosen = REQUESTS[step : 12 + 3 * step]
        assert len(list(make_engine()(synced, chosen, jax.random.key(step)))) == len(chosen)
        counts.append(compilations())
    assert counts[1:] == [counts[1]] * 2


def test_engines_with_equal_settings_share_the_programs_of_a_table():
    table = ProgramTable(make_mesh(devices=jax.devices()[:1]))
    one, two = new_engine(programs=table), new_engine(programs=table)
    same(sample(one, REQUESTS), expected())
    kinds, count = {p.name for p in table.programs}, len(table.programs)
    assert kinds == {"cache", "prefill", "copy", "decode"}
    same(sample(two, REQUESTS), expected())
    assert len(table.programs) == count


@pytest.mark.parametrize(
    "change, rule",
    [
        ({}, SamplingRule(temperature=0.0)),
        ({"stop_ids": (3,)}, PLAIN),
        ({"steps_per_dispatch": 3}, PLAIN),
    ],
)
def test_engines_with_other_settings_do_not_share_the_decode_program(change, rule):
    table = ProgramTable(make_mesh(devices=jax.devices()[:1]))

    def decode_programs():
        return [p for p in table.programs if p.name == "decode"]

    sample(new_engine(programs=table), REQUESTS[:1])
    assert len(decode_programs()) == 1
    sample(new_engine(programs=table, **change), REQUESTS[:1], rule=rule)
    assert len(decode_programs()) == 2
