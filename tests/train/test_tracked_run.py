"""A whole run in trackers: each step once, also when it was stopped in between."""

import json
from pathlib import Path
import signal
import sys

from loop_cases import small
import pytest

from gopd_jax.runtime.errors import Stopped
from gopd_jax.train.evaluations import Evaluator
from gopd_jax.train.run import run

STAND_INS = Path(__file__).parents[1] / "stand_ins"


@pytest.mark.slow
def test_a_stopped_run_is_continued_in_its_trackers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(STAND_INS))
    for name in ("wandb", "trackio"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    config = small(**{"log.trackers": ("wandb", "trackio")})
    evaluate = Evaluator.student

    def stops_at_4(self, params, step):
        if step == 4:
            raise Stopped(signal.SIGTERM)
        return evaluate(self, params, step)

    monkeypatch.setattr(Evaluator, "student", stops_at_4)
    with pytest.raises(Stopped):
        run(config, str(tmp_path))
    monkeypatch.setattr(Evaluator, "student", evaluate)
    run(config, str(tmp_path))

    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rows = [(m.pop("step"), {k: v for k, v in m.items() if type(v) is not list}) for m in metrics]
    lines = (tmp_path / "evaluations.jsonl").read_text().splitlines()
    scores = [
        (e["step"], {f"score_{e['model']}/{e['domain']}": e["mean"]})
        for e in map(json.loads, lines)
    ]
    for name in ("wandb", "trackio"):
        calls = sys.modules.pop(name).calls
        logged = [call[1:] for call in calls if call[0] == "log"]
        assert [call for call in logged if "reward" in call[1]] == rows
        # The server has step 4 already, so that the scores of that step are shown at the next.
        at = [(5 if name == "wandb" and step == 4 else step, values) for step, values in scores]
        assert [call for call in logged if "reward" not in call[1]] == at
        first, second = (call[1] for call in calls if call[0] == "config")
        assert first == second and first["seed"] == config.seed and first["fingerprints"]["data"]
        ends = [call[1:] for call in calls if call[0] == "finish"]
        assert ends == ([(1,), (0,)] if name == "wandb" else [(), ()])
    assert not (tmp_path / "tensorboard").exists()
