"""A plan names the programs of a real run, with the memory that the compiler gave that run."""

import dataclasses
import json

from plan_cases import planner_of, small
import pytest

from gopd_jax.plan.__main__ import main
from gopd_jax.plan.remedies import changed, find_remedy
from gopd_jax.plan.text import report, sweep, verdict
from gopd_jax.runtime.memory import in_words
from gopd_jax.train import run as train_run


@pytest.fixture(scope="module")
def plan():
    """The plan of the small run on one CPU device."""
    planner = planner_of(small())
    return planner.plan(planner.rehearsed(small()))


def what(key):
    """The key of a program; an optimizer, which equals no other, is left out of it."""
    function, *others = key
    if isinstance(function, tuple):  # of a partial: function, arguments, bound arguments
        bound = [(name, x) for name, x in function[2] if name != "optimizer"]
        function = (*function[:2], *bound)
    return function, *others


def test_a_plan_has_the_programs_of_a_run_and_their_memory(tmp_path, monkeypatch):
    config, tables = small(), []
    devices_for = train_run.devices_for

    def kept(*args):
        table, dtype = devices_for(*args)
        tables.append(table)
        return table, dtype

    monkeypatch.setattr(train_run, "devices_for", kept)
    train_run.run(config, str(tmp_path / "run"))
    used, programs = tables[0].used(), tables[0].programs

    planner = planner_of(config, every=True)
    calls = {what(key): call for key, call in planner.rehearsed(config).table.calls.items()}
    missing = [p.name for p, key in zip(programs, used, strict=True) if what(key) not in calls]
    assert missing == []
    assert {"weights", "cache", "prefill", "decode", "score", "train step"} <= {
        program.name for program in programs
    }
    for key, real in used.items():
        found, memory = planner.compiler.one(calls[what(key)]), real.memory_analysis()
        assert found.arguments == memory.argument_size_in_bytes
        assert found.results == memory.output_size_in_bytes
        assert found.temporaries == memory.temp_size_in_bytes
        assert found.taken_over == memory.alias_size_in_bytes
    assert found.arguments > 0


def test_a_phase_holds_what_the_run_has_alive(plan):
    held = {peak.phase: {h.what: h.bytes for h in peak.held} for peak in plan.peaks}
    evaluations = ["evaluate student", "evaluate teacher of math"]
    assert list(held) == ["start", *evaluations, "rollout", "score", "update"]
    student = plan.run.learner.student.num_params
    assert held["update"]["student"] == 4 * student
    assert held["update"]["teacher of math"] == held["update"]["reference"] == 4 * student
    assert held["update"]["optimizer state"] == pytest.approx(8 * student, abs=16)
    assert held["rollout"]["decode weights (student)"] == 4 * student
    for phase in ("score", "update"):
        assert not held[phase].keys() & {"decode weights (student)", "rollout cache"}
    columns = sum(plan.run.sampler.sizes) + 16  # of the tokens of one dispatch
    model = plan.run.learner.student
    each = model.layers * 2 * model.kv_heads * model.head_size * 4
    assert held["rollout"]["rollout cache"] == 16 * columns * each
    assert plan.fits


@pytest.mark.slow
def test_a_run_that_does_not_fit_gets_a_change_with_which_it_does(plan):
    config, limit = plan.run.config, plan.worst.bytes - 1
    planner = planner_of(config, memory=limit / 0.95)
    found = dataclasses.replace(plan, where=planner.where)
    assert planner.where.limit == limit and not found.fits
    remedy, tried = find_remedy(planner, found)
    assert remedy is not None and remedy.plan.fits and remedy.changes
    assert any("fits" in text and in_words(remedy.plan.worst.bytes) in text for text in tried)
    for setting, value in remedy.changes.items():
        config = changed(config, setting, value)
        assert f"--config.{setting}=" in remedy.options
    again = planner.plan(planner.rehearsed(config))
    assert again.fits and again.worst.bytes <= limit


@pytest.mark.slow
def test_nothing_makes_a_run_fit_into_too_little(plan):
    planner = planner_of(plan.run.config, memory=1000)
    found = dataclasses.replace(plan, where=planner.where)
    assert not found.fits
    remedy, _ = find_remedy(planner, found)
    assert remedy is None


def test_the_command_prints_tables_or_records(plan, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    options = ["--config=math", "--topology=cpu:1", f"--picture={tmp_path / 'memory.png'}"]
    names = ("rollout.slots", "rollout.prompts_per_step", "steps", "eval.samples")
    values = (16, 16, 6, 1)
    options += [f"--config.{n}={v}" for n, v in zip(names, values, strict=True)]
    options += ["--config.learner.rows_per_micro_batch=8"]
    assert main([*options, "--json"]) == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert record["fits"] and record["topology"] == "cpu:1"
    assert [p["phase"] for p in record["phases"]] == [p.phase for p in plan.peaks]
    assert record["peak_bytes"] == plan.worst.bytes
    assert "memory of one device" in printed.err
    assert (tmp_path / "memory.png").stat().st_size > 1000


def test_a_sweep_has_a_line_for_each_slice(plan):
    short = dataclasses.replace(plan, where=dataclasses.replace(plan.where, name="cpu:9"))
    lines = sweep([(plan, None), (short, None)], None).splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["cpu:1", "1", "yes"],
        ["cpu:9", "1", "yes"],
    ]


def test_a_report_says_where_its_numbers_come_from(plan):
    shown = report(plan, ["student: made up"], fast=False, every=False, width=None)
    for part in ("held: computed from shapes; besides: compiled", "assumed: student: made up"):
        assert part in shown
    assert f"{plan.where.name}: fits" in shown
    refused = dataclasses.replace(plan.peaks[-1], refused="train step: Ran out of memory")
    small = dataclasses.replace(plan, peaks=(*plan.peaks[:-1], refused))
    assert not small.fits
    assert "the compiler refuses train step: Ran out of memory" in verdict(small)
