"""What a run still gains, and how noisy its gradient is: numbers by hand."""

import numpy as np
import pytest
from report_cases import edit_run, make_run

from gopd_jax.report import progress_checks, read


def progress_of(folder):
    return progress_checks.progress(read.read_run(folder), "")


def test_the_responses_for_the_next_tenth_of_a_nat(tmp_path):
    """J = 0.25 * 0.1 - 1.25 * KL rises by 0.125 in 40 steps of 16 responses: 0.1 takes 512."""
    check = progress_of(make_run(tmp_path / "a"))
    assert check.state == "passed"
    assert check.saw.startswith("0.1 nats per token more take about 510 responses")


def test_at_lambda_1_what_is_left_is_the_kl_to_the_teacher(tmp_path):
    check = progress_of(make_run(tmp_path / "a", reward_scale=1.0))
    assert check.saw.endswith("0.1 are left to the optimum")


def test_with_log_z_what_is_left_is_known_for_any_lambda(tmp_path):
    check = progress_of(make_run(tmp_path / "a", changes={"log_z": 0.05}))
    # J ends at 0.025 - 1.25 * 0.104
    assert check.saw.endswith("0.15 are left to the optimum")


def test_a_schedule_that_ends_at_0_is_no_goal_that_is_reached(tmp_path):
    """J follows the sum of the learning rates; both hardly move at the end."""
    steps = np.arange(1, 61)
    rates = 1e-5 * (1 - steps / 60) ** 5
    learned = dict(zip(steps, np.cumsum(rates) / rates.sum(), strict=True))
    changes = {
        "learning_rate": lambda far: 1e-5 * (1 - far) ** 5,
        "reverse_kl_teacher": lambda far: 0.9 - 0.6 * learned[round(60 * far)],
    }
    flat = changes | {"learning_rate": 1e-5}
    found = {}
    for name, these in (("falling", changes), ("constant", flat)):
        found[name] = progress_of(make_run(tmp_path / name, steps=60, changes=these))
    assert found["falling"].state == "passed" and found["constant"].state == "found"


def test_no_learning_rate_is_no_trend(tmp_path):
    check = progress_of(make_run(tmp_path / "a", changes={"learning_rate": 0.0}))
    assert (check.state, check.saw) == ("not checked", "the learning rate was 0")


def test_noise_around_a_flat_line_that_is_too_wide_is_not_called_flat(tmp_path):
    changes = {"reverse_kl_teacher": lambda far: 0.2 + 0.1 * (round(40 * far) % 2)}
    check = progress_of(make_run(tmp_path / "a", changes=changes))
    assert check.state == "passed" and check.saw.startswith("in 100 steps J changes by")


def test_methods_without_a_teacher_have_no_such_trend(tmp_path):
    folder = make_run(tmp_path / "a")
    edit_run(tmp_path / "a", lambda run: run["config"].update(method="grpo"))
    assert progress_of(folder).state == "not checked"


def test_noise_is_a_share_of_all_squares_at_the_end(tmp_path):
    """A step of a large norm counts by its square: (0 * 100 + 1 + 1 + 1) / 103 at the end."""
    changes = {
        "grad_norm": lambda far: 10.0 if far == 0.95 else 1.0,
        "grad_noise": lambda far: 0.0 if far == 0.95 else 1.0,
    }
    check = progress_checks.noise(read.read_run(make_run(tmp_path / "a", changes=changes)))
    assert check.state == "passed"
    assert check.saw == "100% at the start, 3% at the end; advantages spread by 0.5 nats"


@pytest.mark.parametrize("estimate, said", [(1.2, "100%"), (-0.3, "0%")])
def test_an_estimate_of_noise_outside_of_a_share_is_said_as_its_limit(tmp_path, estimate, said):
    changes = {"grad_noise": lambda far: estimate}
    check = progress_checks.noise(read.read_run(make_run(tmp_path / "a", changes=changes)))
    assert check.saw.startswith(f"{said} at the start, {said} at the end")


@pytest.mark.parametrize("name", ["grad_noise", "grad_norm"])
def test_without_its_numbers_noise_is_not_checked(tmp_path, name):
    folder = make_run(tmp_path / "a", changes={name: None})
    assert progress_checks.noise(read.read_run(folder)).state == "not checked"
