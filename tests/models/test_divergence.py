"""KL, agreement and entropy of two models' predictions, against NumPy on the whole vocabulary."""

import jax.numpy as jnp
import numpy as np
import pytest

from gopd_jax.models import heads
from gopd_jax.models.divergence import divergence

IDS = 9


def random(seed, rows=3, length=7, width=4, vocabulary=IDS):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, length, width)).astype(np.float32)
    return hidden, 2 * rng.normal(size=(vocabulary, width)).astype(np.float32)


def log_softmax(hidden, head):
    logits = np.einsum("rtd,vd->rtv", hidden, head[:IDS]).astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("elements", [2**26, 3 * 2 * IDS * 2])
def test_of_models_of_different_width_and_rows(monkeypatch, elements):
    """In one chunk and in chunks of two tokens; further rows hold NaN."""
    monkeypatch.setattr(heads, "LOGIT_ELEMENTS", elements)
    ours, theirs = random(0), random(1, width=6)
    student, teacher = log_softmax(*ours), log_softmax(*theirs)
    longer = [
        (h, np.concatenate([v, np.full((n, v.shape[1]), np.nan, np.float32)]))
        for n, (h, v) in enumerate((ours, theirs), 1)
    ]
    found = divergence(*longer, num_ids=IDS)
    p = np.exp(student)
    np.testing.assert_allclose(found["kl"], (p * (student - teacher)).sum(-1), atol=1e-5)
    np.testing.assert_allclose(found["entropy"], -(p * student).sum(-1), atol=1e-5)
    same = student.argmax(-1) == teacher.argmax(-1)
    np.testing.assert_array_equal(found["same"], same)
    assert 0 < same.mean() < 1


def test_of_a_model_and_itself():
    ours = random(2)
    found = divergence(ours, ours)
    assert np.all(found["kl"] == 0) and np.all(found["same"] == 1)


def test_without_a_teacher():
    hidden, head = random(3)
    found = divergence((jnp.asarray(hidden), head), None)
    assert found.keys() == {"entropy"} and np.all(found["entropy"] > 0)
