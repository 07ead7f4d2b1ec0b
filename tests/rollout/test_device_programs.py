"""The device programs on a cache full of noise, against a full forward pass.

Prompts are prefilled in chunks, then two dispatches draw tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from model_cases import CASES, random_params
import numpy as np
import pytest

from gopd_jax.kernels.decode_attention import xla_cpu
from gopd_jax.models.decoder import Decoder, output_head, unstack
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout import device_programs
from gopd_jax.rollout.cache import new_cache
from gopd_jax.rollout.device_programs import SlotTable
from gopd_jax.rollout.mixture import Member
from gopd_jax.rollout.sampling import prompt_number

# One of them has two layers: which array belongs to which layer is the same for all.
MODELS = {
    "qwen3_tied": CASES["qwen3_tied"],
    "qwen2_tied": dataclasses.replace(CASES["qwen2_tied"], layers=1),
    "llama_tied_llama3_rope": dataclasses.replace(CASES["llama_tied_llama3_rope"], layers=1),
}
SLOTS, SIZES, STEPS = 6, (8, 16, 8), 5  # one shard; the engine's test on eight devices has four
PROMPT_LENGTHS = {0: 3, 1: 13, 3: 8, 4: 16}  # slots 2 and 5 stay idle
IDLE = [2, 5]
STOP_IDS = (7, 11, 23, 31, 50, 64, 71, 88)
LIMITS = np.array([5, 9, 0, 3, 10, 0], np.int32)
KEY = jax.random.key_data(jax.random.key(3))


@functools.cache
def decode(model):
    run = functools.partial(
        device_programs.decode_steps,
        models=(Member(MODELS[model]),),
        rule=SamplingRule(),
        kernel=xla_cpu,
        stop_ids=STOP_IDS,
        shards=1,
        key_impl=str(jax.random.key_impl(jax.random.key(0))),
    )
    return jax.jit(run)


@functools.cache
def prefill(model, prefix_blocks):
    run = functools.partial(
        device_programs.prefill, models=(Member(MODELS[model]),), prefix_blocks=prefix_blocks
    )
    return jax.jit(run)


@functools.cache
def weights(model):
    return unstack(random_params(MODELS[model]), jnp.float32)


@functools.cache
def noise(model):
    """Cache blocks and fresh columns of random numbers.

    Columns that no program has written must have no influence and must stay as they are.
    """
    rng = np.random.default_rng(9)
    make = functools.partial(new_cache, MODELS[model], SLOTS, SIZES, STEPS, jnp.float32, False)
    shapes = jax.eval_shape(make)
    return jax.tree.map(lambda x: rng.normal(0, 3, x.shape).astype(np.float32), shapes)


def prompt(slot):
    return np.random.default_rng((4, slot)).integers(1, 96, PROMPT_LENGTHS[slot], dtype=np.int32)


def chunks(width, *parts):
    """Arguments of `prefill` for parts of (slot, first token, tokens); four rows, some empty."""
    tokens = np.zeros((1, 4, width), np.int32)
    starts, lengths, rows = np.zeros((3, 1, 4), np.int32)
    for i, (slot, start, length) in enumerate(parts):
        tokens[0, i, :length] = prompt(slot)[start : start + length]
        starts[0, i], lengths[0, i], rows[0, i] = start, length, slot
    return tokens, starts, lengths, rows


@functools.cache
def prefilled(model):
    """Blocks after two chunks.

    The short prompts are complete after the first; the prefix of the second ends within a block.
    """
    blocks = noise(model).blocks
    args = chunks(8, (1, 0, 6), (0, 0, 3), (3, 0, 8), (4, 0, 8))
    first = prefill(model, 0)(weights(model), blocks[:1], *args)
    args = chunks(8, (1, 6, 7), (4, 8, 8))
    return prefill(model, 1)(weights(model), (*first, *blocks[1:2]), *args) + blocks[2:]


def first_table():
    lengths, tokens = np.zeros((2, SLOTS), np.int32)
    for slot, length in PROMPT_LENGTHS.items():
        lengths[slot], tokens[slot] = length - 1, prompt(slot)[-1]
    active = np.isin(np.arange(SLOTS), list(PROMPT_LENGTHS))
    prompts = np.array([prompt_number(f"p{slot}") for slot in range(SLOTS)], np.uint32)
    drawn, samples = np.zeros(SLOTS, np.int32), np.arange(SLOTS, dtype=np.uint32)
    return SlotTable(lengths, tokens, drawn, LIMITS, prompts, samples, active)


def next_table(table, outcome):
    counts = np.asarray(outcome.counts)
    last = np.asarray(outcome.tokens)[np.arange(SLOTS), counts - 1]
    return table.replace(
        lengths=table.lengths + counts,
        drawn=table.drawn + counts,
        tokens=last,
        active=np.asarray(outcome.active),
    )


def dispatch(model, blocks, table, exit_at=0):
    args = blocks, noise(model).fresh, table, KEY, np.int32(exit_at)
    blocks, _, outcome = decode(model)(weights(model), *args)
    return blocks, jax.tree.map(np.asarray, outcome)


@functools.cache
def drawn(model):
    """Two dispatches: [(table, blocks before, blocks after, outcome)]."""
    blocks, table, out = prefilled(model), first_table(), []
    for _ in range(2):
        after, outcome = dispatch(model, blocks, table)
        out.append((table, blocks, after, outcome))
        blocks, table = after, next_table(table, outcome)
    return out


@functools.cache
def forward(model):
    @jax.jit
    def run(params, tokens):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        decoder = Decoder(MODELS[model], remat="none")
        hidden = decoder.apply({"params": params}, tokens, positions, jnp.ones_like(tokens))
        return jax.nn.log_softmax(jnp.einsum("rsd,vd->rsv", hidden, output_head(params)))

    return run


def changed(before, after):
    """bool [slot, column]: whether any number differs, in any layer."""

    def in_block(old, new):
        pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        return np.any([np.not_equal(a, b).any(axis=(1, 3)) for a, b in pairs], axis=0)

    blocks = [in_block(old, new) for old, new in zip(before, after, strict=True)]
    return np.concatenate(blocks, axis=1)


every_model = pytest.mark.parametrize("model", MODELS)


# ---- What is drawn.


@pytest.mark.parametrize(
    "model", [m if m == "qwen3_tied" else pytest.param(m, marks=pytest.mark.slow) for m in MODELS]
)
def test_logprobs_are_those_of_a_full_forward_pass(model):
    rows = np.zeros((SLOTS, sum(SIZES)), np.int32)
    index, ours = [], []
    for table, _, _, outcome in drawn(model):
        for slot, length in PROMPT_LENGTHS.items():
            rows[slot, :length] = prompt(slot)
            for i in range(outcome.counts[slot]):
                column = table.lengths[slot] + i + 1
                rows[slot, column] = outcome.tokens[slot, i]
                index.append((slot, column - 1, outcome.tokens[slot, i]))
                ours.append(outcome.logprobs[slot, i])
    logprobs = np.asarray(forward(model)(random_params(MODELS[model]), rows))
    worst = np.abs(logprobs[tuple(np.transpose(index))] - ours).max()
    print(f"largest difference over {len(ours)} tokens {worst:.1e}")
    assert worst < 1e-5
    assert len(ours) >= 15 and drawn(model)[1][3].counts.sum() >= 3  # also of the second dispatch


@every_model
def test_a_slot_ends_at_a_stop_token_or_its_limit(model):
    for table, _, _, outcome in drawn(model):
        assert not outcome.counts[~table.active].any() and not outcome.active[~table.active].any()
        assert outcome.steps == outcome.counts.max()
        for slot in np.flatnonzero(table.active):
            left = table.limits[slot] - table.drawn[slot]
            stops = np.flatnonzero(np.isin(outcome.tokens[slot, : outcome.steps], STOP_IDS)) + 1
            count = min(STEPS, left, *stops[:1])
            stopped = bool(len(stops)) and stops[0] == count
            assert (outcome.counts[slot], outcome.stopped[slot]) == (count, stopped)
            assert outcome.active[slot] == (not stopped and count < left)


def test_there_are_stops_and_limits_to_end_at():
    ends = [outcome for model in MODELS for *_, outcome in drawn(model)]
    assert any(o.stopped.any() for o in ends) and any((o.counts == 3).any() for o in ends)


@pytest.mark.parametrize("exit_at", [0, 1, 2, 3])
def test_a_dispatch_ends_when_few_enough_slots_continue(exit_at):
    """It stops after the first step that leaves at most `exit_at` slots.

    Up to there the draws are the same, and nothing is written beyond.
    """
    model = "qwen3_tied"
    table, before, _, whole = drawn(model)[0]

    def active_after(n):
        return np.sum((whole.counts > n) | (whole.active & (whole.counts == n)))

    steps = next((n for n in range(STEPS + 1) if active_after(n) <= exit_at), STEPS)
    after, outcome = dispatch(model, before, table, exit_at)
    assert outcome.steps == steps
    np.testing.assert_array_equal(outcome.counts, np.minimum(whole.counts, steps))
    for slot in np.flatnonzero(table.active):
        n = outcome.counts[slot]
        np.testing.assert_array_equal(outcome.tokens[slot, :n], whole.tokens[slot, :n])
        np.testing.assert_array_equal(outcome.logprobs[slot, :n], whole.logprobs[slot, :n])
        assert outcome.active[slot] == (whole.counts[slot] > n or whole.active[slot])
    assert outcome.active.sum() <= exit_at or steps == STEPS
    beyond = np.arange(sum(SIZES)) >= table.lengths[:, None] + steps
    assert not (changed(before, after) & beyond).any()
    assert 0 < steps and (steps < STEPS or exit_at < 2)


def test_no_step_is_run_if_few_enough_slots_are_active():
    table, before, _, _ = drawn("qwen3_tied")[0]
    after, outcome = dispatch("qwen3_tied", before, table, exit_at=4)
    assert (outcome.steps, outcome.counts.sum(), outcome.active.sum()) == (0, 0, 4)
    assert not changed(before, after).any()


# ---- What is written.


@every_model
def test_prefill_writes_the_tokens_of_the_chunks_and_nothing_else(model):
    written = changed(noise(model).blocks, prefilled(model))
    lengths = np.array([PROMPT_LENGTHS.get(slot, 0) for slot in range(SLOTS)])
    np.testing.assert_array_equal(written, np.arange(sum(SIZES)) < lengths[:, None])


@every_model
def test_decode_writes_the_columns_it_drew_from_and_nothing_else(model):
    """Idle slots, and what active ones held before, stay bit for bit."""
    column = np.arange(sum(SIZES))
    for table, before, after, outcome in drawn(model):
        written, first = changed(before, after), table.lengths[:, None]
        fed = table.active[:, None] & (column >= first) & (column < first + outcome.steps)
        assert not (written & ~fed).any() and not written[IDLE].any()
        # The first step feeds the prompt's last token, for which prefill wrote the same numbers.
        again = (column == first) & (table.drawn == 0)[:, None]
        assert written[fed & ~again].all() and (fed & ~again).any()


def test_chunks_leave_what_the_whole_prompt_does():
    model = "qwen3_tied"
    args = chunks(16, (1, 0, 13), (4, 0, 16))
    whole = prefill(model, 0)(weights(model), noise(model).blocks[:2], *args)
    for old, new in zip(jax.tree.leaves(prefilled(model)[:2]), jax.tree.leaves(whole), strict=True):
        for slot in (1, 4):
            np.testing.assert_allclose(old[slot], new[slot], atol=1e-5)


def test_a_sample_drawn_from_a_copy_is_the_same():
    model = "qwen3_tied"
    before = prefilled(model)
    sources, targets = np.array([[1, 4, 5, 0]], np.int32), np.array([[2, 5, 3, -1]], np.int32)
    copied = jax.jit(device_programs.copy_prompts)(before, sources, targets)
    written = changed(before, copied).any(axis=1)
    np.testing.assert_array_equal(written, [False, False, True, True, False, True])
    homes = [0, 1, 1, 4, 4, 4]  # slot 0 is not copied; 1 goes to 2; 4 to 5, and from there to 3
    _, outcome = dispatch(model, copied, jax.tree.map(lambda x: x[homes], first_table()))
    for name in ("tokens", "counts", "active", "stopped"):
        np.testing.assert_array_equal(getattr(outcome, name), getattr(outcome, name)[homes])
    np.testing.assert_allclose(outcome.logprobs, outcome.logprobs[homes], atol=1e-6)
    np.testing.assert_array_equal(outcome.tokens[[0, 1, 4]], drawn(model)[0][3].tokens[[0, 1, 4]])


def test_shrinking_takes_rows():
    layers, rows = noise("qwen3_tied").blocks[1], np.array([[2, 0, 4, 4]], np.int32)
    small = jax.jit(device_programs.shrink)(layers, rows)
    for new, old in zip(jax.tree.leaves(small), jax.tree.leaves(layers), strict=True):
        np.testing.assert_array_equal(new, old[[2, 0, 4, 4]])
