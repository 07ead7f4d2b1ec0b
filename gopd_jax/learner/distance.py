"""How far a student is from its teacher on given rollouts: a pure function, and its arrays.

In: rollouts of the student. Out: rows for both models, one rollout each; KL, agreement and entropy
of each response token. The teacher may read another prompt than the student.
"""

from collections.abc import Sequence
import functools

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.learner.learner import FrozenModel, Learner, put
from gopd_jax.learner.packing import TOKENS
from gopd_jax.learner.parking import bring
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.divergence import Predictions, divergence
from gopd_jax.runtime.mesh import batch_sharding, ways
from gopd_jax.runtime.processes import fetch
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.types import Params, Rollout


@struct.dataclass
class Reading:
    """Rollouts as one model reads them; every row is one rollout, and padding holds 0.

    tokens, positions, segments: int32 [R, S], as in `PackedBatch`.
    first: int32 [R], where the first token of the response is predicted.
    """

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    first: jax.Array


def reading(
    rollouts: Sequence[Rollout], rows: int, length: int, as_teacher: bool = False
) -> Reading:
    """The rollouts as numpy arrays.

    Args:
        rollouts: at most `rows`.
        rows, length: R and S.
        as_teacher: after the prompt that the teacher reads.
    """
    tokens, segments = (np.zeros((rows, length), np.int32) for _ in range(2))
    first = np.zeros(rows, np.int32)
    for row, rollout in enumerate(rollouts):
        source = rollout.request.prompt
        shown_more = as_teacher and source.teacher_tokens is not None
        prompt = source.teacher_tokens if shown_more else source.tokens
        whole = np.concatenate([prompt, rollout.tokens])
        tokens[row, : len(whole)], segments[row, : len(whole)] = whole, 1
        first[row] = len(prompt) - 1
    return Reading(tokens, np.arange(length, dtype=np.int32) * segments, segments, first)


def response_states(model: Decoder, params: Params, reads: Reading, length: int) -> jax.Array:
    """The hidden states, [R, length, D], at which each row's response is predicted.

    What stands after the end of a response means nothing.
    """
    hidden_RSD = model.apply({"params": params}, reads.tokens, reads.positions, reads.segments)
    index_RT = reads.first[:, None] + jnp.arange(length)
    index_RT = jnp.minimum(index_RT, hidden_RSD.shape[1] - 1)
    return jnp.take_along_axis(hidden_RSD, index_RT[..., None], axis=1)


def distance(
    student_params: Params,
    teacher_params: Params | None,
    student_reads: Reading,
    teacher_reads: Reading | None,
    *,
    student: Decoder,
    teacher: Decoder | None,
    response: int,
    num_ids: int | None,
) -> dict[str, jax.Array]:
    """`models.divergence.divergence` at each response token.

    Args:
        student_reads, teacher_reads: the same rollouts; the teacher's fields are None without one.
        response: T, the tokens of the longest response.
        num_ids: number of ids of the tokenizer.

    Returns:
        float32 [R, T] by name. What stands after the end of a response means nothing.
    """

    # Devices divide the tokens of a row: the length is rounded up.
    length = response + -response % ways("between")

    def predictions(model: Decoder, params: Params, reads: Reading) -> Predictions:
        return response_states(model, params, reads, length), output_head(params)

    ours = predictions(student, student_params, student_reads)
    theirs = None if teacher is None else predictions(teacher, teacher_params, teacher_reads)
    return {name: x[:, :response] for name, x in divergence(ours, theirs, num_ids).items()}


# ---- On a learner's devices.


def distances(
    learner: Learner, params: Params, teacher: FrozenModel | None, rollouts: Sequence[Rollout]
) -> list[dict[str, np.ndarray]]:
    """KL, agreement and entropy of each response token; see `models.divergence`.

    One program for each teacher's architecture and response limit serves every call.

    Args:
        params: the student's.
        teacher: None gives the entropy alone.
        rollouts: of the student, all with one response limit.

    Returns:
        For each rollout, float32 [T] by name.
    """
    model = None if teacher is None else teacher.config
    function, rows, at_once = comparing(learner, model, rollouts[0].request.max_tokens)
    longest = learner.longest
    found: list[dict[str, np.ndarray]] = []
    theirs = None if teacher is None else bring(teacher.params)
    for start in range(0, len(rollouts), at_once):
        part = rollouts[start : start + at_once]
        reads = [
            jax.tree.map(
                functools.partial(put, sharding=rows),
                reading(part, at_once, longest, as_teacher),
            )
            for as_teacher in (False, True)
        ]
        args = (params, theirs, reads[0], None if teacher is None else reads[1])
        run = learner.programs.compiled(function, *args, name="distance", out=lambda: rows)
        stop_point()
        values = {name: fetch(x) for name, x in run(*args).items()}
        found += [
            {name: x[i, : len(r.tokens)] for name, x in values.items()} for i, r in enumerate(part)
        ]
    return found


def comparing(
    learner: Learner, teacher: ModelConfig | None, response: int
) -> tuple[functools.partial, jax.sharding.NamedSharding, int]:
    """The function of `distances`, the sharding of its rows, and their number.

    Args:
        teacher: its architecture, or None.
        response: limit of a response in tokens.
    """
    function = functools.partial(
        distance,
        student=learner.decoder(learner.student),
        teacher=None if teacher is None else learner.decoder(teacher),
        response=response,
        num_ids=learner.num_ids,
    )
    at_once = learner.devices * max(1, TOKENS // learner.longest)
    return function, batch_sharding(learner.mesh), at_once
