"""The learner's programs compiled before its first batch, beside loading and sampling.

In: a learner and the architectures that will score. Out: nothing; the learner finds the programs in
its table. They take minutes for a large model, and need neither parameters nor rollouts.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp

from gopd_jax.learner.adapters import frozen_params
from gopd_jax.learner.distance import Reading, comparing
from gopd_jax.learner.learner import Learner
from gopd_jax.learner.packing import Bucket
from gopd_jax.learner.scoring import scoring_program
from gopd_jax.models.config import ModelConfig
from gopd_jax.runtime.mesh import replicated, token_sharding
from gopd_jax.types import PackedBatch, Params


def compile_ahead(
    learner: Learner,
    *,
    teachers: Collection[ModelConfig],
    reference: ModelConfig | None,
    old: bool,
    behaviour: bool,
    read: bool = True,
) -> None:
    """Begins to compile the scorers and the train step; on a GPU nothing happens.

    Args:
        teachers: architectures of the teachers that score; none for grpo and sft.
        reference: that of the reference, if one is needed.
        old: whether a rollout batch has several updates, which need old log-probs.
        behaviour: whether rollouts have log-probs of their own.
        read: whether the step reads what teachers and reference say, or something in its place.

    An estimator that reads the whole vocabulary needs the learner's `heads` before.
    """
    policy = ["behaviour_logprobs"] if behaviour else []
    policy += ["kl_coefficients"] if learner.shaping.trust_region else []
    exact = learner.estimator.exact
    if read and not exact:
        policy += ["teacher_logprobs"] if teachers else []
        policy += ["reference_logprobs"] if reference is not None else []
    state = learner.abstract_state()
    for logprobs in [policy, [*policy, "old_logprobs"]] if old else [policy]:
        given, options = learner.updating(state, abstract_batches(learner, logprobs))
        learner.programs.compile_ahead(*given, **options)  # takes longest
    for model in {*teachers, *([reference] if reference else [])}:
        params = frozen_params(model, learner.mesh, learner.dtype)
        _begin_scorers(learner, model, params, hidden=exact)
    if old:
        _begin_scorers(learner, learner.student, learner.student_params(state))


def _begin_scorers(
    learner: Learner, model: ModelConfig, params: Params, hidden: bool = False
) -> None:
    function, options = scoring_program(learner, model, hidden)
    for bucket in learner.buckets:
        rows = abstract_rows(learner, bucket)
        learner.programs.compile_ahead(function, params, *rows, **options)


def abstract_batches(learner: Learner, logprobs: Collection[str]) -> tuple[PackedBatch, ...]:
    """What `Learner.pack` puts on the mesh, as shapes."""
    return tuple(_abstract_batch(learner, bucket, logprobs) for bucket in learner.buckets)


def _abstract_batch(learner: Learner, bucket: Bucket, logprobs: Collection[str]) -> PackedBatch:
    rows = bucket.micro_batches, bucket.rows
    integers, numbers = (
        jax.ShapeDtypeStruct((*rows, bucket.length), dtype, sharding=learner.token_sharding)
        for dtype in (jnp.int32, jnp.float32)
    )
    return PackedBatch(
        used=jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(learner.mesh)),
        domains=jax.ShapeDtypeStruct(rows, jnp.int32, sharding=learner.row_sharding),
        **dict.fromkeys(("tokens", "positions", "segments", "targets"), integers),
        **dict.fromkeys(("weights", "reward_scale", "advantages", *logprobs), numbers),
        **{
            name: jax.ShapeDtypeStruct(
                (*rows, bucket.length, width), dtype, sharding=learner.token_sharding
            )
            for name, (width, dtype) in learner.hidden().items()
        },
    )


def abstract_rows(learner: Learner, bucket: Bucket) -> list[jax.ShapeDtypeStruct]:
    """The rows that a scorer takes after its parameters, as shapes."""
    where, size = token_sharding(learner.mesh), (bucket.rows, bucket.length)
    dtypes = [jnp.int32] * 4 + [jnp.bool]
    return [jax.ShapeDtypeStruct(size, dtype, sharding=where) for dtype in dtypes]


def ask_for_distance(
    learner: Learner, params: Params, teacher: ModelConfig | None, response: int
) -> None:
    """Begins to compile what compares the student with a teacher; see `distance.distances`.

    Args:
        params: the student's, as shapes with shardings.
        teacher: its architecture, or None.
        response: limit of a response in tokens.
    """
    function, where, rows = comparing(learner, teacher, response)
    wide, first = (
        jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where)
        for shape in ((rows, learner.longest), (rows,))
    )
    reads = Reading(wide, wide, wide, first)
    theirs: tuple[Params | None, Reading | None] = (None, None)
    if teacher is not None:
        theirs = frozen_params(teacher, learner.mesh, learner.dtype), reads
    learner.programs.compile_ahead(
        function, params, theirs[0], reads, theirs[1], name="distance", out=lambda: where
    )
