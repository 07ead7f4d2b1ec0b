"""Parity with the official implementation: loss, gradient and importance weights of its own update.

They are recorded in tests/data/official_gopd.json.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.objective.gopd import importance_weight
from gopd_jax.objective.loss import weighted_loss
from gopd_jax.objective.predictions import Predictions
from gopd_jax.objective.settings import LossSettings
from gopd_jax.objective.weights import token_weights
from gopd_jax.types import PackedBatch

CASES = json.loads((Path(__file__).parents[1] / "data/official_gopd.json").read_text())
AGGREGATION = {
    "token-mean": "token-mean",
    "seq-mean-token-mean": "sequence-mean-token-mean",
    "seq-mean-token-sum": "sequence-mean-token-sum",
}
ARRAYS = (
    "student_logp",
    "rollout_logp",
    "old_logp",
    "teacher_logp",
    "teacher2_logp",
    "reference_logp",
    "mask",
)
TOLERANCE = 1e-8  # the official means divide by count + 1e-8


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def row_weights(mask, micro, aggregation):
    """Weights of the official code: means within each micro-batch, averaged over micro-batches."""
    lengths = np.split(mask.sum(axis=1), range(micro, len(mask), micro))
    complete, name = np.zeros(micro, bool), AGGREGATION[aggregation]
    parts = [token_weights(part, complete, name, "keep") for part in lengths]
    return np.concatenate(parts) / len(parts)


def make_batch(entry, rows):
    """Rows of a case as one micro-batch.

    Index s stands for the token that the official arrays have at s.
    """
    case, part = entry["case"], {k: np.asarray(v)[rows] for k, v in entry.items() if k in ARRAYS}
    tags = [
        case["tags"][i % len(case["tags"])] if case["multi"] else "math" for i in range(case["B"])
    ]
    is_code = np.array([t == "code" for t in tags])[rows, None]
    mask = part["mask"] > 0
    assert (mask[:, :-1] >= mask[:, 1:]).all()  # a prefix of each row
    integers = np.zeros(mask.shape, np.int32)
    return part["student_logp"], PackedBatch(
        used=np.int32(1),
        domains=is_code[:, 0].astype(np.int32),
        tokens=integers,
        positions=integers,
        segments=integers,
        targets=integers,
        weights=np.where(mask, row_weights(mask, case["micro"], case["agg"])[:, None], 0.0),
        reward_scale=np.full(mask.shape, case["lam"]),
        advantages=np.zeros(mask.shape),
        behaviour_logprobs=part["rollout_logp"],
        old_logprobs=None if case["on_policy"] else part["old_logp"],
        teacher_logprobs=np.where(is_code, part["teacher2_logp"], part["teacher_logp"]),
        reference_logprobs=part["reference_logp"],
    )


def test_there_are_24_cases():
    assert len(CASES) == 24 and {c["case"]["lam"] for c in CASES} == {0.0, 0.5, 1.0, 1.25, 1.5}
    assert sum(c["case"]["multi"] for c in CASES) == 2
    assert sum(not c["case"]["on_policy"] for c in CASES) == 2


@pytest.mark.parametrize("entry", CASES, ids=lambda entry: str(entry["case"]["seed"]))
def test_same_loss_and_gradient_as_the_official_update(entry):
    case = entry["case"]
    updates = len(entry["grad_student_logp"])
    assert updates == (1 if case["on_policy"] else 2)
    official_losses = np.reshape(entry["pg_loss"], (updates, -1)).sum(axis=1)
    worst = 0.0
    for update, rows in enumerate(np.split(np.arange(case["B"]), updates)):
        student, batch = make_batch(entry, rows)

        def loss_of(student, batch=batch):
            predictions = Predictions(student, jnp.zeros_like(student))
            return weighted_loss(predictions, batch, LossSettings(), 2)[0]

        loss, grad = jax.value_and_grad(loss_of)(jnp.asarray(student))
        assert loss.dtype == grad.dtype == jnp.float64
        official = np.zeros((case["B"], case["T"]))
        official[rows] = grad
        grad_difference = np.abs(official - entry["grad_student_logp"][update]).max()
        worst = max(worst, grad_difference, abs(loss - official_losses[update]))
    print(f"largest difference {worst:.1e}")
    assert worst < TOLERANCE


@pytest.mark.parametrize("entry", CASES, ids=lambda entry: str(entry["case"]["seed"]))
def test_same_importance_weights(entry):
    old, rollout = jnp.asarray(entry["old_logp"]), jnp.asarray(entry["rollout_logp"])
    ours = np.where(entry["mask"], importance_weight(old, rollout, 5.0), 0.0)
    np.testing.assert_allclose(ours, entry["is_weights"], atol=TOLERANCE, rtol=0)


def test_the_cases_reach_the_clip():
    """Otherwise the equality above would say nothing about the clip.

    The cases do not reach the cap and the dual clip; test_gopd.py tests those.
    """
    assert sum(np.max(c["clipfrac"]) > 0 for c in CASES) == 2
