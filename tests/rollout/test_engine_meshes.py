"""Every axis of the mesh and both layouts of the weights draw what one device draws."""

import json

import pytest

PROGRAM = """
import dataclasses, functools, json, re, sys
import jax, numpy as np
from model_cases import random_params
from step_cases import TINY, make_requests
from gopd_jax.kernels.decode_attention_tpu import pallas_tpu
from gopd_jax.models.decoder import param_shardings
from gopd_jax.rollout import engine as engine_module
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.runtime.mesh import make_mesh

INTERPRETED = functools.partial(pallas_tpu, interpret=True)
choose = engine_module.choose_decode_attention
requests = make_requests((3, 20, 7, 16, 18, 1, 12), 10, sample_ids=(0, 1, 2))
# 4 key/value heads of 8 query heads: fewer than the widest tensor axis.
WIDE = dataclasses.replace(TINY, heads=8, kv_heads=4)


def chosen(kernel, *args, **kwargs):
    choice = choose("xla", *args[1:], **kwargs)
    return choice if kernel == "xla" else dataclasses.replace(choice, kernel=INTERPRETED)


def draw(model, sizes, layout="whole", kernel="xla", **options):
    engine_module.choose_decode_attention = functools.partial(chosen, kernel)
    mesh = make_mesh(**sizes)
    engine = RolloutEngine(
        model, mesh, (3, 40, 41, 42, 95), slots=8, max_prompt_tokens=20, max_response_tokens=10,
        options=EngineOptions(layout=layout, prefill_tokens=16, **options),
    )
    params = jax.device_put(random_params(model), param_shardings(model, mesh))
    weights = engine.sync_weights(params)
    drawn = {r.request.key: r for r in engine(weights, requests, jax.random.key(1))}
    held = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(weights))
    return engine, drawn, held


def same(one, many):
    assert one.keys() == many.keys()
    for key, r in one.items():
        np.testing.assert_array_equal(many[key].tokens, r.tokens)
        np.testing.assert_allclose(many[key].behaviour_logprobs, r.behaviour_logprobs, atol=1e-5)
        assert many[key].finish_reason == r.finish_reason


def collectives(engine):
    "What each computation of the decode program asks of other devices, and its loops."
    key = next(k for k in engine.programs._compiled if "decode_steps" in str(k))
    found, loops, name = {}, {}, None
    for line in engine.programs._compiled[key].as_text().splitlines():
        if start := re.match(r"(ENTRY )?%?(\\S+) \\(.*\\{$", line):
            name = "main" if start[1] else start[2]
        if what := re.search(r"= (.+) (all-\\w+|reduce-scatter|collective-permute)\\(", line):
            found.setdefault(name, []).append((what[2], what[1]))
        if loop := re.search(r" while\\(.*condition=%?([^,]+), body=%?([^,\\s]+)", line):
            loops.setdefault(name, []).append(loop.groups())
    return found, loops
"""

EVERY = """
one = {}
models = {"tiny": TINY, "wide": WIDE}
for model, sizes, kernel, options in json.loads(sys.argv[1]):
    key = model, kernel, str(options)
    if key not in one:
        one[key] = draw(models[model], {"devices": jax.devices()[:1]}, kernel=kernel, **options)[1]
    for layout in ("whole", "gathered"):
        engine, drawn, held = draw(models[model], sizes, layout, kernel, **options)
        print(model, sizes, kernel, options, engine.layout, held)
        same(one[key], drawn)
"""

AXES = [{"fsdp": 8}, {"data": 8, "fsdp": 1}, {"expert": 8, "fsdp": 1}, {"context": 8, "fsdp": 1}]
COMBINED = [
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"fsdp": 2, "expert": 2, "context": 2},
    {"data": 2, "context": 2, "fsdp": 1, "tensor": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["xla", "pallas_tpu"])
def test_every_axis_and_layout_draws_what_one_device_draws(run_on_fake_devices, kernel):
    cases = [("tiny", sizes, kernel, {}) for sizes in AXES + COMBINED]
    cases.append(("wide", {"tensor": 8, "fsdp": 1}, kernel, {}))
    cases.append(("wide", COMBINED[0], kernel, {"kv_cache": "int8"}))
    run_on_fake_devices(PROGRAM + EVERY, json.dumps(cases))


ONE_MESH = """
one = draw(WIDE, {"devices": jax.devices()[:1]})[1]
engine, drawn, whole = draw(WIDE, {"data": 2, "fsdp": 4})
same(one, drawn)
found, loops = collectives(engine)
del found["main"]
((asks, what),) = found.items()  # how many slots continue; there is nothing else in any loop
assert what == [("all-reduce", "s32[]")], found
(body,) = [body for condition, body in loops["main"] if condition == asks]
assert loops[body], loops  # the loop over tokens is within the one that asks
engine, drawn, held = draw(WIDE, {"data": 2, "fsdp": 4}, "gathered")
same(one, drawn)
assert held < whole / 2 and str(engine.layout) == "gathered: requested", (held, whole)
found, _ = collectives(engine)
del found["main"]
gathers = [x for of_loop in found.values() for x in of_loop if x[0] == "all-gather"]
# In the loop over tokens, each layer is gathered: its 7 matrices and nothing of the head.
assert len(gathers) >= 7 * WIDE.layers, gathers
"""


@pytest.mark.slow
def test_tokens_are_drawn_without_waiting_for_other_devices(run_on_fake_devices):
    """And layers that are split are gathered in the loop, not before it."""
    run_on_fake_devices(PROGRAM + ONE_MESH)
