"""The reference of what a run writes: complete, current, and of use to the report.

The tests of runs compare it with their files (`field_cases.check_fields`).
"""

import dataclasses
from pathlib import Path
import typing

from field_cases import CONDITIONS

from gopd_jax.evaluate.held_out import Evaluation
from gopd_jax.objective.diagnostics import POSITION_BINS
from gopd_jax.report.charts import CHARTS
from gopd_jax.train import file_fields
from gopd_jax.train.fields import WHEN, Field, When, entry, names
from gopd_jax.train.metric_fields import METRICS
from gopd_jax.train.metrics_page import bins, page

ROOT = Path(__file__).parents[2]


def test_the_page_is_current():
    """After a change: python -m gopd_jax.train.metrics_page > docs/metrics.md"""
    assert (ROOT / "docs" / "metrics.md").read_text() == page() + "\n"


def test_every_condition_is_one_of_a_run_that_is_checked():
    assert set(WHEN) == set(typing.get_args(When))
    assert {*WHEN} - {"always", "stopped"} == set().union(*CONDITIONS.values())


def test_charts_of_the_report_draw_declared_metrics():
    declared = {field.name for field in METRICS}
    drawn = {key for chart in CHARTS for key in chart.keys}
    assert drawn <= declared, drawn - declared


def test_a_field_is_declared_once_and_says_what_it_is():
    assert len({f.name for f in METRICS}) == len(METRICS)
    for field in (*METRICS, *file_fields.EVALUATIONS, *file_fields.SAMPLES):
        assert field.meaning and not field.meaning.endswith("."), field.name
    declared = set(names(file_fields.EVALUATIONS, {"verified"}))
    assert {f.name for f in dataclasses.fields(Evaluation)} <= declared


def test_names_by_domain_and_condition():
    fields = (
        Field("a", "", "x", split="domains"),
        Field("b", "", "x", "teacher", split="several domains"),
        Field("c/DOMAIN", "", "x", "own reward"),
    )
    assert list(names(fields, {"own reward"}, ["m"])) == ["a", "a/m", "c/m"]
    expected = ["a", "a/m", "a/n", "b", "b/m", "b/n"]
    assert list(names(fields, {"teacher"}, ["m", "n"])) == expected
    shown = entry(Field("b", "nats", "x", "teacher", "0", "y", "several domains"))
    assert shown == (
        f"- `b`, `b/DOMAIN` with several domains (nats): x. Written if {WHEN['teacher']}. "
        "Healthy: 0. Otherwise: y."
    )


def test_the_edges_of_the_bins():
    text = bins().replace("\n", " ")
    assert f"The {POSITION_BINS} bins" in text
    assert " 0-1, 2-3, 4-7, " in text and "16384-32767, and the last everything from 32768" in text
