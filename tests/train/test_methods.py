"""Every source of a step's inputs runs through the same loop, and its student comes out as a Hugging Face folder."""

import json

import jax
import jax.numpy as jnp
from loop_cases import small
import numpy as np
import pytest

from gopd_jax import export, train
from gopd_jax.models.config import load_config
from gopd_jax.models.decoder import abstract_params
from gopd_jax.models.huggingface import load_params
from gopd_jax.rewards.verifier import Verifier
from gopd_jax.runtime.checkpoint import restore_params

QUICK = {"steps": 2, "eval.prompts": 8, "eval.every": 0}


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_multi_teacher_run_and_export(tmp_path):
    config = small("configs/multi_teacher.py", **QUICK, **{"domains.code.reward_scale": 1.0})
    result = train.run(config, str(tmp_path / "run"))
    assert set(result["domains"]) == {"math", "code"}
    assert (
        result["domains"]["math"]["reward_scale"] == 1.25
        and result["domains"]["code"]["reward_scale"] == 1.0
    )
    for record in metrics(tmp_path / "run"):
        assert (
            record["tokens_trained"]
            == record["tokens_trained/math"] + record["tokens_trained/code"]
        )
        assert record["reverse_kl_teacher/math"] != record["reverse_kl_teacher/code"]
        assert (
            record["kl_reference/code"] == 0
        )  # lambda = 1: the reference was not run on these rows
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000

    export.export(str(tmp_path / "run"), str(tmp_path / "out"), dtype="float32")
    model = load_config(str(tmp_path / "out"))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    exported = load_params(tmp_path / "out", model, jnp.float32, here)
    abstract = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=here), abstract_params(model)
    )
    _, trained = restore_params(str(tmp_path / "run"), None, abstract)
    jax.tree.map(np.testing.assert_array_equal, exported, trained)


@pytest.mark.parametrize("truncation", ["mask", "drop"])
def test_truncated_rollouts_are_counted_and_not_trained_on(tmp_path, truncation):
    config = small(
        **QUICK,
        **{
            "learner.truncation": truncation,
            "rollout.max_response_tokens": 15,
            "learner.row_length": 0,
        },
    )
    train.run(config, str(tmp_path / "run"))
    for record in metrics(tmp_path / "run"):
        assert record["truncated_count"] > 0
        assert record["tokens_trained"] == record["rollout_tokens"] - 15 * record["truncated_count"]


def test_grpo(tmp_path, monkeypatch):
    limits = []
    monkeypatch.setattr(
        train, "Verifier", lambda **limit: limits.append(limit) or Verifier(**limit)
    )
    verifier = {"verifier.workers": 2, "verifier.timeout_s": 3.5, "verifier.memory_mb": 300}
    config = small(
        method="grpo",
        **QUICK,
        **verifier,
        **{"rollout.samples_per_prompt": 4, "rollout.prompts_per_step": 8},
    )
    result = train.run(config, str(tmp_path / "run"))
    assert limits == [{"workers": 2, "timeout_s": 3.5, "memory_mb": 300}]
    assert "teacher" not in result["domains"]["math"]["rows"]
    for record in metrics(tmp_path / "run"):
        assert record["advantage_max"] > 0 > record["advantage_min"]
        assert "reverse_kl_teacher" not in record


def test_sft_lowers_the_loss_of_the_given_answers(tmp_path):
    changes = QUICK | {
        "steps": 5,
        "domains.math.train": "tiny:math/noisy",
        "domains.math.teacher": "",
        "learner.learning_rate": 3e-3,
    }
    train.run(small(method="sft", **changes), str(tmp_path / "run"))
    records = metrics(tmp_path / "run")
    assert all(r["advantage_min"] == r["advantage_max"] == 1 for r in records)
    assert all(np.isfinite(r["student_logprob"]) and r["truncated_count"] == 0 for r in records)


def test_several_updates_from_one_rollout_batch(tmp_path):
    config = small(**QUICK, **{"learner.updates_per_batch": 4, "learner.learning_rate": 1e-2})
    train.run(config, str(tmp_path / "run"))
    first = metrics(tmp_path / "run")[0]
    assert first["tokens_trained"] == first["rollout_tokens"]
    assert (
        first["clip_fraction"] > 0
    )  # at this rate the ratio leaves the clip range within one batch


def test_teacher_equal_to_the_student_has_no_advantage(tmp_path, capsys):
    from gopd_jax import tiny

    config = small(**QUICK, **{"domains.math.teacher": tiny.model("base")})
    train.run(config, str(tmp_path / "run"))
    assert "has the student's own weights" in capsys.readouterr().err
    first = metrics(tmp_path / "run")[0]
    assert max(abs(first["advantage_min"]), abs(first["advantage_max"])) < 1e-4
