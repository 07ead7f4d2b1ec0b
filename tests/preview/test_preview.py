"""The preview command: what each lambda needs, its table, and a whole preview of a few prompts."""

import argparse
import json
from pathlib import Path

from data_folder import DATASETS
import pytest

from gopd_jax.preview.__main__ import lambdas, main
from gopd_jax.preview.points import needed
from gopd_jax.preview.table import HEAD, table, verdict

ROOT = Path(__file__).parents[2]


def test_lambdas_are_different_numbers_and_come_out_rising():
    assert lambdas("1.25,0,2") == [0.0, 1.25, 2.0] and lambdas("1") == [1.0]
    for text in ("", "1,,2", "1,x", "1,1.0", "-0.5,1", "1,inf", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected different numbers >= 0"):
            lambdas(text)


def test_each_lambda_needs_the_models_with_an_exponent_above_or_below_0():
    groups = needed([0.0, 0.5, 1.0, 1.25], "T", "R")
    assert [(g.paths, g.scales) for g in groups] == [
        (("T",), (1.0,)),  # the baseline of the differences is the first
        (("R",), (0.0,)),
        (("T", "R"), (0.5, 1.25)),
    ]
    exponents = [[g.exponents(s).tolist() for s in g.scales] for g in groups]
    assert exponents == [[[1.0]], [[1.0]], [[0.5, 0.5], [1.25, -0.25]]]
    assert [g.paths for g in needed([1.0], "T", None)] == [("T",)]


def point(scale, mean, difference):
    low, high = mean - 0.02, mean + 0.02
    gain = {"mean": difference, "low": difference - 0.01, "high": difference + 0.01}
    other = {"tokens": 16.25, "truncated": 0.0312, "entropy": 0.25, "log_z": 0.0125}
    return {"lambda": scale, "mean": mean, "low": low, "high": high, "difference": gain} | other


POINTS = [point(0.5, 0.48, -0.06), point(1.0, 0.54, 0.0), point(1.25, 0.56, 0.02)]
POINTS.append(point(2.0, 0.545, 0.005))


def test_the_table_has_a_line_for_each_lambda_and_says_what_is_sure():
    domain = {"teacher": "T", "reference": "R", "prompts": 1024, "samples": 2, "lambdas": POINTS}
    lines = table({"domains": {"math": domain}}).split("\n")
    assert lines[:2] == ["math: 1,024 prompts x 2, teacher T", "  reference R"]
    assert " ".join(lines[3].split()) == " ".join(HEAD)
    cells = [" ".join(line.split()) for line in lines[4:8]]
    assert cells[0] == ("0.5 48.00 [46.0, 50.0] -6.00 [-7.00, -5.00] 16.2 3.1% 0.2500 +0.0125")
    assert cells[1] == "1 54.00 [52.0, 56.0] 16.2 3.1% 0.2500 +0.0125"
    sure = "better than lambda 1 beyond its interval: 1.25; worse than lambda 1 beyond its "
    assert lines[9] == sure + "interval: 0.5"
    assert verdict(POINTS[1:2]) == "no lambda differs from 1 beyond its interval"


def test_a_preview_of_a_few_prompts(tmp_path, capsys):
    arguments = [
        f"--config={ROOT}/configs/math.py",
        f"--config.data.cache_dir={DATASETS}",
        "--config.rollout.slots=8",
        "--lambdas=0.5,2",
        "--prompts=6",
        "--samples-per-prompt=2",
        f"--out={tmp_path}/out",
        "--json",
    ]
    assert main(arguments) == 0
    said = capsys.readouterr()
    record = json.loads(said.out)
    written = json.loads((tmp_path / "out" / "preview.json").read_text())
    assert record == written and written["complete"]
    assert (tmp_path / "out" / "preview.png").read_bytes()[1:4] == b"PNG"
    domain = record["domains"]["math"]
    assert (domain["prompts"], domain["samples"]) == (6, 2)
    assert domain["teacher"].endswith("math_teacher") and domain["reference"].endswith("base")
    half, one, two = domain["lambdas"]
    assert [p["lambda"] for p in (half, one, two)] == [0.5, 1.0, 2.0]
    for p in (half, one, two):
        assert len(p["by_prompt"]) == 6 and set(p["by_prompt"]) <= {0.0, 0.5, 1.0}
        assert p["mean"] == pytest.approx(sum(p["by_prompt"]) / 6)
        assert p["difference"]["mean"] == pytest.approx(p["mean"] - one["mean"])
        assert 1 <= p["tokens"] <= 20 and 0 <= p["truncated"] <= 1
    assert half["log_z"] < one["log_z"] == 0 < two["log_z"]
    assert half["entropy"] > one["entropy"] > two["entropy"] > 0  # the teacher is sharper
    for text in ("lambda 0.5: ", "against 1", "preview.png"):
        assert text in said.err
