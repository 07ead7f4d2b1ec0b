"""Growth: which points are measured, what the fits say of made-up figures, and the picture."""

import json
import subprocess

import pytest

from gopd_jax.benchmark.__main__ import main, make_parser
from gopd_jax.benchmark.growth import Point, fit, options, plan, record


def arguments(*given):
    return make_parser().parse_args(["growth", *given])


def median(rollouts, tokens, score, update, attention=0.0):
    """What an update would report."""
    figures = {"rollouts": rollouts, "response_tokens": tokens, "useful_flops": 1e6 * tokens}
    figures |= {"seconds_score": score, "seconds_update": update, "executed_over_useful": 1.2}
    figures |= {"attention_share_score": attention, "attention_share_update": attention}
    return figures | {
        "filled_share": 1.0,
        "peak_gib": 0.5,
        "temporary_bytes": 10,
        "mfu": 0.4,
        "peak_flops": 1e9,
        "device": "cpu",
    }


def points(variable, rows):
    return [record(Point(variable, value), median(*row)) for value, row in rows.items()]


def test_the_default_points():
    found = plan(arguments())
    assert [p.vocabulary for p in found[:4]] == [32768, 65536, 151936, 8192]
    lengths = [p for p in found if p.variable == "length"]
    assert [p.length for p in lengths] == [256, 512, 1024, 2048, 4096]
    assert {p.length * p.rollouts for p in lengths} == {48 * 256}
    assert [p.rollouts for p in found if p.variable == "rollouts"] == [12, 24, 48, 96]
    assert [p.teachers for p in found[-4:]] == [1, 2, 3, 4]
    (least, *_), most = lengths, lengths[-1]
    assert "--row-length=1280" in options(least, 64) and "--row-length=4160" in options(most, 64)
    few = plan(arguments("--vary", "teachers", "--teachers=2,5"))
    assert few == [Point("teachers", n, teachers=n) for n in (2, 5)]


def test_exponents_of_known_growth():
    found = fit(points("vocabulary", {v: (4, 64, 2.0 * v, 0.5 * v**2) for v in (10, 30, 100)}))
    assert found["exponent_score"] == pytest.approx(1)
    assert found["last_exponent_update"] == pytest.approx(2)
    assert not found["at_most_linear"]
    assert found["exponent_memory"] == pytest.approx(0, abs=1e-9)
    # As many tokens in all take as long, attention apart, whose share grows.
    shares = {16: 0.2, 32: 0.4, 64: 0.6}
    rows = {n: (64 // n, 64, 1 / (1 - s), 3 / (1 - s), s) for n, s in shares.items()}
    found = fit(points("length", rows))
    assert found["exponent_update"] > 1.3 and found["at_most_linear"]
    assert found["exponent_score_without_attention"] == pytest.approx(1)
    assert found["exponent_useful_flops"] == pytest.approx(1)


def test_points_are_measured_read_and_drawn(tmp_path, monkeypatch, capsys):
    asked = []

    def update(command, **_):
        assert command[1:5] == ["-m", "gopd_jax.benchmark", "update", "--json"]
        given = dict(a.removeprefix("--").split("=") for a in command[6:])
        asked.append(json.loads(open(f"{given['model']}/config.json").read())["vocab_size"])
        assert given.get("peak-flops") == ("1000000000.0" if len(asked) > 1 else None)
        answers, length = int(given["prompts"]), int(given["max-response-tokens"])
        out = median(answers, answers * length, 1.0 * answers, 3.0 * answers)
        return subprocess.CompletedProcess(command, 0, json.dumps(out) + "\n", "")

    monkeypatch.setattr(subprocess, "run", update)
    vary = ["--vary", "vocabulary", "rollouts", "--vocabulary=32,64", "--rollouts=2,4,8"]
    assert main(["growth", "--json", *vary]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert asked == [32, 64, 8192, 8192, 8192]
    assert [r["record"] for r in records] == ["point"] * 5 + ["growth"] * 2
    assert records[-1]["exponent_update"] == pytest.approx(1) and records[-1]["at_most_linear"]
    assert "at most linear" in err
    file, picture = tmp_path / "points.jsonl", tmp_path / "growth.png"
    file.write_text(out)
    assert main(["growth", f"--picture={picture}", "--read", str(file)]) == 0
    assert len(asked) == 5 and picture.read_bytes()[:4] == b"\x89PNG"
    assert "exponents of the seconds: score 1.00, update 1.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [
        (["--teachers=4"], "argument --teachers: invalid value '4': expected two or more rising"),
        (["--length=8,4"], "argument --length: invalid value '8,4': expected two or more rising"),
        (["--picture=growth.jpg"], "--picture=growth.jpg: expected FILE.png in a folder"),
        (["--read", "no.jsonl"], "--read=no.jsonl: no such file, expected JSON lines of growth"),
        (["--read", "/dev/null"], "--read=/dev/null: no points, expected what"),
        (["--read", "/"], "--read=/: no such file"),
        (["--read", __file__], f"{__file__}:1: expected a line that benchmark growth"),
    ],
)
def test_bad_input_is_one_line(given, message, capsys):
    try:
        status = main(["growth", *given])
    except SystemExit as error:
        status = error.code
    (said,) = capsys.readouterr().err.splitlines()
    assert status == 2 and said.startswith(f"error: {message}")


def test_a_point_that_fails_says_why(monkeypatch, capsys):
    failed = subprocess.CompletedProcess([], 2, "", "error: no memory\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: failed)
    assert main(["growth", "--vary", "teachers"]) == 2
    assert "exit status 2, expected 0: no memory" in capsys.readouterr().err
