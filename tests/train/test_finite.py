"""A run that meets a number that is not finite ends before anything is learned from it or saved."""

import json

from loop_cases import small
import pytest

from gopd_jax.runtime.errors import NonFiniteError
from gopd_jax.train.run import run


@pytest.mark.slow
def test_a_run_that_overflows_stops_and_keeps_what_was_good(tmp_path):
    """The first update makes the parameters so large that the second has no finite gradient."""
    few = {"steps": 3, "eval.prompts": 4, "eval.every": 0}
    config = small(**few, **{"learner.learning_rate": 1e38, "learner.schedule": "constant"})
    with pytest.raises(NonFiniteError, match=r"step \d, update 1.*are not finite, prompts 'math"):
        run(config, str(tmp_path))
    (dump,) = tmp_path.glob("nonfinite_step_*.jsonl")
    step = int(dump.stem.rpartition("_")[2])
    samples = [json.loads(line) for line in dump.read_text().splitlines()]
    assert samples and {"tokens", "teacher_logprobs", "advantages"} <= set(samples[0])
    logged = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in logged] == list(range(1, step))
    saved = [int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]
    assert max(saved, default=0) < step
    assert not (tmp_path / "summary.json").exists()
