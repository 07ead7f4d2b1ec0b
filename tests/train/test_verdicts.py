"""What a run says of itself at the terminal: once while it goes on, and all at its end."""

import json

from loop_cases import small

from gopd_jax.train import summary
from gopd_jax.train.verdicts import Verdicts

CONFIG = small(**{"learner.reward_scale": 1.0})


def write(folder, steps, **values):
    lines = [json.dumps({"step": step} | values) + "\n" for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(lines))


def test_what_is_grave_is_said_once_while_the_run_goes_on(tmp_path):
    verdicts = Verdicts(str(tmp_path), CONFIG)
    write(tmp_path, 3, truncated=0.0, kl_reference=2.0)
    assert verdicts.grave() == ""  # a look, which waits for the end
    write(tmp_path, 6, truncated=0.5, kl_reference=2.0)
    assert verdicts.grave().startswith("bad   Many responses are truncated: 50.0% at the start")
    assert verdicts.grave() == ""


def test_at_the_end_all_are_there_with_what_to_do(tmp_path):
    write(tmp_path, 6, truncated=0.5, kl_reference=2.0)
    found = Verdicts(str(tmp_path), CONFIG).to_json()
    assert [f["level"] for f in found] == ["bad", "look"]
    written = {"name": "a", "steps": 6, "rollout_tokens": 1, "training_seconds": 1.0, "domains": {}}
    lines = summary.table(written | {"findings": found}).splitlines()
    assert lines[2] == "What deserves attention:"
    assert lines[4].startswith("  look  The student is far from the reference: 2 nats per token")
    assert "lower lambda" in lines[4]


def test_a_run_in_order_says_nothing_more(tmp_path):
    write(tmp_path, 6, truncated=0.0)
    assert Verdicts(str(tmp_path), CONFIG).to_json() == []
