"""Reading run folders that are not whole, or not of this format."""

import json

import pytest
from report_cases import edit_run, findings_of, make_run

from gopd_jax.report import page, read
from gopd_jax.runtime.run_folder import FORMAT


def test_broken_lines_are_named_and_the_rest_is_read(tmp_path):
    folder = make_run(tmp_path / "a")
    path = tmp_path / "a/metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = "{not json"
    lines[9] = json.dumps({"reward": 1.0})
    path.write_text("\n".join([*lines, '{"step": 41, "rew']))
    (tmp_path / "a/samples.jsonl").write_text('[1]\n{"step": 1}\n')
    problems = findings_of(folder)["Files that could not be read in full"].text
    for problem in (
        "metrics.jsonl line 7: not JSON",
        "metrics.jsonl line 10: no step",
        "metrics.jsonl line 41: cut short",
        "samples.jsonl line 1: no step",
        "samples.jsonl line 2: no tokens",
    ):
        assert problem in problems
    run = read.read_run(folder)
    assert len(run.metrics) == 38 and run.samples == []


def test_an_unfinished_run_is_read_as_far_as_it_got(tmp_path):
    folder = make_run(tmp_path / "a", steps=12, finished=False)
    assert list(findings_of(folder)) == ["Unfinished at step 12 of 40"]


def test_metrics_of_earlier_versions_have_the_ends_of_their_intervals(tmp_path):
    old = {"reward": 0.1, "reward_half_width": 0.2, "reward/math": 0.5}
    old |= {"reward_half_width/math": 0.25, "reward_low": None, "reward_high": None}
    last = read.read_run(make_run(tmp_path / "a", changes=old)).metrics[-1]
    assert (last["reward_low"], last["reward_high"]) == (0.0, pytest.approx(0.3))
    assert (last["reward_low/math"], last["reward_high/math"]) == (0.25, 0.75)


@pytest.mark.parametrize(
    "content, problem", [("{", "run.json cannot be read"), ("", "run.json cannot be read")]
)
def test_a_run_killed_before_its_first_step(tmp_path, content, problem):
    (tmp_path / "run.json").write_text(content)
    run = read.read_run(str(tmp_path))
    assert run.last_step == 0 and run.metrics == [] and run.config == {}
    assert problem in run.problems[0]


def test_metrics_without_run_json(tmp_path):
    folder = make_run(tmp_path / "a")
    (tmp_path / "a/run.json").unlink()
    run = read.read_run(folder)
    assert len(run.metrics) == 40 and run.domains == ["math"]
    assert "run.json is missing" in run.problems[0]


def test_a_run_of_another_format_is_refused_in_one_sentence(tmp_path):
    folder = make_run(tmp_path / "a")
    edit_run(tmp_path / "a", lambda run: run.pop("format"))
    with pytest.raises(ValueError, match=f"run folder of format 1.*reads format {FORMAT}") as error:
        read.read_runs([folder])
    assert "\n" not in str(error.value)


DAMAGED = {
    "config.domains": lambda run: run["config"].update(domains=[1]),
    "config.domains.math": lambda run: run["config"]["domains"].update(math=1),
    "config.learner": lambda run: run["config"].update(learner=3),
    "config.rollout": lambda run: run["config"].update(rollout="x"),
    "": lambda run: run.update(fingerprints={"weights": 3}),
    " ": lambda run: run["starts"][0].update(devices=3, command=4, packages=5, processes="x"),
}


@pytest.mark.parametrize("part", DAMAGED)
def test_parts_of_other_types_are_left_out_and_named(tmp_path, part):
    folder = make_run(tmp_path / "a")
    edit_run(tmp_path / "a", DAMAGED[part])
    run = read.read_run(folder)
    assert page.html([run]).startswith(page.START)
    named = f"run.json: {part} is not a group of settings"
    assert run.problems == ([named] if part.strip() else [])


def test_numbers_and_names_of_other_types_are_left_out(tmp_path):
    folder = make_run(tmp_path / "a")
    summary = {"training_seconds": "x", "rollout_tokens": [1]}
    (tmp_path / "a/summary.json").write_text(json.dumps(summary))
    (tmp_path / "a/samples.jsonl").unlink()
    (tmp_path / "a/samples.jsonl").mkdir()
    strange = {"step": 0, "model": "student", "domain": [1], "by_prompt": [1.0]}
    with (tmp_path / "a/evaluations.jsonl").open("a") as file:
        file.write(json.dumps(strange) + "\n")
    run = read.read_run(folder)
    assert page.html([run]).startswith(page.START)
    assert run.problems == [
        "samples.jsonl is a folder",
        "summary.json: training_seconds is not a number",
        "summary.json: rollout_tokens is not a number",
    ]
    assert len(run.evaluations) == 3
