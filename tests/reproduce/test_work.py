"""An arm is made and scored once; a stop loses nothing."""

import json

import pytest

from gopd_jax.reproduce import arms, work


@pytest.mark.slow
def test_an_arm_is_made_and_scored_once(tmp_path):
    size = arms.Size(2, 8, (8, 2), (4, 2))

    def run():
        return work.run(arms.ARMS["exopd_math"], 0, str(tmp_path), size)

    scores = run()
    math = scores["domains"]["math"]
    assert len(math["by_prompt"]) == 8 and math["length"] > 5
    folder = tmp_path / "seed0" / "exopd_math"
    assert json.loads((folder / "run.json").read_text())["config"]["steps"] == 2
    (folder / "scores.json").write_text(json.dumps(scores | {"seconds": -1}))
    assert run()["seconds"] == -1  # read, not made again
    (folder / "scores.json").unlink()
    assert run()["domains"] == scores["domains"]  # the model is there: it is scored, not trained


@pytest.mark.slow
def test_the_optimum_of_lambda_1_scores_what_the_teacher_does(tmp_path):
    size = arms.Size(2, 8, (16, 2), (4, 2))
    names = ("optimum_1", "math_teacher", "optimum_0.5")
    one, teacher, half = (
        work.run(arms.ARMS[name], 0, str(tmp_path), size)["domains"]["math"] for name in names
    )
    assert one == teacher != half
    assert not (tmp_path / "seed0" / "optimum_1" / "run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["base", "steps_teacher", "hinted_base"])
def test_a_given_model_is_scored_in_each_of_its_domains(tmp_path, name):
    scores = work.run(arms.ARMS[name], 0, str(tmp_path), arms.Size(2, 8, (32, 2), (8, 2)))
    assert set(scores["domains"]) == set(arms.ARMS[name].domains)
    for domain in scores["domains"].values():
        assert 0 < sum(domain["by_prompt"]) < len(domain["by_prompt"])
