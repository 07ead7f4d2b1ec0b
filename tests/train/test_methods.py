"""Every source of a step's examples runs through the same loop; the student can be exported."""

import json

from field_cases import check_fields
import jax
import jax.numpy as jnp
from loop_cases import small
import numpy as np
import pytest

from gopd_jax import tiny
from gopd_jax.export.run import export
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params
from gopd_jax.models.huggingface import load_params
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.checkpoint import restore_params
from gopd_jax.train.run import run

QUICK = {"steps": 2, "eval.prompts": 8, "eval.every": 0}


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_multi_teacher_run_and_export(tmp_path):
    """The reference is not run on the rows of code, where lambda is 1."""
    changes = {"domains.code.reward_scale": 1.0, "log.samples": 64}
    config = small("configs/multi_teacher.py", **QUICK, **changes)
    result = run(config, str(tmp_path / "run"))
    scales = {name: domain["reward_scale"] for name, domain in result["domains"].items()}
    assert scales == {"math": 1.25, "code": 1.0}
    for record in metrics(tmp_path / "run"):
        tokens = record["tokens_trained/math"] + record["tokens_trained/code"]
        assert record["tokens_trained"] == tokens
        assert record["reverse_kl_teacher/math"] != record["reverse_kl_teacher/code"]
        assert record["kl_reference/code"] == 0
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    check_fields(tmp_path / "run", "several teachers", ["math", "code"])

    export(str(tmp_path / "run"), str(tmp_path / "out"), dtype="float32")
    model = load_config(str(tmp_path / "out"))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    exported = load_params(tmp_path / "out", model, jnp.float32, here)
    abstract = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=here), abstract_params(model)
    )
    _, trained = restore_params(str(tmp_path / "run"), None, abstract)
    jax.tree.map(np.testing.assert_array_equal, exported, trained)


@pytest.mark.slow
@pytest.mark.parametrize("truncation", ["mask", "drop"])
def test_truncated_rollouts_are_counted_and_not_trained_on(tmp_path, truncation):
    limit = {"rollout.max_response_tokens": 15, "learner.row_length": 0}
    config = small(**QUICK, **limit, **{"learner.truncation": truncation})
    run(config, str(tmp_path / "run"))
    for record in metrics(tmp_path / "run"):
        assert record["truncated_count"] > 0
        assert record["tokens_trained"] == record["rollout_tokens"] - 15 * record["truncated_count"]


@pytest.mark.slow
def test_grpo(tmp_path, monkeypatch):
    limits = []

    def recorded(**given):
        limits.append(given)
        return Verifier(**given)

    monkeypatch.setattr("gopd_jax.train.run.Verifier", recorded)
    given = {"workers": 2, "timeout_s": 3.5, "memory_mb": 300}
    changes = {"rollout.samples_per_prompt": 4, "rollout.prompts_per_step": 8}
    changes |= {f"verifier.{name}": value for name, value in given.items()}
    result = run(small(method="grpo", **QUICK, **changes), str(tmp_path / "run"))
    assert limits == [given]
    assert "teacher" not in result["domains"]["math"]["rows"]
    for record in metrics(tmp_path / "run"):
        assert record["advantage_max"] > 0 > record["advantage_min"]
        assert "reverse_kl_teacher" not in record
    check_fields(tmp_path / "run", "grpo")


@pytest.mark.slow
def test_sft_learns_from_the_given_answers(tmp_path):
    changes = QUICK | {
        "steps": 5,
        "domains.math.train": "tiny:math/noisy",
        "domains.math.teacher": "",
        "learner.learning_rate": 1e-2,
        "learner.updates_per_batch": 4,
    }
    run(small(method="sft", **changes), str(tmp_path / "run"))
    records = metrics(tmp_path / "run")
    assert all(r["advantage_min"] == r["advantage_max"] == 1 for r in records)
    assert all(np.isfinite(r["student_logprob"]) and r["truncated_count"] == 0 for r in records)
    # Nothing is clipped, however far the updates of a batch go: the loss is the likelihood.
    assert all(r["clip_fraction"] == 0 for r in records)
    losses, likelihoods = ([r[k] for r in records] for k in ("loss", "student_logprob"))
    np.testing.assert_allclose(losses, -np.array(likelihoods), rtol=0.1)
    assert losses[-1] < losses[0]
    check_fields(tmp_path / "run", "sft on given responses")


@pytest.mark.slow
def test_several_updates_from_one_rollout_batch(tmp_path):
    """At this learning rate the ratio leaves the clip range within one batch."""
    config = small(**QUICK, **{"learner.updates_per_batch": 4, "learner.learning_rate": 1e-2})
    run(config, str(tmp_path / "run"))
    first = metrics(tmp_path / "run")[0]
    assert first["tokens_trained"] == first["rollout_tokens"]
    assert first["clip_fraction"] > 0


@pytest.mark.slow
def test_teacher_equal_to_the_student_has_no_advantage(tmp_path, capsys):
    config = small(**QUICK, **{"domains.math.teacher": tiny.model("base")})
    run(config, str(tmp_path / "run"))
    assert "has the student's own weights" in capsys.readouterr().err
    first = metrics(tmp_path / "run")[0]
    assert max(abs(first["advantage_min"]), abs(first["advantage_max"])) < 1e-4
