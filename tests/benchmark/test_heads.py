"""The benchmark of the heads: a record for each estimator, and for whole arrays."""

import json

import pytest

from gopd_jax.benchmark.__main__ import main

SMALL = ["head", "--vocabulary=61", "--width=8", "--tokens=16", "--rows=2", "--runs=1", "--json"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--no-reference"]])
def test_a_record_for_each_estimator(capsys, more):
    assert main([*SMALL, *more]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [r["estimator"] for r in records]
    exact = ["sampled_baseline", "full", "top_k", "forward_kl", "jsd"]
    assert names == ["sampled", *exact, "whole arrays"]
    assert all(r["seconds"] > 0 and r["temporary_bytes"] > 0 for r in records)


def test_rows_that_do_not_divide_the_tokens(capsys):
    assert main([*SMALL, "--rows=3"]) == 2
    assert "--rows=3: expected a divisor of --tokens=16" in capsys.readouterr().err
