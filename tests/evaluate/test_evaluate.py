"""The evaluate command: its figures are those of its samples, and a stopped command resumes."""

import os
import shutil
import signal
import subprocess
import sys
import time

from evaluate_cases import (
    BASE,
    LONG,
    MATH,
    OPTIONS,
    ROOT,
    command,
    results,
    samples,
    write_rows,
)
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.evaluate import grading
from gopd_jax.evaluate.__main__ import make_parser
from gopd_jax.evaluate.catalog import KNOWN, SUITES
from gopd_jax.evaluate.statistics import accuracy, majority

# ---- What is written.


def test_samples_hold_their_verdicts(whole):
    records = samples(whole)
    assert len(records) == (6 + 6) * 4
    assert {r["benchmark"] for r in records.values()} == {"sums", "lines"}
    truth = {row["prompt_id"]: row["ground_truth"] for row in MATH}
    seen = set()
    for (name, _), r in records.items():
        seen.add((r["benchmark"], r["verdict"]))
        assert r["reward"] == (r["verdict"] == "correct")
        assert r["finish_reason"] in ("stop", "length")
        answer = r["answer"]
        if r["benchmark"] == "sums":  # the answers are whole numbers, so the text decides
            assert answer is None or f"\\boxed{{{answer}}}" in r["text"]
            right = answer is not None and answer.strip().lstrip("0") == truth[name]
            assert r["reward"] == right
        else:
            assert answer == r["text"]
    assert {("sums", "correct"), ("sums", "wrong"), ("lines", "wrong")} <= seen


@pytest.mark.parametrize("name, kind, skipped", [("sums", "math", 1), ("lines", "code", 0)])
def test_figures_are_those_of_the_samples(whole, name, kind, skipped):
    s = results(whole)["benchmarks"][name]
    ours = [r for r in samples(whole).values() if r["benchmark"] == name]
    by_problem = {p: [r["reward"] for r in ours if r["prompt_id"] == p] for p in s["by_problem"]}
    means = {p: np.mean(x) for p, x in by_problem.items()}
    assert {p: x["score"] for p, x in s["by_problem"].items()} == means
    assert (s["reward"], s["samples"], s["problems"], s["skipped"]) == (kind, 4, 6, skipped)
    assert s["avg"] == accuracy([list(means.values())]).to_json()
    assert s["avg"]["mean"] == pytest.approx(np.mean([r["reward"] for r in ours]))
    assert s["pass"].keys() == {"1", "2", "4"}
    assert s["pass"]["1"]["mean"] == pytest.approx(s["avg"]["mean"])
    any_right = np.mean([max(x) for x in by_problem.values()])
    assert s["pass"]["4"]["mean"] == pytest.approx(any_right)
    assert s["mean_tokens"] == pytest.approx(np.mean([r["tokens"] for r in ours]))
    cut = np.mean([r["finish_reason"] == "length" for r in ours])
    assert s["truncated"] == pytest.approx(cut)
    assert sum(s["verdicts"].values()) == 24
    assert s["verdicts"].get("no answer", 0) == sum(r["answer"] is None for r in ours)


def test_averages_and_majority_are_those_of_the_samples(whole):
    said, records = results(whole), list(samples(whole).values())
    assert said["complete"] and said["model"] == BASE and said["drawn"]["samples"] == 48
    votes = []
    for problem in said["benchmarks"]["sums"]["by_problem"]:
        ours = [r for r in records if r["prompt_id"] == problem and r["answer"] is not None]
        right = sum(r["reward"] for r in ours)
        wrong = [r["answer"] for r in ours if not r["reward"]]
        votes.append(majority(right, [wrong.count(a) for a in set(wrong)]))
        assert right + len(wrong) == len(ours)
        assert right == sum(r["reward"] for r in records if r["prompt_id"] == problem)
    assert said["benchmarks"]["sums"]["majority"]["mean"] == pytest.approx(np.mean(votes))
    assert "majority" not in said["benchmarks"]["lines"]
    both, names = said["averages"]["average of all"], ["sums", "lines"]
    means = [said["benchmarks"][name]["avg"]["mean"] for name in names]
    assert both["mean"] == pytest.approx(np.mean(means)) and both["benchmarks"] == names


def test_a_problem_over_a_limit_is_counted_and_not_in_the_mean(whole, copy, capsys):
    said = results(whole)
    assert said["skipped"].keys() == {"long"}
    assert "has 603 tokens: expected at most" in said["skipped"]["long"]
    assert "long" not in said["benchmarks"]["sums"]["by_problem"]
    assert command(copy, *OPTIONS) == 0
    expected = "1 of 7 problems of sums are over a limit; its figures are over the other 6"
    assert f"skipped: {expected}" in capsys.readouterr().out


def test_a_benchmark_without_a_problem_within_the_limits_is_not_in_the_average(copy, capsys):
    write_rows(copy / "sums.jsonl", [LONG])
    assert command(copy, *OPTIONS, out="other") == 0
    table, said = capsys.readouterr().out, results(copy, "other")
    assert said["benchmarks"]["sums"]["problems"] == 0 and "avg" not in said["benchmarks"]["sums"]
    assert said["averages"] == {} and "no problem within the limits" in table


def test_the_table_says_the_figures(copy, capsys):
    assert command(copy, *OPTIONS) == 0
    lines, s = capsys.readouterr().out.splitlines(), results(copy)["benchmarks"]["sums"]
    line = next(line.split() for line in lines if line.startswith("sums "))
    avg, no_answer = s["avg"], s["verdicts"].get("no answer", 0)
    expected = ["6", "4", f"{100 * avg['mean']:.2f}"]
    expected += [f"[{100 * avg['low']:.1f},", f"{100 * avg['high']:.1f}]"]
    expected += [f"{100 * s['pass']['4']['mean']:.1f}", f"{100 * s['majority']['mean']:.1f}"]
    expected += [f"{s['mean_tokens']:.1f}", f"{100 * s['truncated']:.1f}%"]
    assert line[1:-2] == [*expected, f"{100 * no_answer / 24:.1f}%"]


# ---- Resuming.


def test_a_resumed_command_keeps_what_is_there_and_draws_the_rest(whole, copy):
    path = copy / "out" / "samples.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:20]) + lines[20][:-9])  # killed in the middle of a line
    assert command(copy, *OPTIONS) == 0
    assert path.read_bytes().splitlines(keepends=True)[:20] == lines[:20]
    assert samples(copy) == samples(whole)
    old, new = results(whole), results(copy)
    assert (new["benchmarks"], new["averages"]) == (old["benchmarks"], old["averages"])
    assert new["drawn"]["samples"] == 28 and len(new["starts"]) == 2


@pytest.mark.slow  # in one process: the test above
def test_killed_and_resumed_is_never_killed(whole, copy):
    """A real kill, without a chance to clean up."""
    shutil.rmtree(copy / "out")
    program = (
        "import sys; from gopd_jax.evaluate.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    suite = f"{copy}/sums.jsonl,{copy}/lines.jsonl"
    arguments = [f"--model={BASE}", f"--suite={suite}", f"--out={copy}/out", *OPTIONS]
    child = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    path, deadline = copy / "out" / "samples.jsonl", time.monotonic() + 60
    while time.monotonic() < deadline and not (path.exists() and path.stat().st_size):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert path.stat().st_size and not results(copy)["complete"]
    assert command(copy, *OPTIONS) == 0
    assert samples(copy) == samples(whole)
    assert results(copy)["benchmarks"] == results(whole)["benchmarks"]


def test_ctrl_c_keeps_the_samples_that_are_finished(whole, copy, monkeypatch):
    shutil.rmtree(copy / "out")
    taken, take = [], grading.Grader.take

    def interrupted(self, rollout):
        take(self, rollout)
        taken.append(rollout)
        if len(taken) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(grading.Grader, "take", interrupted)
    assert command(copy, *OPTIONS) == 130
    kept = samples(copy)
    assert len(kept) == 5 and all(samples(whole)[key] == r for key, r in kept.items())


def test_a_complete_command_is_not_run_again(copy, no_weights, capsys):
    files = [copy / "out" / name for name in ("samples.jsonl", "results.json")]
    before = [file.read_bytes() for file in files]
    assert command(copy, *OPTIONS) == 0
    assert "complete already" in capsys.readouterr().err
    assert [file.read_bytes() for file in files] == before


TWO_SAMPLES = "benchmarks is {'sums': {'source': 'sums.jsonl', 'reward': 'math', 'samples': 2}"


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seed=8"], "seed is 8, was 3"),
        (["--samples-per-prompt=2"], TWO_SAMPLES),
        (["--prompt-suffix= ok?"], "prompts_fingerprint is"),
        (["--verifier-timeout-s=1"], "verifier_timeout_s is 1.0, was 10.0"),
        (["--model=" + tiny.model("math_teacher")], "model_fingerprint is"),
    ],
)
def test_another_command_does_not_touch_the_samples(copy, no_weights, capsys, options, words):
    before = (copy / "out" / "samples.jsonl").read_bytes()
    assert command(copy, *OPTIONS, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and words in said
    assert "expected the same settings, or another --out" in said
    assert (copy / "out" / "samples.jsonl").read_bytes() == before


def test_other_ground_truths_are_another_command(copy, no_weights, capsys):
    write_rows(copy / "sums.jsonl", [MATH[0] | {"ground_truth": "1"}, *MATH[1:], LONG])
    assert command(copy, *OPTIONS) == 2
    assert "problems_fingerprint is" in capsys.readouterr().err


def test_what_goes_wrong_while_grading_stops_the_command(copy, monkeypatch, capsys):
    def fails(self, items):
        raise ValueError("no verifier today")

    monkeypatch.setattr(grading.Verifier, "__call__", fails)
    assert command(copy, *OPTIONS, out="new") == 2
    assert "no verifier today" in capsys.readouterr().err
    assert not results(copy, "new")["complete"]


# ---- Help.


def test_help_names_every_suite_and_its_examples_parse(tmp_path, capsys):
    assert command(tmp_path, "--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*SUITES, *KNOWN])
    lines = said.replace("\\\n", "").splitlines()
    start = "  python -m gopd_jax.evaluate "
    examples = [line.removeprefix(start).split() for line in lines if line.startswith(start)]
    assert len(examples) == 3
    for example in examples:
        assert make_parser().parse_args(example).out.startswith("results/")
