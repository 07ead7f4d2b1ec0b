"""The report's warnings: each is found where it should be, and nowhere else."""

import math

import pytest
from report_cases import edit_run, findings_of, make_run


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
            {"reverse_kl_teacher": 1e-5, "advantage_abs": 1e-5},
        ),
        ("A spike of the gradient norm", {"grad_norm": lambda far: 50.0 if far == 0.5 else 1.0}),
        ("Programs compiled during the run", {"compilations": lambda far: round(20 + 10 * far)}),
        ("Values that are not finite", {"loss": lambda far: math.nan if far > 0.5 else 1.0}),
    ],
)
def test_every_warning_is_found_where_it_should_be_and_alone(tmp_path, title, changes):
    found = findings_of(make_run(tmp_path / "a", changes=changes))
    assert list(found) == [title]
    assert found[title].text and found[title].todo


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
