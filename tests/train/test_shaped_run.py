"""A run with every shaping that goes together: it trains, and its files say what was shaped."""

import json

from field_cases import CONDITIONS, SCORED
from loop_cases import small
import pytest

from gopd_jax.train.fields import names
from gopd_jax.train.run import run
from gopd_jax.train.shaping_fields import EXACT, INSPECTED, SHAPING

SHAPED = {
    "steps": 2,
    "rollout.samples_per_prompt": 2,
    "rollout.prompts_per_step": 8,
    "eval.prompts": 8,
    "eval.every": 2,
    "learner.reward_scale": 1.0,
    "log.inspected": 2,
    "log.samples_every": 1,
    "objective.estimator": "sampled_baseline",
    "objective.top_k": 4,
    "shaping.reward_scale_start": 2.0,
    "shaping.reward_scale_steps": 1,
    "shaping.gate_tau": 1.0,
    "shaping.log_ratio_clip": 1.0,
    "shaping.box_cox": 0.5,
    "shaping.advantage_clip": 0.5,
    "shaping.return_discount": 0.5,
    "shaping.keep_states": 0.5,
    "shaping.forward_kl": 0.1,
    "shaping.forward_kl_entropy": 0.1,
    "shaping.kl_coefficient": 0.1,
    "shaping.kl_coefficient_steps": 2,
    "shaping.position_half_life": 4,
    "shaping.prefix_limit": 6,
    "shaping.task_reward": 0.2,
    "shaping.truncation_penalty": 0.1,
}


@pytest.mark.slow
def test_a_run_with_every_shaping(tmp_path):
    """Its last step has lambda 1: the programs and the reference stay those of the first."""
    run(small(**SHAPED), str(tmp_path))
    first, last = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    expected = set(names(SHAPING, CONDITIONS["shaped"]))
    assert expected == set(names(SHAPING, CONDITIONS["shaped"] - SCORED)) and len(expected) == 6
    also = set(names((*EXACT, *INSPECTED), CONDITIONS["shaped"]))
    for line in (first, last):
        assert expected | also <= set(line) and len(also) == 12
        assert line["tokens_trained"] <= 6 * 16 and line["grad_norm"] > 0
        assert line["verified"] == 16
        assert 0.5 <= line["states_kept"] < 1
    assert 1 < first["reward_scale"] < 2 and last["reward_scale"] == 1
    assert first["compilations"] == last["compilations"]
    assert last["kl_reference"] != 0
