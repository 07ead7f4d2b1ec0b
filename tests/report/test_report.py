"""The report page, from hand-made run folders: what is on it, what may not get through it, and folders that are not whole."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from gopd_jax.report import __main__ as command
from gopd_jax.report import findings, numbers, page, read

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"


def config(**learner):
    domain = {
        "train": "a.jsonl",
        "test": "b.jsonl",
        "teacher": "models/teacher",
        "reward_scale": None,
    }
    rollout = {"prompts_per_step": 8, "samples_per_prompt": 2, "max_response_tokens": 64}
    return {
        "name": "run",
        "student": "models/student",
        "method": "gopd",
        "steps": 40,
        "seed": 3,
        "domains": {"math": domain},
        "rollout": rollout,
        "learner": {"reward_scale": 1.25, "learning_rate": 1e-5} | learner,
    }


def metrics(step, steps, **changes):
    """A healthy step; `changes` are values, or functions of how far the run is (0 to 1)."""
    far = step / steps
    values = {
        "step": step,
        "reward": 0.3 + 0.3 * far,
        "reward_half_width": 0.05,
        "response_length": 50.0,
        "truncated": 0.01,
        "repetition_rate": 0.0,
        "reverse_kl_teacher": 0.2 - 0.1 * far,
        "kl_reference": 0.1,
        "entropy": 0.4,
        "grad_norm": 1.0,
        "advantage_mean": -0.2,
        "advantage_abs": 0.3,
        "advantage_min": -4.0 - step,
        "advantage_max": 2.0,
        "sampler_gap": 1e-3,
        "importance_capped": 0.0,
        "compilations": 20,
        "seconds": 2.0,
        "seconds_rollout": 0.5,
        "seconds_score": 1.5,
        "tokens_by_position": [16.0, 16.0, 8.0],
        "advantage_mean_by_position": [-1.0, -0.5, 0.25],
    }
    return values | {k: v(far) if callable(v) else v for k, v in changes.items()}


def sample(step, **changes):
    n = 4
    values = {
        "step": step,
        "prompt_id": "p/1",
        "sample_id": 0,
        "domain": "math",
        "prompt": "1+1?",
        "response": "two\n",
        "ground_truth": "2",
        "reward": 1.0,
        "verdict": "correct",
        "finish_reason": "stop",
        "tokens": ["t", "w", "o", "\n"],
        "advantages": [0.5, -0.25, 0.0, 1.0],
        "student_logprobs": [-1.0] * n,
        "teacher_logprobs": [-0.5] * n,
        "behaviour_logprobs": [-1.0] * n,
    }
    return values | changes


def evaluation(model, step, by_prompt):
    return {
        "step": step,
        "model": model,
        "domain": "math",
        "by_prompt": by_prompt,
        "samples": 2,
        "tokens": 1000,
        "truncated": 0.0,
    }


def make_run(
    folder, steps=40, finished=True, samples=None, fingerprint="d", changes=None, **learner
):
    """Writes a run's folder and returns its path. The student ends 0.25 above its teacher on each of 40 prompts, or 0.5."""
    folder.mkdir(parents=True)
    start = {
        "time": "2026-01-02T03:04:05+0000",
        "command": ["train.py", "--config=configs/math.py"],
        "git_commit": "abc123",
        "git_changed": True,
        "gopd_jax": "0.1.0",
        "python": "3.11",
        "packages": {"jax": "0.10"},
        "devices": ["cpu", "cpu"],
    }
    about = {
        "config": config(**learner),
        "fingerprints": {"data": {"math/test": fingerprint}},
        "starts": [start],
    }
    (folder / "run.json").write_text(json.dumps(about))
    teacher = [0.25, 0.5] * 20
    evaluations = [
        evaluation("student", 0, [0.0] * 40),
        evaluation("teacher", 0, teacher),
        evaluation("student", steps, [t + (0.25 if i % 4 else 0.5) for i, t in enumerate(teacher)]),
    ]
    write_lines(folder / "evaluations.jsonl", evaluations)
    write_lines(
        folder / "metrics.jsonl", [metrics(s, steps, **changes or {}) for s in range(1, steps + 1)]
    )
    write_lines(
        folder / "samples.jsonl", [sample(s) for s in (1, 10)] if samples is None else samples
    )
    if finished:
        (folder / "summary.json").write_text(
            json.dumps({"training_seconds": 80.0, "rollout_tokens": 32000})
        )
    return str(folder)


def write_lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))


def data_of(text):
    """The JSON that the page carries, found as a browser would: up to the first </script."""
    return json.loads(
        re.search(r'<script id="data" type="application/json">(.*?)</script', text, re.DOTALL)[1]
    )


def page_of(*folders):
    text = page.html(read.read_runs(folders))
    return text, data_of(text)


def titles(folder):
    return {f.title: f for f in findings.findings(read.read_runs([folder])[0])}


def test_a_finished_run_is_told_in_full(tmp_path):
    text, data = page_of(make_run(tmp_path / "a"))
    run = data["runs"][0]
    assert run["finished"] and run["findings"] == [] and run["lastStep"] == 40
    facts = dict(run["facts"])
    assert (
        facts["devices"] == "2 x cpu"
        and "uncommitted" in facts["gopd_jax"]
        and facts["teacher of math"].endswith("lambda 1.25")
    )
    assert facts["seed"] == "3" and run["commands"] == ["train.py --config=configs/math.py"]
    result = run["results"][0]
    assert result["verdict"] == "yes" and result["difference"][0] == pytest.approx(0.3125)
    expected = np.array([0.5, 0.25, 0.25, 0.25] * 10)
    assert result["difference"][1] == pytest.approx(
        2.0227 * expected.std(ddof=1) / math.sqrt(40), rel=1e-4
    )
    assert result["teacher"]["mean"] == 0.375 and result["after"]["length"] == 12.5
    assert ["learner.reward_scale", "1.25", "1.25"] not in run["changed"] and [
        "seed",
        "3",
        "0",
    ] in run["changed"]
    assert run["curves"]["values"]["reward"][-1] == pytest.approx(0.6) and run["curves"]["steps"][
        2
    ] == [3, 3]
    assert run["positions"]["values"]["advantage_mean_by_position"][0] == [-1.0, -0.5, 0.25]
    assert run["phases"] == {"rollout": 0.5, "score": 1.5} and [
        s["step"] for s in run["samples"]
    ] == [1, 10]
    assert {c["title"] for c in data["charts"]} >= {
        "KL to the teacher",
        "Entropy",
        "Gradient norm",
        "Learning rate",
    }
    assert "Held-out score" in text and len(text) < 100_000


def test_the_page_asks_nothing_of_a_network(tmp_path):
    text, _ = page_of(make_run(tmp_path / "a"))
    assert "default-src 'none'" in text
    code = re.sub(r'<script id="data".*?</script>', "", text, flags=re.DOTALL).replace(
        "http://www.w3.org/2000/svg", ""
    )
    for way in (
        r"https?:",
        r"<link",
        r"<img",
        r"\bsrc\s*=",
        r"@import",
        r"url\(",
        r"fetch\(",
        r"XMLHttpRequest",
        r"import\(",
    ):
        assert not re.search(way, code), way
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "DOMParser"):
        assert way not in code, way


def test_hostile_texts_stay_data(tmp_path):
    folder = make_run(
        tmp_path / "a",
        samples=[
            sample(1, tokens=[HOSTILE] * 4, prompt=HOSTILE, verdict=HOSTILE, ground_truth=HOSTILE)
        ],
    )
    about = json.loads((tmp_path / "a/run.json").read_text())
    about["config"]["name"] = about["starts"][0]["command"][0] = HOSTILE
    (tmp_path / "a/run.json").write_text(json.dumps(about))
    (tmp_path / "a/metrics.jsonl").open("a").write(HOSTILE + "\n")
    text, data = page_of(folder)
    assert (
        text.lower().count("</script") == text.count("<script") == 2
        and "<img" not in text
        and "<!--" not in text
    )
    shown = data["runs"][0]["samples"][0]
    assert (
        shown["tokens"][0]
        == shown["prompt"]
        == shown["verdict"]
        == shown["ground_truth"]
        == HOSTILE
    )
    assert HOSTILE in data["runs"][0]["commands"][0]


def test_broken_lines_are_named_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path / "a")
    path = tmp_path / "a/metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = "{not json"
    lines[9] = json.dumps({"reward": 1.0})
    path.write_text("\n".join([*lines, '{"step": 41, "rew']))
    (tmp_path / "a/samples.jsonl").write_text('[1]\n{"step": 1}\n')
    problems = titles(folder)["Files that could not be read in full"].text
    for wanted in (
        "metrics.jsonl line 7: not JSON",
        "metrics.jsonl line 10: no step",
        "metrics.jsonl line 41: cut short",
        "samples.jsonl line 1: no step",
        "samples.jsonl line 2: no tokens",
    ):
        assert wanted in problems
    _, data = page_of(folder)
    assert len(data["runs"][0]["curves"]["steps"]) == 38 and data["runs"][0]["samples"] == []


def test_a_run_that_goes_on_is_shown_as_far_as_it_got(tmp_path):
    folder = make_run(tmp_path / "a", steps=12, finished=False)
    assert list(titles(folder)) == ["Unfinished at step 12 of 40"]
    first = tmp_path / "first"  # killed before its first step
    first.mkdir()
    (first / "run.json").write_text("{")
    run = page_of(str(first))[1]["runs"][0]
    assert (
        run["lastStep"] == 0
        and run["curves"]["steps"] == []
        and "run.json cannot be read" in run["findings"][0]["text"]
    )


def test_several_runs_share_the_page(tmp_path):
    folders = [
        make_run(tmp_path / "x/run"),
        make_run(tmp_path / "y/run", reward_scale=1.0),
        make_run(tmp_path / "z/run", fingerprint="e"),
    ]
    _, data = page_of(*folders, folders[0] + "/")
    assert [r["label"] for r in data["runs"]] == ["x/run", "y/run", "z/run"]
    assert data["differences"] == [["learner.reward_scale", "1.25", "1.0", "1.25"]]
    versus = [r["results"][0].get("versus") for r in data["runs"]]
    assert versus == [None, [0.0, 0.0], None]  # the third was measured on other prompts


def test_long_runs_are_averaged_and_samples_cut(tmp_path):
    long = [
        sample(s, **{k: v * 500 for k, v in sample(s).items() if isinstance(v, list)})
        for s in range(1, 61)
    ]
    steps = 3000
    text, data = page_of(make_run(tmp_path / "a", steps=steps, samples=long))
    run = data["runs"][0]
    curves = run["curves"]
    assert (
        len(curves["steps"]) == numbers.MOST_POINTS
        and curves["steps"][0] == [1, 8]
        and curves["steps"][-1][1] == steps
    )
    first = [metrics(s, steps) for s in range(1, 9)]
    assert curves["values"]["reward"][0] == pytest.approx(
        np.mean([m["reward"] for m in first]), rel=1e-4
    )
    assert curves["values"]["advantage_min"][0] == -12.0  # of extremes the extreme
    assert curves["values"]["reward_half_width"][0] == pytest.approx(0.05 / math.sqrt(8), rel=1e-3)
    assert "3,000 steps are drawn as 400 points" in data["notes"][0]
    tokens = [len(s["tokens"]) for s in run["samples"]]
    assert len(tokens) == numbers.SAMPLES_OF_A_RUN and max(tokens) <= numbers.TOKENS_OF_A_SAMPLE
    assert (
        run["samples"][0]["left_out"] == [300, 1400]
        and len(run["samples"][0]["advantage"]) == tokens[0] == 600
    )
    assert sum(tokens) <= numbers.SAMPLE_TOKENS and len(text) < 2_500_000


@pytest.mark.parametrize(
    "title, changes",
    [
        ("Many answers are cut at the limit", {"truncated": 0.3}),
        ("Many answers are cut at the limit", {"truncated": lambda far: 0.1 * far}),
        ("Answers grow long", {"response_length": lambda far: 50 + 100 * far}),
        ("Answers grow short", {"response_length": lambda far: 50 - 40 * far}),
        ("Answers end in a loop", {"repetition_rate": 0.1}),
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
    found = titles(make_run(tmp_path / "a", changes=changes))
    assert list(found) == [title]
    assert found[title].text and found[title].todo


def test_a_gradient_norm_that_falls_over_the_run_is_no_spike(tmp_path):
    assert not titles(
        make_run(tmp_path / "a", changes={"grad_norm": lambda far: 20 * math.exp(-5 * far)})
    )


def test_warnings_name_the_domain_and_the_worst_come_first(tmp_path):
    folder = make_run(
        tmp_path / "a",
        changes={
            "truncated/math": 0.01,
            "truncated/code": 0.4,
            "compilations": lambda far: round(20 + 10 * far),
        },
    )
    about = json.loads((tmp_path / "a/run.json").read_text())
    about["config"]["domains"]["code"] = about["config"]["domains"]["math"]
    (tmp_path / "a/run.json").write_text(json.dumps(about))
    run = page_of(folder)[1]["runs"][0]
    assert list(titles(folder)) == [
        "Many answers are cut at the limit, code",
        "Programs compiled during the run",
    ]
    assert (
        run["slices"] == ["", "math", "code"]
        and run["curves"]["values"]["truncated/code"][0] == 0.4
    )


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path / "a", finished=False, steps=5)
    assert command.main([folder]) == 0
    assert (
        "a: unfinished at step 5" in capsys.readouterr().out
        and (tmp_path / "report.html").stat().st_size > 10_000
    )
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["nowhere"], "no such folder"),
        (["empty"], "neither run.json nor metrics.jsonl"),
        ([folder, "--out=missing/report.html"], "missing/report.html"),
    ):
        assert command.main(arguments) == 2
        assert message in capsys.readouterr().err


def test_help_needs_no_heavy_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "gopd_jax.report", "--help"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "unfinished run is shown as far as it got" in done.stdout
    assert " jax\n" not in done.stderr
