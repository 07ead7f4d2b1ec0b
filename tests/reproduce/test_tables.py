"""Scores over seeds become intervals, verdicts and claims."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import stats

from gopd_jax.reproduce import arms, pictures, tables


def test_intervals():
    values = np.array([0.5, 0.52, 0.51, 0.55, 0.49])
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    found = tables.over_seeds(values)
    assert (found["low"], found["high"]) == pytest.approx((low, high))


def test_seeds_that_all_score_0_have_the_interval_of_their_prompts():
    scored = {"by_prompt": [0.0] * 8, "length": 16.0, "truncated": 1.0}
    arm = arms.chosen(("table3",))[0]
    scores = {(arm.name, s): {"domains": dict.fromkeys(arm.domains, scored)} for s in range(3)}
    score = tables.summarise(scores, [arm], ["table3"], 3)["arms"][arm.name]["math"]["score"]
    assert (score["mean"], score["low"]) == (0, 0)
    assert score["high"] == pytest.approx(1 - 0.025 ** (1 / 8))


def test_one_seed_has_no_interval_and_none_is_printed():
    results = {"seeds": 1, "groups": [], "arms": {}}
    claim = {"claim": "a > b", "domain": "math", "verdict": "unclear"}
    text = tables.text(results | {"claims": [claim | tables.over_seeds([0.01])]})
    assert "+1.00  unclear" in text and "inf" not in text


@pytest.mark.parametrize(
    "mean, verdict", [(1.5, "held"), (-1.5, "not held"), (0.5, "unclear"), (-0.5, "unclear")]
)
def test_verdicts(mean, verdict):
    assert tables.verdict({"low": mean - 1, "high": mean + 1}) == verdict


def test_differences_are_taken_within_a_seed():
    chosen = arms.chosen(("table3",))
    noise = [0.0, 0.2, -0.1]  # of the seed, common to all arms
    better = {"corrected_large": 0.03, "exopd_large": 0.02, "opd_large": 0.01}

    def scored(name, seed):
        value = 0.5 + noise[seed] + better.get(name, 0.0)
        return {"by_prompt": [value], "length": 16.0, "truncated": 0.0}

    scores = {
        (arm.name, seed): {"domains": {d: scored(arm.name, seed) for d in arm.domains}}
        for arm in chosen
        for seed in range(3)
    }
    results = tables.summarise(scores, chosen, ["table3"], 3)
    claims = {(c["above"], c["below"]): c for c in results["claims"]}
    claim = claims["exopd_large", "opd_large"]
    assert claim["mean"] == pytest.approx(0.01)
    assert claim["high"] - claim["low"] < 1e-4 and claim["verdict"] == "held"
    score = results["arms"]["opd_large"]["math"]["score"]
    assert score["high"] - score["low"] > 0.2


def test_steps_shows_score_length_and_the_share_cut_and_is_drawn_against_lambda(tmp_path):
    chosen = arms.chosen(("steps",))
    scored = {"by_prompt": [0.25, 0.75], "length": 29.5, "truncated": 0.0625}
    scores = {(a.name, s): {"domains": {"steps": scored}} for a in chosen for s in range(2)}
    results = tables.summarise(scores, chosen, ["steps"], 2)
    cells = [line.split() for line in tables.text(results).splitlines() if "lambda 2  " in line]
    assert cells == [["lambda", "2", "50.0", "±", "0.0", "29.50", "±", "0.00", "6.2", "±", "0.0"]]
    assert [c["domain"] for c in results["claims"]] == ["steps"] * 13  # 8 of them on controls
    assert pictures.draw(results, tmp_path) == ["steps.png"]
    height, width = plt.imread(tmp_path / "steps.png").shape[:2]
    assert width > 3 * height  # three panels


def test_a_domain_with_one_arm_has_no_panel(tmp_path, monkeypatch):
    """Group preview: the student's start is scored by code, too, and no other arm is."""
    drawn = []
    panels = pictures.figures.panels
    monkeypatch.setattr(
        pictures.figures, "panels", lambda *args, **k: drawn.append(args[:2]) or panels(*args, **k)
    )
    scored = {"by_prompt": [0.25, 0.75], "length": 16.0, "truncated": 0.0}
    for group, columns in (("preview", 1), ("controls", 2)):
        chosen = arms.chosen((group,))
        scores = {
            (a.name, s): {"domains": dict.fromkeys(a.domains, scored)}
            for a in chosen
            for s in range(2)
        }
        pictures.draw(tables.summarise(scores, chosen, [group], 2), tmp_path)
        assert drawn.pop() == (1, columns)
