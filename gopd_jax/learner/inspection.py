"""What student, teacher and reference say over the whole vocabulary, on a few responses of a step.

In: rollouts of a step and the models. Out: numbers of each response token, and their means by
domain and position. It tells what a run with the sampled estimator cannot see from drawn tokens.
"""

from collections.abc import Mapping, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.learner.distance import Reading, reading, response_states
from gopd_jax.learner.learner import FrozenModel, Learner, put
from gopd_jax.learner.packing import TOKENS
from gopd_jax.learner.parking import bring
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, output_head
from gopd_jax.models.head_pass import MODELS, REFERENCE, STUDENT, TARGET, TEACHER, Asked
from gopd_jax.models.logprobs import statistics
from gopd_jax.objective.diagnostics import position_bins
from gopd_jax.runtime.mesh import batch_sharding
from gopd_jax.runtime.processes import fetch
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.types import Params, Rollout

TOP = 16  # most likely tokens that are compared


def inspect_tokens(
    params: Mapping[str, Params],
    ours: Reading,
    theirs: Reading,
    targets_RT: jax.Array,
    wanted_RT: jax.Array,
    scale_RT: jax.Array,
    *,
    decoders: tuple[Decoder, ...],
    num_ids: int | None,
    top: int = TOP,
) -> dict[str, jax.Array]:
    """What the models say at each response token.

        top_k_overlap    share of the student's k most likely tokens that are among the teacher's
        teacher_on_top_k probability that the teacher gives to the student's k most likely tokens
        teacher_entropy  of the teacher
        entropy_gap      entropy of the student minus that of the teacher
        implied_reward   lambda (log teacher - log reference) of the drawn token
        log_z            log sum_v teacher(v)^lambda reference(v)^(1 - lambda)

    Args:
        params: by model ("student", "teacher" and, where it is needed, "reference").
        ours: rows as student and reference read them.
        theirs: as the teacher does.
        targets_RT, wanted_RT: int32 ids of the responses, and where there are any.
        scale_RT: lambda.
        decoders: of student, teacher and, where it is needed, reference.

    Returns:
        float32 [R, T] by name, nats but for the first two; without a reference the last two are
        left out.
    """
    length = targets_RT.shape[1]
    given = {}
    for name, model in zip(MODELS, decoders, strict=False):
        reads = theirs if name == TEACHER else ours
        states = response_states(model, params[name], reads, length)
        given[name] = states, output_head(params[name])
    has_reference = REFERENCE in given
    means = [(STUDENT, (STUDENT,)), (TEACHER, (TEACHER,))]
    means += [(REFERENCE, ()), (TARGET, ())] if has_reference else []

    def asked(of):
        asked = Asked(tuple(means), gradients=(), candidates=top, candidates_of=of)
        options = {"scale_RS": scale_RT, "num_ids": num_ids}
        return statistics(given, targets_RT, wanted_RT, asked, **options)

    by_student, by_teacher = asked(STUDENT), asked(TEACHER)
    least = jnp.min(by_teacher.candidates[TEACHER], axis=-1, keepdims=True)
    at_top = by_student.candidates[TEACHER]
    entropy = {name: -by_student.means[name][name] for name in (STUDENT, TEACHER)}
    found = {
        "top_k_overlap": jnp.mean((at_top >= least).astype(jnp.float32), axis=-1),
        "teacher_on_top_k": jnp.sum(jnp.exp(at_top), axis=-1),
        "teacher_entropy": entropy[TEACHER],
        "entropy_gap": entropy[STUDENT] - entropy[TEACHER],
    }
    if has_reference:
        logprobs, norms = by_student.logprobs, by_student.norms
        found["implied_reward"] = scale_RT * (logprobs[TEACHER] - logprobs[REFERENCE])
        log_z = norms[TARGET] - scale_RT * norms[TEACHER] - (1 - scale_RT) * norms[REFERENCE]
        found["log_z"] = log_z
    return found


def inspecting(
    learner: Learner, teacher: ModelConfig, reference: ModelConfig | None
) -> tuple[functools.partial, int]:
    """The function of `inspect_tokens` for these architectures, and its number of rows."""
    models = learner.student, teacher, *([] if reference is None else [reference])
    decoders = tuple(map(learner.decoder, models))
    top = min(TOP, learner.num_ids or learner.student.vocab_size)
    function = functools.partial(
        inspect_tokens, decoders=decoders, num_ids=learner.num_ids, top=top
    )
    return function, learner.devices * max(1, TOKENS // learner.longest)


def inspect_responses(
    learner: Learner,
    params: Params,
    teacher: FrozenModel,
    reference: FrozenModel | None,
    rollouts: Sequence[Rollout],
    reward_scale: float,
) -> dict[str, list[np.ndarray]]:
    """`inspect_tokens` of some rollouts of one domain; float32 [T] for each, by name.

    Args:
        params: the student's.
        reference: None where lambda needs none.
        rollouts: all with one response limit.
    """
    function, rows = inspecting(learner, teacher.config, reference and reference.config)
    given = {STUDENT: params, TEACHER: bring(teacher.params)}
    given |= {} if reference is None else {REFERENCE: bring(reference.params)}
    where, limit = batch_sharding(learner.mesh), rollouts[0].request.max_tokens
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rollouts), rows):
        part = rollouts[start : start + rows]
        targets = np.zeros((rows, limit), np.int32)
        wanted = np.zeros((rows, limit), bool)
        for row, rollout in enumerate(part):
            targets[row, : len(rollout.tokens)] = rollout.tokens
            wanted[row, : len(rollout.tokens)] = True
        scale = np.full(targets.shape, reward_scale, np.float32)
        reads = [reading(part, rows, learner.longest, as_teacher) for as_teacher in (False, True)]
        place = functools.partial(put, sharding=where)
        args = given, *jax.tree.map(place, (*reads, targets, wanted, scale))
        run = learner.programs.compiled(function, *args, name="inspect", out=lambda: where)
        stop_point()
        for name, x in run(*args).items():
            values = fetch(x)
            each = [values[i, : len(r.tokens)] for i, r in enumerate(part)]
            found.setdefault(name, []).extend(each)
    return found


def inspection_metrics(
    by_domain: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
) -> dict[str, float | list[float]]:
    """Means over tokens: `NAME`, `NAME/DOMAIN` with several domains, and `NAME_by_position`.

    Args:
        by_domain: what `inspect_responses` has found for each domain.
    """
    values: dict[str, float | list[float]] = {}
    slices = {"": list(by_domain)}
    if len(by_domain) > 1:
        slices |= {f"/{name}": [name] for name in by_domain}
    for suffix, domains in slices.items():
        for name in dict.fromkeys(n for d in domains for n in by_domain[d]):
            each = [x for d in domains for x in by_domain[d].get(name, ())]
            flat = np.concatenate(each)
            bins = np.concatenate([position_bins(len(x)) for x in each])
            counts = np.bincount(bins)
            sums = np.bincount(bins, flat.astype(np.float64))
            values[f"{name}{suffix}"] = float(flat.mean())
            values[f"{name}_by_position{suffix}"] = (sums / np.maximum(counts, 1)).tolist()
    return values
