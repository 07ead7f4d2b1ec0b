"""The final table of a run: intervals as they are, not as a half width on both sides."""

from gopd_jax.train import summary

ROW = {"mean_tokens": 20.0, "truncated": 1.0, "seconds": 2.0}


def result(row, difference, passed):
    """The summary of a run of one domain."""
    domain = {"prompts": 8, "samples": 1, "rows": {"student after": ROW | row}}
    domain |= {"student_minus_teacher": difference, "passed_teacher": passed, "reward_scale": 1.25}
    run = {"name": "run", "method": "gopd", "steps": 3, "rollout_tokens": 24}
    return run | {"training_seconds": 1.0, "domains": {"math": domain}}


def test_0_of_8_right_is_not_certain():
    score = {"mean": 0.0, "low": 0.0, "high": 0.36942}
    tie = {"mean": 0.0, "low": -0.36942, "high": 0.36942}
    table = summary.table(result(score, tie, "unclear"))
    assert "  student after   0.00  [0.00, 36.94]" in table
    assert "student after - teacher: +0.00 [-36.94, +36.94] (paired by prompt)" in table
    assert "Student above its teacher: unclear: the interval contains 0" in table


def test_a_summary_of_an_earlier_version_is_shown():
    table = summary.table(
        result({"mean": 0.5, "half_width": 0.01}, {"mean": 0.02, "half_width": 0.005}, "yes")
    )
    assert "  50.00  [49.00, 51.00]" in table and "+2.00 [+1.50, +2.50]" in table


def test_the_table_fits_a_narrow_terminal():
    score = {"mean": 0.5, "low": 0.4, "high": 0.6}
    found = result(score, score, "yes")
    assert "seconds" in summary.table(found) and "truncated" in summary.table(found, 120)
    for width in (40, 60):
        table = summary.table(found, width)
        assert max(map(len, table.splitlines())) <= width
        assert "50.00  [40.00, 60.00]" in table
    assert "100.0%" in table and "(seconds: summary.json)" in table
