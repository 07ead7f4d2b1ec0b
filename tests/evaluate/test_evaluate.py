"""The evaluate command: its figures are those of its samples; a stopped one goes on; what is wrong is said before any work."""

import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gopd_jax import sampling_job, tiny
from gopd_jax.data import embedded as tasks
from gopd_jax.evaluate import __main__ as evaluate
from gopd_jax.evaluate import grading, scores, suites
from gopd_jax.evaluate.statistics import accuracy, difference, majority
from gopd_jax.rewards.verifier import Verdict, Verifier

BASE = tiny.model("base")
ROOT = Path(__file__).parents[1]
MATH, CODE = [list(tasks.records(kind, "test"))[:6] for kind in ("math", "code")]
OPTIONS = ["--samples=4", "--max-tokens=24", "--slots=8", "--seed=3"]
OPTIONS += ["--prompt-suffix=", "--verifiers=1", "--max-prompt-tokens=40"]
LONG = {"prompt_id": "long", "prompt": "1+" * 300, "ground_truth": "300"}


def write_rows(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def command(folder, *options, suite=None, out="out"):
    """The exit code; sums.jsonl and lines.jsonl are in the folder."""
    suite = suite or f"{folder}/sums.jsonl,{folder}/lines.jsonl"
    try:
        return evaluate.main(
            [f"--model={BASE}", f"--suite={suite}", f"--out={folder}/{out}", *options]
        )
    except SystemExit as e:  # argparse
        return e.code


def samples(folder, out="out"):
    """{(prompt id, sample id): record}"""
    records = [
        json.loads(line) for line in (folder / out / "samples.jsonl").read_text().splitlines()
    ]
    by_name = {(r["prompt_id"], r["sample_id"]): r for r in records}
    assert len(by_name) == len(records)
    return by_name


def results(folder, out="out"):
    return json.loads((folder / out / "results.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_compilations):
    """A folder with the files of a command that ran in one go: sums (math, one prompt too long) and lines (code)."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder / "sums.jsonl", [*MATH, LONG])
    write_rows(folder / "lines.jsonl", CODE)
    assert command(folder, *OPTIONS) == 0
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.fixture
def no_weights(monkeypatch):
    def load_params(*_):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr(sampling_job, "load_params", load_params)


@pytest.fixture(scope="session")
def shared_data():
    folder = Path(os.environ.get("GOPD_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            "needs the shared data folder: ../shared/data beside the repository, or GOPD_SHARED_DATA"
        )
    return folder


# ---- What is written.


def test_samples_hold_their_verdicts(whole):
    records = samples(whole)
    assert len(records) == (6 + 6) * 4 and {r["benchmark"] for r in records.values()} == {
        "sums",
        "lines",
    }
    truth = {row["prompt_id"]: row["ground_truth"] for row in MATH}
    seen = set()
    for (name, _), r in records.items():
        seen.add((r["benchmark"], r["verdict"]))
        assert r["reward"] == (r["verdict"] == "correct") and r["finish_reason"] in (
            "stop",
            "length",
        )
        if r["benchmark"] == "sums":  # the tasks write whole numbers, so that the text decides
            assert r["answer"] is None or f"\\boxed{{{r['answer']}}}" in r["text"]
            assert r["reward"] == (
                r["answer"] is not None and r["answer"].strip().lstrip("0") == truth[name]
            )
        else:
            assert r["answer"] == r["text"]
    assert {("sums", "correct"), ("sums", "wrong"), ("lines", "wrong")} <= seen


def test_results_are_those_of_the_samples(whole):
    said, records = results(whole), list(samples(whole).values())
    assert said["complete"] and said["model"] == BASE and said["drawn"]["samples"] == 48
    for name, kind in (("sums", "math"), ("lines", "code")):
        ours, s = [r for r in records if r["benchmark"] == name], said["benchmarks"][name]
        by_problem = {
            p: [r["reward"] for r in ours if r["prompt_id"] == p] for p in s["by_problem"]
        }
        assert {p: x["score"] for p, x in s["by_problem"].items()} == {
            p: np.mean(x) for p, x in by_problem.items()
        }
        assert (s["reward"], s["samples"], s["problems"], s["skipped"]) == (
            kind,
            4,
            6,
            int(name == "sums"),
        )
        assert s["avg"] == accuracy([[np.mean(x) for x in by_problem.values()]]).to_json()
        assert s["avg"]["mean"] == pytest.approx(np.mean([r["reward"] for r in ours]))
        assert s["pass"].keys() == {"1", "2", "4"}
        assert s["pass"]["1"]["mean"] == pytest.approx(s["avg"]["mean"])
        assert s["pass"]["4"]["mean"] == pytest.approx(
            np.mean([max(x) for x in by_problem.values()])
        )
        assert s["mean_tokens"] == pytest.approx(np.mean([r["tokens"] for r in ours]))
        assert s["truncated"] == pytest.approx(
            np.mean([r["finish_reason"] == "length" for r in ours])
        )
        assert sum(s["verdicts"].values()) == 24
        assert s["verdicts"].get("no answer", 0) == sum(r["answer"] is None for r in ours)
    votes = []
    for problem in said["benchmarks"]["sums"]["by_problem"]:
        answers = [
            r["answer"] for r in records if r["prompt_id"] == problem and r["answer"] is not None
        ]
        right = sum(r["reward"] for r in records if r["prompt_id"] == problem)
        wrong = [
            r["answer"]
            for r in records
            if r["prompt_id"] == problem and r["answer"] is not None and not r["reward"]
        ]
        votes.append(majority(right, [wrong.count(a) for a in set(wrong)]))
        assert right + len(wrong) == len(answers)
    assert said["benchmarks"]["sums"]["majority"]["mean"] == pytest.approx(np.mean(votes))
    assert "majority" not in said["benchmarks"]["lines"]
    both = said["averages"]["average of all"]
    assert both["mean"] == pytest.approx(
        np.mean([said["benchmarks"][n]["avg"]["mean"] for n in ("sums", "lines")])
    )
    assert both["benchmarks"] == ["sums", "lines"]


def test_a_problem_over_a_limit_is_counted_and_not_in_the_mean(whole, copy, capsys):
    said = results(whole)
    assert (
        said["skipped"].keys() == {"long"}
        and "has 603 tokens: wanted at most" in said["skipped"]["long"]
    )
    assert "long" not in said["benchmarks"]["sums"]["by_problem"]
    assert command(copy, *OPTIONS) == 0
    table = capsys.readouterr().out
    assert (
        "skipped: 1 of 7 problems of sums are over a limit; its figures are over the other 6"
        in table
    )


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
    avg, verdicts = s["avg"], s["verdicts"]
    expected = [
        "6",
        "4",
        f"{100 * avg['mean']:.2f}",
        f"[{100 * avg['low']:.1f},",
        f"{100 * avg['high']:.1f}]",
    ]
    expected += [
        f"{100 * s['pass']['4']['mean']:.1f}",
        f"{100 * s['majority']['mean']:.1f}",
        f"{s['mean_tokens']:.1f}",
    ]
    expected += [f"{100 * s['truncated']:.1f}%", f"{100 * verdicts.get('no answer', 0) / 24:.1f}%"]
    assert line[1:-2] == expected


# ---- Going on.


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


def test_killed_and_resumed_is_never_killed(whole, copy):
    """A real kill, without a chance to clean up."""
    shutil.rmtree(copy / "out")
    program = (
        "import sys; from gopd_jax.evaluate.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = [
        f"--model={BASE}",
        f"--suite={copy}/sums.jsonl,{copy}/lines.jsonl",
        f"--out={copy}/out",
        *OPTIONS,
    ]
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
    assert (
        samples(copy) == samples(whole)
        and results(copy)["benchmarks"] == results(whole)["benchmarks"]
    )


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
    assert len(kept) == 5 and all(samples(whole)[name] == r for name, r in kept.items())


def test_a_complete_command_is_not_run_again(copy, no_weights, capsys):
    before = [(copy / "out" / name).read_bytes() for name in ("samples.jsonl", "results.json")]
    assert command(copy, *OPTIONS) == 0
    assert "complete already" in capsys.readouterr().err
    assert [
        (copy / "out" / name).read_bytes() for name in ("samples.jsonl", "results.json")
    ] == before


@pytest.mark.parametrize(
    "options, words",
    [
        (["--seed=8"], "seed is 8, was 3"),
        (
            ["--samples=2"],
            "benchmarks is {'sums': {'source': 'sums.jsonl', 'reward': 'math', 'samples': 2}",
        ),
        (["--prompt-suffix= ok?"], "prompts_fingerprint is"),
        (["--verifier-timeout=1"], "verifier_timeout is 1.0, was 10.0"),
        (["--model=" + tiny.model("math_teacher")], "model_fingerprint is"),
    ],
)
def test_another_command_does_not_touch_the_samples(copy, no_weights, capsys, options, words):
    before = (copy / "out" / "samples.jsonl").read_bytes()
    assert command(copy, *OPTIONS, *options) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        said.startswith("error: ") and words in said and "wanted the same, or another --out" in said
    )
    assert (copy / "out" / "samples.jsonl").read_bytes() == before


def test_other_ground_truths_are_another_command(copy, no_weights, capsys):
    write_rows(copy / "sums.jsonl", [MATH[0] | {"ground_truth": "1"}, *MATH[1:], LONG])
    assert command(copy, *OPTIONS) == 2
    assert "problems_fingerprint is" in capsys.readouterr().err


# ---- Comparing.


def test_compare_is_the_paired_difference(copy, capsys):
    assert command(copy, *OPTIONS, "--seed=4", f"--compare={copy}/out", out="new") == 0
    table, comparison = capsys.readouterr().out, results(copy, "new")["comparison"]
    scores = {
        (out, name): [
            p["score"] for p in results(copy, out)["benchmarks"][name]["by_problem"].values()
        ]
        for out in ("out", "new")
        for name in ("sums", "lines")
    }
    pairs = {name: (scores["new", name], scores["out", name]) for name in ("sums", "lines")}
    expected = {name: difference([pair]).to_json() for name, pair in pairs.items()}
    expected["average of all"] = difference(list(pairs.values())).to_json()
    assert comparison["differences"] == expected and scores["new", "sums"] != scores["out", "sums"]
    assert f"difference to {BASE} ({copy}/out), in points, paired by problem" in table
    d = expected["sums"]
    assert f"{100 * d['mean']:+8.2f}  [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]" in table


def test_a_finished_evaluation_is_compared_without_drawing(copy, no_weights, capsys):
    before = results(copy)
    assert command(copy, *OPTIONS, f"--compare={copy}/out") == 0
    after = results(copy)
    assert all(
        d["mean"] == d["low"] == d["high"] == 0
        for d in after.pop("comparison")["differences"].values()
    )
    assert (after["benchmarks"], after["drawn"]) == (before["benchmarks"], before["drawn"])


def test_compare_pairs_by_problem_whatever_the_order(copy, no_weights, capsys):
    """Reversed in the file of results: the same zeros."""
    shutil.copytree(copy / "out", copy / "turned")
    said = results(copy)
    for s in said["benchmarks"].values():
        s["by_problem"] = dict(reversed(s["by_problem"].items()))
    (copy / "turned" / "results.json").write_text(json.dumps(said))
    assert command(copy, *OPTIONS, f"--compare={copy}/turned") == 0
    assert all(d["high"] == 0 for d in results(copy)["comparison"]["differences"].values())


@pytest.mark.parametrize(
    "change, words",
    [
        (
            lambda s: s["benchmarks"].pop("lines"),
            "has no lines: wanted the same benchmarks, it has ['sums']",
        ),
        (
            lambda s: s["benchmarks"]["sums"]["by_problem"].popitem(),
            "1 problems of sums differ, or were scored on one side",
        ),
        (
            lambda s: next(iter(s["benchmarks"]["lines"]["by_problem"].values())).update(
                problem="x"
            ),
            "1 problems of lines",
        ),
        (lambda s: s.update(complete=False), "this evaluation was stopped before its end"),
        (lambda s: s.clear(), "wanted the results of an evaluation (KeyError"),
    ],
)
def test_compare_refuses_other_problems(copy, no_weights, capsys, change, words):
    said = results(copy)
    change(said)
    (copy / "other").mkdir()
    (copy / "other" / "results.json").write_text(json.dumps(said))
    assert command(copy, *OPTIONS, f"--compare={copy}/other", out="new") == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (copy / "new").exists()


# ---- Grading.


def test_votes_are_for_equal_answers():
    with Verifier(timeout_s=5.0) as verify:
        assert grading.vote(2, ["3", "7"], verify) == 1
        assert grading.vote(2, [r"\frac12", r"\sqrt{2}", r"\frac{1}{\sqrt{2}}"], verify) == 1
        assert (
            grading.vote(2, [r"\frac12", r"\sqrt{2}", "0.5", r"\frac{1}{\sqrt{2}}"], verify)
            == 1 / 2
        )
        assert (
            grading.vote(
                2, [r"\frac{1}{\sqrt{2}}", r"\frac{\sqrt{2}}{2}", r"\frac{ \sqrt 2}{2}"], verify
            )
            == 0
        )
        assert grading.vote(2, ["1,000", "1000.0", "4"], verify) == 1 / 2
        assert grading.vote(1, [r"\pi", "3", r"x^2"], verify) == 1 / 4
        assert grading.vote(0, [], verify) == 0


def test_the_verifier_is_asked_only_where_it_can_decide():
    def verify(items):
        raise AssertionError(items)

    assert grading.vote(3, ["a", "b"], verify) == 1  # more than all the others together
    assert grading.vote(0, ["a", "b"], verify) == 0
    assert grading.vote(1, ["a", "a", "b"], verify) == 0  # outvoted by the same text already


def test_what_goes_wrong_while_grading_stops_the_command(copy, monkeypatch, capsys):
    def fails(self, items):
        raise ValueError("no verifier today")

    monkeypatch.setattr(grading.Verifier, "__call__", fails)
    assert command(copy, *OPTIONS, out="new") == 2
    assert "no verifier today" in capsys.readouterr().err
    assert not results(copy, "new")["complete"]


def test_nothing_more_is_taken_once_grading_has_failed():
    grader = grading.Grader(None, None, [], None)
    grader._error = ValueError("no verifier today")
    with pytest.raises(ValueError, match="no verifier today"):
        grader.take(None)


def test_answers():
    assert (
        grading.answer_of("math", r"\boxed{1} \boxed{2}") == "2"
        and grading.answer_of("math", r"so 2, \boxed{ }") is None
    )
    assert (
        grading.answer_of("code", "say:\n```python\nx = 1\n```\n") == "x = 1\n"
        and grading.answer_of("code", " \n") is None
    )


# ---- Suites.


def test_known_names_are_looked_for_in_the_data_folder(tmp_path):
    for name in suites.SUITES["math"]:
        write_rows(tmp_path / f"{name}.jsonl", [{"problem": f"{name}: 1+1?", "answer": "2"}])
    loaded = suites.load("math", str(tmp_path))
    assert [b.name for b in loaded] == ["aime24", "aime25", "hmmt25_feb", "hmmt25_nov"]
    assert {(b.reward, b.samples) for b in loaded} == {("math", 32)}
    assert loaded[0].prompts[0].messages[0]["content"] == "aime24: 1+1?" + suites.MATH_SUFFIX
    (by_path,) = suites.load(f"{tmp_path}/aime24.jsonl", "")
    assert by_path == loaded[0]
    assert [b.name for b in suites.load("aime25,math", str(tmp_path))] == [
        "aime25",
        "aime24",
        "hmmt25_feb",
        "hmmt25_nov",
    ]


def test_suffix_and_reward_of_a_file_of_ones_own(tmp_path):
    rows = [
        {"prompt": "1+1?", "ground_truth": "2"},
        {"prompt": r"1+2? Answer in \boxed{}.", "ground_truth": "3"},
    ]
    path = str(write_rows(tmp_path / "mine.jsonl", rows))
    (own,) = suites.load(path, "")
    assert [p.messages[-1]["content"] for p in own.prompts] == [
        "1+1?" + suites.MATH_SUFFIX,
        rows[1]["prompt"],
    ]
    assert (own.name, own.reward, own.samples) == ("mine", "math", 32)
    (told,) = suites.load(path, "", samples=5, suffix=" Go.")
    assert [p.messages[-1]["content"] for p in told.prompts] == [
        "1+1? Go.",
        rows[1]["prompt"] + " Go.",
    ]
    assert told.samples == 5 and told.hashes == own.hashes
    (code,) = suites.load(str(write_rows(tmp_path / "code.jsonl", CODE)), "")
    assert (code.reward, code.samples) == ("code", 4) and list(code.prompts[0].messages) == CODE[0][
        "messages"
    ]
    embedded = suites._read(
        "tiny:math/test", str(write_rows(tmp_path / "math.jsonl", MATH)), "auto", None, None
    )
    assert list(embedded.prompts[0].messages) == MATH[0]["messages"]


def test_the_math_suite_of_the_paper(shared_data, tmp_path, capsys):
    """30 problems each; the first three of aime24 through the command, two of which are too long for the embedded model."""
    loaded = suites.load("math", str(shared_data))
    assert [len(b.prompts) for b in loaded] == [30] * 4
    assert all(
        p.messages[-1]["content"].endswith(suites.MATH_SUFFIX) for b in loaded for p in b.prompts
    )
    rows = (shared_data / "aime24.jsonl").read_text().splitlines()[:3]
    (tmp_path / "aime24.jsonl").write_text("\n".join(rows) + "\n")
    options = ["--samples=1", "--slots=2", "--max-tokens=16", f"--data={tmp_path}", "--verifiers=1"]
    assert command(tmp_path, *options, suite="aime24") == 0
    s = results(tmp_path)["benchmarks"]["aime24"]
    assert (
        s["problems"] + s["skipped"] == 3
        and s["skipped"]
        and len(samples(tmp_path)) == s["problems"]
    )


# ---- What is wrong.

GOOD = {"prompt": "1+1", "ground_truth": "2"}


@pytest.mark.parametrize(
    "rows, options, words",
    [
        (
            None,
            ["--suite=moth"],
            "no benchmark 'moth'; nearest: 'math'; wanted a suite (math, code), a name (aime24, ",
        ),
        (
            None,
            ["--suite=math"],
            "aime24: wanted --data=FOLDER, the folder that holds aime24.jsonl",
        ),
        (None, ["--suite=math", "--data=/nowhere"], "aime24: no such file: /nowhere/aime24.jsonl"),
        (None, ["--suite=/nowhere/x.jsonl"], "no such file: /nowhere/x.jsonl"),
        (None, ["--suite=tiny:art/test"], "tiny:art/test"),
        ([GOOD, '{"prompt": "1+1'], [], "rows.jsonl:2: not valid JSON"),
        ([GOOD, {"prompt": "1+1"}], [], "rows.jsonl:2: no ground truth"),
        (
            [GOOD | {"ground_truth": "$$"}],
            [],
            "rows.jsonl: prompt 'rows/000000': math ground truth '$$'",
        ),
        ([GOOD], ["--reward=code"], "rows.jsonl: prompt 'rows/000000': code ground truth has int"),
        ([GOOD], ["--reward=art"], "invalid choice: 'art' (choose from"),
        ([""], [], "rows.jsonl: no rows"),
        ([LONG], [], "none of 1 prompts is within the limits"),
        ([GOOD], ["--samples=5", "--slots=4"], "--samples=5: wanted at most --slots=4"),
        ([GOOD], ["--slots=4"], "--samples=32: wanted at most --slots=4"),
        ([GOOD], ["--samples=0"], "--samples=0: wanted an integer in [1, "),
        ([GOOD], ["--verifiers=0"], "--verifiers=0: wanted an integer in [1, "),
        ([GOOD], ["--verifier-timeout=0"], "--verifier-timeout=0.0: wanted seconds above 0"),
        ([GOOD], ["--max-tokens=512"], "--max-tokens=512: wanted less than the 512 positions"),
        ([GOOD], ["--temperature=-1"], "temperature=-1.0: wanted a number >= 0"),
        ([GOOD], ["--model=/nowhere"], "'/nowhere'"),
        (
            [GOOD],
            ["--compare=/nowhere"],
            "/nowhere/results.json: wanted the results of an evaluation",
        ),
        ([GOOD], ["--modl=x"], "unrecognized arguments: --modl=x"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_any_work(
    tmp_path, no_weights, capsys, rows, options, words
):
    if rows is not None:
        write_rows(tmp_path / "rows.jsonl", rows)
    assert command(tmp_path, *options, suite=f"{tmp_path}/rows.jsonl") == 2
    *before, said = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and words in said, said
    assert all(line.startswith("skipped: ") for line in before)
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_or_with_one_id(tmp_path, no_weights, capsys):
    (tmp_path / "a").mkdir()
    write_rows(tmp_path / "rows.jsonl", [GOOD])
    write_rows(tmp_path / "a" / "rows.jsonl", [GOOD])
    assert command(tmp_path, suite=f"{tmp_path}/rows.jsonl,{tmp_path}/a/rows.jsonl") == 2
    assert "are both 'rows': wanted each name once" in capsys.readouterr().err
    write_rows(tmp_path / "x.jsonl", [GOOD | {"prompt_id": "one"}])
    write_rows(tmp_path / "y.jsonl", [GOOD | {"prompt_id": "one"}])
    assert command(tmp_path, suite=f"{tmp_path}/x.jsonl,{tmp_path}/y.jsonl") == 2
    assert "prompt_id 'one' is in" in capsys.readouterr().err


def test_help_names_every_suite_and_its_examples_parse(capsys):
    assert command(Path("."), "--help") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in [*suites.SUITES, *suites.KNOWN])
    examples = [
        line.split()[3:]
        for line in said.splitlines()
        if line.startswith("  python -m gopd_jax.evaluate ")
    ]
    assert len(examples) == 3
    for example in examples:
        assert evaluate._parser().parse_args(example).out.startswith("results/")


def test_verdicts_of_one_kind_are_counted_together():
    benchmark = suites.Benchmark("b", "b", "code", 1, (), {})
    prompts = [suites.Prompt(str(i), (), "b", "") for i in range(4)]
    benchmark = suites.Benchmark("b", "b", "code", 1, tuple(prompts), dict.fromkeys("0123", "h"))
    details = ["error: NameError", "error: TypeError", "timeout", "correct"]
    records = [
        {
            "prompt_id": str(i),
            "reward": float(d == "correct"),
            "verdict": d,
            "tokens": 1,
            "finish_reason": "stop",
            "answer": "x",
        }
        for i, d in enumerate(details)
    ]
    s = scores.score([benchmark], records, {}, lambda items: [Verdict(0.0, "wrong")])["benchmarks"][
        "b"
    ]
    assert s["verdicts"] == {"error": 2, "timeout": 1, "correct": 1}
