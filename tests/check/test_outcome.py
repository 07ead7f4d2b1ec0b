"""Outcomes: states, the table, and the one sentence of a failure."""

import math

import pytest

from gopd_jax.check.outcome import accepting, count, measured, not_checked, raise_if_failed, table
from gopd_jax.check.settings import CheckSettings

OPTIONS = {"unit": "ids", "saw": "its are [3]", "todo": "name them"}
PASSED = measured("sampler", "student", 0.1, bound=0.1, todo="report it")
FAILED = measured("stop_ids", "reference", 2, bound=0, **OPTIONS)


@pytest.mark.parametrize(
    "number, least, state",
    [
        (0.5, False, "passed"),
        (1.0, False, "passed"),
        (1.5, False, "failed"),
        (0.5, True, "failed"),
        (1.5, True, "passed"),
        (math.nan, False, "failed"),
        (math.nan, True, "failed"),
        (math.inf, True, "failed"),
    ],
)
def test_a_number_is_within_its_bound(number, least, state):
    assert measured("sampler", "x", number, bound=1.0, least=least, todo="").state == state


def test_a_failure_is_one_sentence_with_the_way_out():
    other = measured("sampler", "student", math.nan, bound=0.1, todo="report it")
    message = (
        r"check stop_ids \(reference\): 2 ids, expected <= 0: a model ends its answers with other "
        r"ids than the student \(its are \[3\]\); name them, or accept it with "
        r"--config\.check\.accept=stop_ids,sampler; 1 more failed: sampler \(student\)$"
    )
    with pytest.raises(ValueError, match=message):
        raise_if_failed([PASSED, FAILED, other])
    raise_if_failed([PASSED, not_checked("adapter", "student", "none")])


def test_what_is_accepted_is_said_and_stops_nothing():
    found = accepting([PASSED, FAILED], {"stop_ids", "sampler"})
    raise_if_failed(found)
    assert [o.state for o in found] == ["passed", "accepted"]
    assert count(found) == "1 passed, 1 accepted"
    assert table(found).splitlines()[-1] == (
        "stop_ids (reference) accepted: its are [3]; name them"
    )
    with pytest.raises(ValueError, match="check stop_ids"):
        raise_if_failed(accepting([FAILED], {"sampler"}))


def test_the_table_has_number_and_bound():
    lines = table([PASSED, FAILED]).splitlines()
    assert lines[0].split() == ["check", "of", "number", "bound", "unit", "result"]
    assert lines[1].split() == ["sampler", "student", "0.1", "<=", "0.1", "passed"]
    assert lines[2].split() == ["stop_ids", "reference", "2", "<=", "0", "ids", "failed"]
    assert all(len(line) <= 60 for line in table([PASSED, FAILED], 60).splitlines()[:3])


def test_json_has_no_number_that_is_not_finite():
    assert measured("sampler", "x", math.nan, bound=1.0, todo="").to_json()["number"] == "nan"


def test_accepted_names():
    assert CheckSettings(accept=" stop_ids, sampler,").accepted == {"stop_ids", "sampler"}
    assert CheckSettings().accepted == frozenset()
    message = r"accept='stop_id': no check 'stop_id'; expected names of .*; nearest: 'stop_ids'"
    with pytest.raises(ValueError, match=message):
        CheckSettings(accept="stop_id")
