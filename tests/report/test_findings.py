"""The report's warnings: each is found where it should be, and nowhere else."""

import math

import pytest
from report_cases import checks_of, edit_run, findings_of, make_run

from gopd_jax.report import findings


@pytest.mark.parametrize(
    "title, changes",
    [
        ("Many responses are truncated", {"truncated": 0.3}),
        ("Many responses are truncated", {"truncated": lambda far: 0.1 * far}),
        ("Responses grow long", {"response_length": lambda far: 50 + 100 * far}),
        ("Responses grow short", {"response_length": lambda far: 50 - 40 * far}),
        ("Responses end in a loop", {"repetition_rate": 0.1}),
        (
            "The student moves away from its teacher",
            {"reverse_kl_teacher": lambda far: 0.2 - far + 1.2 * far**2},
        ),
        ("The student is far from the reference", {"kl_reference": lambda far: 2 * far}),
        ("Entropy collapse", {"entropy": lambda far: 0.4 * math.exp(-5 * far)}),
        ("Importance weights are capped", {"importance_capped": 0.05}),
        ("Sampler and learner disagree", {"sampler_gap": 0.2}),
        (
            "Student and teacher are the same model",
            {"reverse_kl_teacher": lambda far: 0.015 * far**2, "advantage_abs": 1e-5},
        ),
        ("A spike of the gradient norm", {"grad_norm": lambda far: 50.0 if far == 0.5 else 1.0}),
        ("The gradient is noise", {"grad_noise": lambda far: 0.5 + 0.5 * far}),
        ("No signal left", {"reverse_kl_teacher": lambda far: 0.1 + 0.1 * math.exp(-20 * far)}),
        ("Programs compiled during the run", {"compilations": lambda far: round(20 + 10 * far)}),
        ("Values that are not finite", {"loss": lambda far: math.nan if far > 0.5 else 1.0}),
    ],
)
def test_every_warning_is_found_where_it_should_be_and_alone(tmp_path, title, changes):
    found = findings_of(make_run(tmp_path / "a", changes=changes))
    assert list(found) == [title]
    assert found[title].text and found[title].todo


def test_a_rise_to_a_high_share_is_one_finding(tmp_path):
    folder = make_run(tmp_path / "a", changes={"truncated": lambda far: 0.5 * far})
    made = [c for rule, c in checks_of(folder).items() if rule.startswith("truncated")]
    assert [c.state for c in made] == ["found", "found"]
    (finding,) = findings.of_checks(made)
    assert finding.level == "bad"


def test_a_gradient_norm_that_falls_over_the_run_is_no_spike(tmp_path):
    changes = {"grad_norm": lambda far: 20 * math.exp(-5 * far)}
    assert not findings_of(make_run(tmp_path / "a", changes=changes))


def test_warnings_name_the_domain_and_the_most_serious_come_first(tmp_path):
    changes = {
        "truncated/math": 0.01,
        "truncated/code": 0.4,
        "compilations": lambda far: round(20 + 10 * far),
    }
    folder = make_run(tmp_path / "a", changes=changes)
    edit_run(tmp_path / "a", lambda run: run["config"]["domains"].update(code={}))
    assert list(findings_of(folder)) == [
        "Many responses are truncated, code",
        "Programs compiled during the run",
    ]


def test_a_run_of_3_steps_that_is_all_truncated_is_found(tmp_path):
    folder = make_run(tmp_path / "a", steps=3, changes={"truncated": 1.0})
    assert list(findings_of(folder)) == ["Many responses are truncated"]
    check = checks_of(folder)["truncated responses: more than 20% at the end"]
    assert (check.state, check.saw) == ("found", "100.0% over 3 steps")


@pytest.mark.parametrize("steps, passed", [(3, 9), (12, 14), (40, 17)])
def test_what_has_too_few_steps_is_not_checked(tmp_path, steps, passed):
    made = checks_of(make_run(tmp_path / "a", steps=steps)).values()
    assert [c.state for c in made].count("passed") == passed
    missed = [c.saw for c in made if c.state == "not checked"]
    assert len(missed) == 17 - passed
    assert all(saw.startswith(f"too few steps: {steps} steps, expected at least") for saw in missed)


def test_what_was_not_recorded_is_not_checked(tmp_path):
    folder = make_run(tmp_path / "a", changes={"kl_reference": None})
    missed = [c for c in checks_of(folder).values() if c.state == "not checked"]
    assert [c.rule.split(":")[0] for c in missed] == ["KL to the reference", "signal"]
    assert all(c.saw == "not recorded in this run" for c in missed)


def test_every_check_says_what_it_saw(tmp_path):
    made = checks_of(make_run(tmp_path / "a"))
    rule = "response length: 2 times longer or shorter than at the start"
    assert made[rule].saw == "50 tokens at the start, 50 at the end"
    assert all(c.saw for c in made.values())


def test_teachers_that_read_cut_prompts_are_found_and_others_have_no_such_check(tmp_path):
    rule = "what a teacher is shown of an answer cut for more than 1% of them"
    assert rule not in checks_of(make_run(tmp_path / "plain"))
    few = checks_of(make_run(tmp_path / "few", changes={"teacher_prompts_cut": 0.005}))[rule]
    assert (few.state, few.saw) == ("passed", "for 0.5% of the answers, on average over the run")
    folder = make_run(tmp_path / "many", changes={"teacher_prompts_cut": 0.25})
    assert list(findings_of(folder)) == ["Teachers read cut prompts"]
