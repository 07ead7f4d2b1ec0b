"""The report page: what is on it, and what may not get through it."""

import json
import math
from pathlib import Path
import re

import numpy as np
import pytest
from report_cases import edit_run, evaluation, make_run, metrics, sample, write_lines

from gopd_jax.evaluate.statistics import interval
from gopd_jax.report import numbers, page, read, samples

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"


def data_of(text):
    """The JSON that the page carries, found as a browser would: up to the first </script."""
    pattern = r'<script id="data" type="application/json">(.*?)</script'
    return json.loads(re.search(pattern, text, re.DOTALL)[1])


def page_of(*folders):
    text = page.html(read.read_runs(folders))
    return text, data_of(text)


def test_contract_checks_are_counted_and_those_that_did_not_pass_named(tmp_path):
    folder = make_run(tmp_path / "a")
    assert "contract checks" not in dict(page_of(folder)[1]["runs"][0]["facts"])
    states = {"sampler": "passed", "temperature": "passed", "stop_ids": "accepted"}
    checks = [{"name": n, "of": "student", "state": state} for n, state in states.items()]
    (tmp_path / "a/checks.json").write_text(json.dumps({"checks": checks}))
    facts = dict(page_of(folder)[1]["runs"][0]["facts"])
    assert facts["contract checks"] == "2 passed; accepted: stop_ids (student)"
    (tmp_path / "a/checks.json").write_text("{")
    assert "contract checks" not in dict(page_of(folder)[1]["runs"][0]["facts"])
    assert any("checks.json" in problem for problem in read.read_run(folder).problems)


def test_a_finished_run_is_told_in_full(tmp_path):
    text, data = page_of(make_run(tmp_path / "a"))
    run = data["runs"][0]
    assert run["finished"] and run["findings"] == [] and run["lastStep"] == 40
    facts = dict(run["facts"])
    assert facts["devices"] == "2 x cpu" and "uncommitted" in facts["gopd_jax"]
    assert facts["teacher of math"].endswith("lambda 1.25")
    assert facts["seed"] == "3" and run["commands"] == ["train.py --config=configs/math.py"]
    result = run["results"][0]
    assert result["verdict"] == "yes" and result["difference"][0] == pytest.approx(0.3125)
    expected = interval([0.75, 0.625, 0.625, 0.625] * 10)  # 0.5 + d / 2, in [0, 1] for any d
    low, high = 2 * expected.low - 1, 2 * expected.high - 1
    assert result["difference"][1:] == pytest.approx([low, high], rel=1e-4)
    assert result["teacher"]["interval"][0] == 0.375 and result["after"]["length"] == 12.5
    assert ["learner.reward_scale", "1.25", "1.25"] not in run["changed"]
    assert ["seed", "3", "0"] in run["changed"]
    curves = run["curves"]
    assert curves["values"]["reward"][-1] == pytest.approx(0.6) and curves["steps"][2] == [3, 3]
    assert run["positions"]["values"]["advantage_mean_by_position"][0] == [-1.0, -0.5, 0.25]
    assert run["phases"] == {"weight sync": 0.1, "rollout": 0.5, "score": 1.5}
    assert [s["step"] for s in run["samples"]] == [1, 10]
    titles = {chart["title"] for chart in data["charts"]}
    assert titles >= {"KL to the teacher", "Entropy", "Gradient norm"}
    assert {c["state"] for c in run["checks"]} == {"passed"} and data["reload"] is None
    assert "Held-out score" in text and len(text) < 100_000


def test_a_run_killed_before_its_first_step_has_a_page(tmp_path):
    (tmp_path / "run.json").write_text("{")
    run = page_of(str(tmp_path))[1]["runs"][0]
    assert run["lastStep"] == 0 and run["curves"]["steps"] == []
    assert "run.json cannot be read" in run["findings"][0]["text"]


def test_every_file_of_the_web_folder_is_on_the_page(tmp_path):
    text, _ = page_of(make_run(tmp_path / "a"))
    files = list((Path(page.__file__).parent / "web").iterdir())
    assert {f.name for f in files} == {page.STYLE, *page.SCRIPTS}
    assert all(f.read_text() in text for f in files)


def test_the_page_asks_nothing_of_a_network(tmp_path):
    text, _ = page_of(make_run(tmp_path / "a"))
    assert "default-src 'none'" in text
    code = re.sub(r'<script id="data".*?</script>', "", text, flags=re.DOTALL)
    code = code.replace("http://www.w3.org/2000/svg", "")
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
    texts = dict.fromkeys(("prompt", "verdict", "ground_truth"), HOSTILE)
    folder = make_run(tmp_path / "a", samples=[sample(1, tokens=[HOSTILE] * 4, **texts)])

    def make_hostile(run):
        run["config"]["name"] = run["starts"][0]["command"][0] = HOSTILE

    edit_run(tmp_path / "a", make_hostile)
    (tmp_path / "a/metrics.jsonl").open("a").write(HOSTILE + "\n")
    text, data = page_of(folder)
    assert text.lower().count("</script") == text.count("<script") == 2
    assert "<img" not in text and "<!--" not in text
    shown = data["runs"][0]["samples"][0]
    assert shown["tokens"][0] == HOSTILE
    assert {key: shown[key] for key in texts} == texts
    assert HOSTILE in data["runs"][0]["commands"][0]


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
    tie = interval([0.5] * 40)
    low, high = 2 * tie.low - 1, 2 * tie.high - 1
    assert versus[0] is versus[2] is None  # the third was measured on other prompts
    assert versus[1] == pytest.approx([0, low, high], rel=1e-4) and high > 0.08


def test_domains_have_curves_of_their_own(tmp_path):
    folder = make_run(tmp_path / "a", changes={"truncated/math": 0.01, "truncated/code": 0.4})
    edit_run(tmp_path / "a", lambda run: run["config"]["domains"].update(code={}))
    run = page_of(folder)[1]["runs"][0]
    assert run["slices"] == ["", "math", "code"]
    assert run["curves"]["values"]["truncated/code"][0] == 0.4


def test_long_runs_are_averaged_and_samples_cut(tmp_path):
    longer = {k: v * 500 for k, v in sample(1).items() if isinstance(v, list)}
    long = [sample(step, **longer) for step in range(1, 61)]
    steps = 3000
    text, data = page_of(make_run(tmp_path / "a", steps=steps, samples=long))
    run = data["runs"][0]
    curves = run["curves"]
    assert len(curves["steps"]) == numbers.MAX_POINTS
    assert curves["steps"][0] == [1, 8] and curves["steps"][-1][1] == steps
    reward = np.mean([metrics(step, steps)["reward"] for step in range(1, 9)])
    assert curves["values"]["reward"][0] == pytest.approx(reward, rel=1e-4)
    assert curves["values"]["advantage_min"][0] == -12.0  # of extremes the extreme
    below, above = reward - 0.05 / np.sqrt(8), reward + 0.1 / np.sqrt(8)
    assert curves["values"]["reward_low"][0] == pytest.approx(below, rel=1e-3)
    assert curves["values"]["reward_high"][0] == pytest.approx(above, rel=1e-3)
    assert "3,000 steps are drawn as 400 points" in data["notes"][0]
    tokens = [len(s["tokens"]) for s in run["samples"]]
    assert len(tokens) == samples.MAX_SAMPLES and max(tokens) <= samples.MAX_TOKENS
    first = run["samples"][0]
    assert first["left_out"] == [300, 1400] and len(first["advantage"]) == tokens[0] == 600
    assert sum(tokens) <= samples.TOTAL_TOKENS and len(text) < 2_500_000


def test_charts_without_a_value_are_left_out_and_named(tmp_path):
    quiet = make_run(tmp_path / "a", changes={"truncated": 0.0, "grad_norm": math.nan})
    _, data = page_of(quiet)
    titles = {chart["title"] for chart in data["charts"]}
    assert "Truncated" in data["emptyCharts"] and "Gradient norm" in data["emptyCharts"]
    assert "Entropy" in titles and not titles & set(data["emptyCharts"])
    _, data = page_of(quiet, make_run(tmp_path / "b", changes={"truncated": 0.01}))
    assert "Truncated" in {chart["title"] for chart in data["charts"]}  # one of the runs has it


def test_a_run_without_a_verifier_shows_what_was_measured(tmp_path):
    rewards = dict.fromkeys(("reward", "reward_low", "reward_high"))
    folder = make_run(tmp_path / "a", changes=rewards)
    measured = [
        {"step": step, "model": "student", "domain": "math", "prompts": 2, "samples": 4}
        | {"kl": kl, "kl_low": 0.05, "kl_high": 0.5, "kl_by_prompt": [kl - 0.01 * step, kl]}
        | {"top1_overlap": 0.5, "entropy": 0.2, "mean_tokens": 20.0, "truncated": 0.0}
        for step, kl in ((0, 0.3), (1, 0.1))
    ]
    write_lines(tmp_path / "a/evaluations.jsonl", measured)
    _, data = page_of(folder)
    run = data["runs"][0]
    assert run["results"] == [] and run["scores"] == {}
    (unscored,) = run["unscored"]
    half = 0.005 * 12.7062  # the t quantile of 1 degree of freedom
    assert unscored.pop("change") == pytest.approx([-0.205, -0.205 - half, -0.205 + half], 1e-3)
    assert unscored == {"domain": "math", "step": 1, "prompts": 2, "samples": 4}
    plain = {"top1_overlap": 0.5, "entropy": 0.2, "mean_tokens": 20.0, "truncated": 0.0}
    held_out = {key: [[step, value, None, None] for step in (0, 1)] for key, value in plain.items()}
    assert run["heldOut"]["math"] == held_out | {"kl": [[0, 0.3, 0.05, 0.5], [1, 0.1, 0.05, 0.5]]}
    assert "Reward of the step's samples" in data["emptyCharts"]


def test_scores_of_0_are_not_certain(tmp_path):
    folder = make_run(tmp_path / "a")
    zeros = [evaluation(model, 0, [0.0] * 8) for model in ("student", "teacher")]
    write_lines(tmp_path / "a/evaluations.jsonl", zeros)
    (result,) = page_of(folder)[1]["runs"][0]["results"]
    unseen = round(1 - 0.025 ** (1 / 8), 5)
    assert result["after"]["interval"] == [0, 0, unseen]
    assert result["difference"] == [0, -unseen, unseen] and result["verdict"] == "unclear"


def test_half_of_the_samples_are_those_that_all_runs_wrote(tmp_path):
    """Runs of other lengths: an even spread over each would have few steps in common."""
    first = [sample(step, prompt_id=f"p/{step}") for step in range(1, 101)]
    second = [sample(step, prompt_id=f"p/{step}") for step in range(50, 400)]
    folders = [
        make_run(tmp_path / name, samples=written)
        for name, written in (("a", first), ("b", second))
    ]
    shown = [{s["prompt_id"] for s in r["samples"]} for r in page_of(*folders)[1]["runs"]]
    assert [len(prompts) for prompts in shown] == [samples.MAX_SAMPLES] * 2
    assert len(shown[0] & shown[1]) >= samples.MAX_SAMPLES // 2


def test_commands_are_shown_as_they_are_typed(tmp_path):
    folder = make_run(tmp_path / "a")

    def start_twice(run):
        start = run["starts"][0]
        module = start | {"command": ["/env/gopd_jax/train/__main__.py", "--config=math"]}
        run["starts"] = [start, module]

    edit_run(tmp_path / "a", start_twice)
    assert page_of(folder)[1]["runs"][0]["commands"] == [
        "train.py --config=configs/math.py",
        "python -m gopd_jax.train --config=math",
    ]
