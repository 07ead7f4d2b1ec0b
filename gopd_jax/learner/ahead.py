"""The learner's programs compiled before its first batch, beside loading and sampling.

In: a learner and the architectures that will score. Out: nothing; the learner finds the programs in
its table. They take minutes for a large model, and need neither parameters nor rollouts.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.learner.learner import Learner
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.runtime.mesh import replicated, with_shardings
from gopd_jax.types import PackedBatch

PER_TOKEN = {"tokens", "positions", "segments", "targets"}
PER_TOKEN_FLOAT = {"weights", "reward_scale", "advantages"}


def compile_ahead(
    learner: Learner,
    *,
    teachers: Collection[ModelConfig],
    reference: ModelConfig | None,
    old: bool,
    behaviour: bool,
) -> None:
    """Begins to compile the scorers and the train step; on a GPU nothing happens.

    Args:
        teachers: architectures of the teachers that score; none for grpo and sft.
        reference: that of the reference, if one is needed.
        old: whether a rollout batch has several updates, which need old log-probs.
        behaviour: whether rollouts have log-probs of their own.
    """
    batch = _abstract_batch(learner)
    active_M = np.zeros(learner.micro_batches, bool)
    state = learner.abstract_state()

    def begin(work: tuple[tuple, dict[str, Any]]) -> None:
        given, options = work
        learner.programs.compile_ahead(*given, **options)

    scored = {"old_logprobs": old, "behaviour_logprobs": behaviour}
    scored |= {"teacher_logprobs": bool(teachers), "reference_logprobs": reference is not None}
    full = batch.replace(**{name: batch.weights for name, there in scored.items() if there})
    begin(learner.updating(state, full))  # takes longest
    for model in {*teachers, *([reference] if reference else [])}:
        shapes = jax.tree.map(lambda x: x.update(dtype=learner.dtype), abstract_params(model))
        params = with_shardings(shapes, param_shardings(model, learner.mesh))
        begin(learner.scoring(model, params, batch, active_M))
    if old:
        begin(learner.scoring(learner.student, state.params, batch, active_M))


def _abstract_batch(learner: Learner) -> PackedBatch:
    """What `Learner.pack` returns, as shapes, without behaviour log-probs."""
    rows = (learner.micro_batches, learner.shape.rows)
    tokens = (*rows, learner.shape.row_length)

    def one(shape: tuple[int, ...], dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        where = learner.row_sharding if shape else replicated(learner.mesh)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    per_token = {name: one(tokens, jnp.int32) for name in PER_TOKEN}
    per_token |= {name: one(tokens, jnp.float32) for name in PER_TOKEN_FLOAT}
    return PackedBatch(used=one((), jnp.int32), domains=one(rows, jnp.int32), **per_token)
