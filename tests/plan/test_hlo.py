"""Collectives read from small HLO texts of both compilers."""

import pytest

from gopd_jax.plan.hlo import Traffic, collectives

# Of XLA for CPU and GPU, which writes how often a loop turns.
KNOWN_TRIPS = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %g = f32[32,4]{1,0} all-gather(%x), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%i, %x)
}

ENTRY %main (p0: f32[8,4]) -> f32[8,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %w = (s32[], f32[8,4]{1,0}) while(%t0), condition=%cond, body=%body, TRIPS
  ROOT %r = f32[8,4]{1,0} all-reduce(%y), channel_id=2, replica_groups={{0,1},{2,3}}, to_apply=%add
}
"""
# Of libtpu, which does not: the condition tells it.
CONDITION = """\
HloModule jit_train_step, is_scheduled=true

%cond.1 (p: (s32[], bf16[16])) -> pred[] {
  %constant.7 = s32[]{:T(128)} constant(36)
  %p = (s32[]{:T(128)}, bf16[16]{0:T(1024)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.7), direction=LT, metadata={op_name="lt"}
}

%body.1 (p: (s32[], bf16[16])) -> (s32[], bf16[16]) {
  %cp = (SENT, SENT, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x), channel_id=16, PAIRS
  %cd = bf16[32,160]{1,0:T(8,128)(2,1)} collective-permute-done(%cp)
  ROOT %t = (s32[]{:T(128)}, bf16[16]{0:T(1024)}) tuple(%i, %x)
}

%cond.2 (p: (s32[], s32[])) -> pred[] {
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%body.2 (p: (s32[], s32[])) -> (s32[], s32[]) {
  %a = bf16[4,160]{0,1:T(8,128)(2,1)} all-to-all(%x), channel_id=1, GROUPS, dimensions={0}
}

%empty (p: (f32[])) -> (f32[]) {
  ROOT %t = (f32[]{:T(128)}) tuple(%p)
}

%full (p: (f32[])) -> (f32[]) {
  %w = (s32[]{:T(128)}, bf16[16]{0:T(1024)}) while(%t0), condition=%cond.1, body=%body.1
  %alone = f32[151936]{0:T(1024)} all-reduce(%y), replica_groups={{0},{1},{2},{3}}, to_apply=%add
}

%fused (p: f32[64]) -> f32[16] {
  ROOT %rs = f32[16]{0:T(1024)} reduce-scatter(%p), replica_groups={{0,1,2,3}}, dimensions={0}
}

ENTRY %main (p0: f32[8,4]) -> f32[8,4] {
  %c = (f32[]{:T(128)}) conditional(%i, %u, %v), branch_computations={%empty, %full}
  %f = f32[16]{0:T(1024)} fusion(%p0), kind=kCustom, calls=%fused
  LOOP
}
"""
# What would make a line too long.
SHORT = {
    "TRIPS": 'backend_config={"known_trip_count":{"n":"5"},"known_init_step":{"init":"0"}}',
    "SENT": "bf16[32,160]{1,0:T(8,128)(2,1)}",
    "PAIRS": "source_target_pairs={{0,1},{1,0}}",
    "GROUPS": "replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}",
}
for short, text in SHORT.items():
    KNOWN_TRIPS, CONDITION = KNOWN_TRIPS.replace(short, text), CONDITION.replace(short, text)
UNKNOWN = "%w2 = (s32[], s32[]) while(%t1), condition=%cond.2, body=%body.2"


def test_a_loop_of_known_turns_is_multiplied_out():
    found = collectives(KNOWN_TRIPS, devices=4)
    # 3 of 4 parts of [32, 4] arrive in each of 5 turns; an all-reduce of 2 moves a whole array.
    assert found.by_kind == {
        "all-gather": Traffic(5, 5 * 32 * 4 * 4 * 3 // 4),
        "all-reduce": Traffic(1, 8 * 4 * 4),
    }
    assert not found.at_least
    assert found.bytes == sum(t.bytes for t in found.by_kind.values())


def test_turns_are_read_from_the_condition_and_the_larger_branch_counts():
    found = collectives(CONDITION, devices=4)
    assert found.by_kind == {
        "collective-permute": Traffic(36, 36 * 32 * 160 * 2),
        "reduce-scatter": Traffic(1, 3 * 16 * 4),
    }
    assert not found.at_least


def test_a_loop_of_unknown_turns_counts_once():
    found = collectives(CONDITION.replace("LOOP", UNKNOWN), devices=8)
    assert found.by_kind["all-to-all"] == Traffic(1, 4 * 160 * 2 * 3 // 4)
    assert found.at_least


def test_groups_of_one_device_move_nothing():
    alone = KNOWN_TRIPS.replace("{{0,1},{2,3}}", "{{0},{1},{2},{3}}")
    assert "all-reduce" not in collectives(alone, devices=4).by_kind


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "%g = (bf16[8,4], bf16[32,4]) all-gather-start(%x), replica_groups={{0,1,2,3}}",
            Traffic(1, 32 * 4 * 2 * 3 // 4),
        ),
        ("%g = bf16[32,4] all-gather(%x), replica_groups={}", Traffic(1, 32 * 4 * 2 * 7 // 8)),
    ],
)
def test_what_starts_a_gather_returns_its_operand_too(line, expected):
    text = f"ENTRY %main (p0: bf16[8,4]) -> bf16[32,4] {{\n  {line}\n}}\n"
    assert collectives(text, devices=8).by_kind == {"all-gather": expected}
