"""Checks of log-probs: sampler, learner, teachers, reference and adapter on the student's samples.

In: a few short samples of the student, and the models of a run. Out: outcomes. Scores come from
`learner.scoring`, as in training, and through programs that training compiles too, where there are
any.
"""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import functools

from flax.traverse_util import flatten_dict, unflatten_dict
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.check.outcome import Outcome, measured
from gopd_jax.learner.example import Example
from gopd_jax.learner.learner import FrozenModel, Learner, put
from gopd_jax.learner.packing import fill, members_of, plan
from gopd_jax.learner.scoring import READ, with_scores
from gopd_jax.learner.sources import in_order
from gopd_jax.learner.step import score
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.objective.gopd import gopd_advantage
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.runtime.mesh import token_sharding
from gopd_jax.runtime.processes import fetch
from gopd_jax.types import Params, Request, Rollout, TrainState

UNIT = "nats per token"
NUDGE = 0.1  # added to every number of B, far more than rounding hides


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What rounding explains, in nats per token.

    sampler: of the sampler's log-probs, with a cache and other kernels than the learner's.
    scorer: of log-probs of the same weights in the compute dtype and in float32.
    models: the least difference of two models.
    """

    sampler: float
    scorer: float
    models: float


# Measured: 1e-6 in float32, 0.003 to 0.01 in bfloat16 (the metric `sampler_gap`). A teacher that
# reads another template differs by 0.3.
EXACT, ROUNDED = Bounds(1e-4, 1e-4, 1e-4), Bounds(0.05, 0.02, 1e-3)


def bounds_of(learner: Learner, engine: RolloutEngine) -> Bounds:
    """The bounds for a dtype; accelerators round float32 products as they do bfloat16."""
    platform = learner.mesh.devices.flat[0].platform
    exact = jnp.dtype(learner.dtype) == jnp.float32 and platform == "cpu"
    int8 = "int8" in (engine.options.weights, engine.options.kv_cache)
    bounds = EXACT if exact else ROUNDED
    return dataclasses.replace(bounds, sampler=ROUNDED.sampler) if int8 else bounds


# ---- Samples and their scores.


def by_logprobs(learner: Learner) -> Learner:
    """The learner, scoring by log-probs also where its estimator reads hidden states."""
    if not learner.estimator.exact:
        return learner
    scoring = copy.copy(learner)
    scoring.estimator = dataclasses.replace(learner.estimator, estimator="sampled")
    return scoring


def draw(
    engine: RolloutEngine,
    weights: Params,
    requests: Sequence[Request],
    tokens: int,
    key: jax.Array,
    rule: SamplingRule,
) -> list[Rollout]:
    """Short samples of as many requests as have a slot, so that no other program is compiled.

    Args:
        weights: decode weights of the student.
        requests: those of a step.
        tokens: limit of each sample.
    """
    short = [
        dataclasses.replace(r, max_tokens=min(tokens, r.max_tokens))
        for r in requests[: engine.slots]
    ]
    return in_order(engine(weights, short, key, rule))


def some_of_each(rollouts: Sequence[Rollout], count: int) -> list[Rollout]:
    """The first `count` rollouts of each domain."""
    kept: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        kept.setdefault(rollout.request.prompt.source.domain, []).append(rollout)
    return [r for of_domain in kept.values() for r in of_domain[:count]]


def frozen_form(learner: Learner, state: TrainState) -> Params:
    """The student's parameters as a frozen model has them: in the compute dtype.

    With an adapter they are as they are, for its base is in that dtype already.
    """
    params = learner.student_params(state)
    if learner.lora.rank or jnp.dtype(learner.dtype) == jnp.float32:
        return params
    cast = functools.partial(_cast, dtype=jnp.dtype(learner.dtype))
    run = learner.programs.compiled(
        cast, params, name="frozen form", out=lambda: learner.param_shardings
    )
    return run(params)


def _cast(params: Params, dtype: jnp.dtype) -> Params:
    return jax.tree.map(lambda x: x.astype(dtype), params)


def ruled_logprobs(
    learner: Learner, params: Params, examples: Sequence[Example], rule: SamplingRule
) -> dict:
    """Log-probs of the distribution that a rule draws from, float32 [T] by key, by the learner."""
    function = functools.partial(
        score, model=learner.decoder(learner.student), rule=rule, num_ids=learner.num_ids
    )
    where, found = token_sharding(learner.mesh), {}
    for bucket, rows in zip(
        learner.buckets, plan(examples, learner.buckets, learner.sharing), strict=True
    ):
        for at in range(0, len(rows), bucket.rows):
            part = rows[at : at + bucket.rows]
            arrays, starts = fill(part, bucket.rows, bucket.length, ())
            given = [*(arrays[name] for name in READ), arrays["weights"] > 0]
            given = [put(x, where) for x in given]
            run = learner.programs.compiled(
                function, params, *given, name="score by the rule", out=lambda: where
            )
            logprobs_RS = fetch(run(params, *given))
            for e in members_of(part):
                row, start = starts[e.key]
                first = start + len(e.prompt) - 1
                found[e.key] = logprobs_RS[row, first : first + len(e.response)]
    return found


# ---- The checks.


def sampler(
    learner: Learner,
    params: Params,
    examples: Sequence[Example],
    rule: SamplingRule,
    bound: float,
) -> Outcome:
    """Whether the sampler reports the log-probs that the learner finds, under the run's rule.

    Args:
        params: the student's.
        examples: with behaviour and old log-probs.
    """
    theirs = _all(examples, "behaviour_logprobs")
    if rule == PLAIN:
        ours = _all(examples, "old_logprobs")
    else:
        found = ruled_logprobs(learner, params, examples, rule)
        ours = np.concatenate([found[e.key] for e in examples])
    allowed = ours > -np.inf  # rounding decides what top-k and top-p keep at their edge
    gap = np.abs(ours - theirs)[allowed]
    outside = "" if allowed.all() else f"{1 - allowed.mean():.1%} outside of the learner's rule; "
    return measured(
        "sampler",
        "student",
        gap.mean() if len(gap) else np.inf,
        bound=bound,
        unit=UNIT,
        saw=f"{outside}largest {gap.max(initial=0.0):.2g} of {len(ours)} tokens",
        todo="report it; int8 rollouts widen the gap (--config.rollout.weights=compute, "
        "--config.rollout.kv_cache=compute)",
    )


def temperature(examples: Sequence[Example], bound: float) -> Outcome:
    """Whether the learner's scores are those of the plain distribution.

    Args:
        examples: drawn by the plain rule, with behaviour and old log-probs.
    """
    gap = np.abs(_all(examples, "old_logprobs") - _all(examples, "behaviour_logprobs"))
    return measured(
        "temperature",
        "learner",
        gap.mean(),
        bound=bound,
        unit=UNIT,
        saw=f"samples of temperature 1, largest {gap.max():.2g}",
        todo="score at temperature 1",
    )


def self_teacher(
    learner: Learner,
    frozen: Params,
    examples: Sequence[Example],
    domain: str,
    bound: float,
) -> Outcome:
    """Whether the advantage is 0 where the student takes the place of teacher and reference.

    Args:
        frozen: the student's parameters in the form of a frozen model.
        examples: of the domain, with old log-probs. A `teacher_prompt` counts, and there is to be
            none where the teacher reads what the student does.
    """
    student = FrozenModel("student as its teacher", learner.student, frozen)
    scored = with_scores(learner, examples, {domain: student}, student)
    reference = "reference_logprobs"
    advantage = gopd_advantage(
        _all(scored, "old_logprobs"),
        _all(scored, "teacher_logprobs"),
        _all(scored, reference) if getattr(scored[0], reference) is not None else None,
        learner.reward_scales[domain],
    )
    size = np.abs(np.asarray(advantage))
    return measured(
        "self_teacher",
        domain,
        size.mean(),
        bound=bound,
        unit=UNIT,
        saw=f"lambda {learner.reward_scales[domain]:g}, largest {size.max():.2g}",
        todo="report it: teacher and student are scored differently",
    )


def teachers_differ(
    examples: Sequence[Example], role: str, bound: float, same_weights: bool
) -> Outcome:
    """Whether a teacher says anything that the student does not.

    Args:
        examples: of the teacher's domain, with teacher and old log-probs.
        same_weights: its folder has the student's weights.
    """
    size = _distance(examples, "teacher_logprobs")
    weights = "the weights are the student's own" if same_weights else "the weights are others"
    return measured(
        "teachers_differ",
        role,
        size,
        bound=bound,
        least=True,
        unit=UNIT,
        saw=f"mean |log teacher - log student|; {weights}",
        todo="take another teacher: every advantage would be about 0",
    )


def reference(
    examples: Sequence[Example],
    bounds: Bounds,
    *,
    fingerprints: Mapping[str, str],
    given: str,
    restarted: bool,
) -> Outcome:
    """Whether the reference is the student's start, or the model that was asked for.

    Args:
        examples: with reference and old log-probs.
        fingerprints: of the weights, by role.
        given: `config.reference`.
        restarted: the student starts from a checkpoint, and not from the weights of its folder.
    """
    size = _distance(examples, "reference_logprobs")
    same = fingerprints["reference"] == fingerprints["student"]
    options = {"unit": UNIT, "todo": "set --config.reference to the model that is meant"}
    if not given and not same:
        words = "the reference has other weights than the student's folder"
        return measured("reference", "reference", np.inf, bound=0.0, saw=words, **options)
    words = "mean |log reference - log student|; "
    if restarted:
        words += "the student starts from a checkpoint, the reference is its folder"
        return measured("reference", "reference", size, bound=np.inf, saw=words, **options)
    if same:
        words += "the student's start"
        return measured("reference", "reference", size, bound=bounds.scorer, saw=words, **options)
    words += f"config.reference={given!r}"
    return measured(
        "reference", "reference", size, bound=bounds.models, least=True, saw=words, **options
    )


def adapter(
    learner: Learner, state: TrainState, examples: Sequence[Example], bounds: Bounds
) -> list[Outcome]:
    """Whether the adapter is there, is the base where B is 0, and counts where B is not.

    Args:
        learner: of an adapter.
        state: of the adapter.
        examples: any.
    """
    arrays = flatten_dict(state.params)
    base = with_scores(learner, examples, {}, old=learner.base)

    def moved(b: float) -> np.ndarray:
        params = {p: 0 * x + b if p[-1] == "b" else x for p, x in arrays.items()}
        student = learner.student_params(state.replace(params=unflatten_dict(params)))
        found = with_scores(learner, examples, {}, old=student)
        return np.abs(_all(found, "old_logprobs") - _all(base, "old_logprobs"))

    options = {"unit": UNIT, "todo": "report it: the adapter is not attached as it should be"}
    attached = f"{len(arrays) // 2} matrices, rank {learner.lora.rank}"
    return [
        measured(
            "adapter",
            "B = 0",
            moved(0.0).max(),
            bound=bounds.scorer,
            saw=f"largest difference to the base; {attached}",
            **options,
        ),
        measured(
            "adapter",
            f"B = {NUDGE:g}",
            moved(NUDGE).mean(),
            bound=bounds.models,
            least=True,
            saw=f"mean difference to the base; {attached}",
            **options,
        ),
    ]


def _all(examples: Sequence[Example], field: str) -> np.ndarray:
    return np.concatenate([getattr(e, field) for e in examples])


def _distance(examples: Sequence[Example], field: str) -> float:
    """Mean |log of the field - log student| per token."""
    return float(np.abs(_all(examples, field) - _all(examples, "old_logprobs")).mean())
