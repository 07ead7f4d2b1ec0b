"""The paper's experiments: every arm is a run that can be made, scores become intervals and verdicts, a stop loses nothing."""

import json

import numpy as np
import pytest
from scipy import stats

from gopd_jax.reproduce import __main__ as command
from gopd_jax.reproduce import arms, tables, work

SMALL = ["--seeds=2", "--steps=2", "--samples-per-step=8", "--prompts=8", "--jobs=1"]


def test_every_arm_makes_a_config_and_stands_after_what_it_needs(tmp_path):
    seen = set()
    for arm in arms.chosen(arms.GROUPS):
        assert set(arm.needs) <= seen, arm.name
        seen.add(arm.name)
        if arm.kind in ("given", "expo"):
            continue
        config = work.to_config(arm, 3, str(tmp_path), work.Size())
        assert config.method == arm.kind and config.seed == 3
        assert config.student == work.model_folder(arm.student, 3, str(tmp_path))
        if arm.kind == "gopd":
            assert config.learner.reward_scale == dict(arm.settings)["learner.reward_scale"]
        teachers = [work.model_folder(t, 3, str(tmp_path)) for t in arm.teachers] or [""]
        assert {name: d.teacher for name, d in config.domains.items()} == dict(
            zip(arm.domains, teachers, strict=True)
        )
    assert seen == set(arms.ARMS)


def test_only_the_corrected_arm_has_another_reference():
    assert {a.name: a.reference for a in arms.ARMS.values() if a.reference} == {
        "corrected_large": "large_base"
    }


def test_tables_and_claims_name_arms_that_exist():
    named = {row[1] for _, rows in tables.TABLES.values() for row in rows}
    assert named | {c for claim in tables.CLAIMS for c in claim[1:3]} <= set(arms.ARMS)
    assert named == set(arms.ARMS), "an arm that no table shows"
    assert set(tables.TABLES) == set(arms.GROUPS)


def test_intervals_and_verdicts():
    values = np.array([0.5, 0.52, 0.51, 0.55, 0.49])
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    found = tables.over_seeds(values)
    assert found["mean"] - found["half_width"] == pytest.approx(low) and found["mean"] + found[
        "half_width"
    ] == pytest.approx(high)
    verdicts = [tables.verdict({"mean": m, "half_width": 1.0}) for m in (1.5, -1.5, 0.5, -0.5)]
    assert verdicts == ["held", "not held", "unclear", "unclear"]


def test_differences_are_taken_within_a_seed():
    chosen = arms.chosen(("table3",))
    noise = [0.0, 0.2, -0.1]  # of the seed, common to all arms
    better = {"corrected_large": 0.03, "exopd_large": 0.02, "opd_large": 0.01}

    def scored(name, seed):
        value = 0.5 + noise[seed] + better.get(name, 0.0)
        return {"by_prompt": [value], "length": 16.0, "truncated": 0.0}

    scores = {
        (a.name, s): {"domains": {d: scored(a.name, s) for d in a.domains}}
        for a in chosen
        for s in range(3)
    }
    results = tables.summarise(scores, chosen, ["table3"], 3)
    claims = {(c["above"], c["below"]): c for c in results["claims"]}
    assert claims["exopd_large", "opd_large"]["mean"] == pytest.approx(0.01)
    assert (
        claims["exopd_large", "opd_large"]["half_width"] < 1e-4
        and claims["exopd_large", "opd_large"]["verdict"] == "held"
    )
    assert results["arms"]["opd_large"]["math"]["score"]["half_width"] > 0.1


def test_an_arm_is_made_and_scored_once(tmp_path, shared_compilations):
    size = work.Size(2, 8, (8, 2), (4, 2))
    run = lambda: work.run(arms.ARMS["exopd_math"], 0, str(tmp_path), size)  # noqa: E731
    scores = run()
    assert (
        len(scores["domains"]["math"]["by_prompt"]) == 8 and scores["domains"]["math"]["length"] > 5
    )
    folder = tmp_path / "seed0" / "exopd_math"
    assert json.loads((folder / "run.json").read_text())["config"]["steps"] == 2
    (folder / "scores.json").write_text(json.dumps(scores | {"seconds": -1}))
    assert run()["seconds"] == -1  # read, not made again
    (folder / "scores.json").unlink()
    assert run()["domains"] == scores["domains"]  # the model is there: it is scored, not trained


@pytest.mark.slow
def test_a_run_and_a_second_one_that_has_nothing_left_to_do(tmp_path, capsys, shared_compilations):
    arguments = [*SMALL, f"--out={tmp_path / 'out'}", "--only=table3"]
    assert command.main(arguments) == 0
    out = capsys.readouterr().err
    assert "reward correction > ExOPD" in out and "Table 3" in out and "Table 2" not in out
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"table3.png"}
    text = (tmp_path / "out" / "results.md").read_text()
    assert "table3.png" in text and "| OPD |" in text
    lines = [
        json.loads(line) for line in (tmp_path / "out" / "arms.jsonl").read_text().splitlines()
    ]
    assert len(lines) == 2 * len(arms.chosen(("table3",)))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("scores.json")}
    assert command.main(arguments) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("scores.json")}
    assert len((tmp_path / "out" / "arms.jsonl").read_text().splitlines()) == len(lines)
    assert command.main([*arguments, "--steps=3"]) == 2
    assert "another size" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option, message",
    [("--only=table9", "table9: wanted some of table2"), ("--seeds=1", "--seeds=1")],
)
def test_wrong_commands_end_in_one_line(tmp_path, capsys, option, message):
    assert command.main([*SMALL, f"--out={tmp_path / 'out'}", option]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
