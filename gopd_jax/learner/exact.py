"""What an estimator reads of the whole vocabulary, from hidden states and heads.

In: the student's hidden states, those that teacher and reference handed over, and their heads. Out:
`objective.predictions.Exact`. The teachers' forward passes are in `scoring`.
"""

from collections.abc import Mapping, Sequence

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.kernels.context import balanced, in_order
from gopd_jax.learner.parking import bring
from gopd_jax.models.decoder import output_head
from gopd_jax.models.head_gradient import needed_models
from gopd_jax.models.head_pass import REFERENCE, STUDENT, TARGET, TEACHER, Asked
from gopd_jax.models.logprobs import Statistics, statistics
from gopd_jax.objective.predictions import Exact, Predictions
from gopd_jax.objective.settings import EstimatorSettings, LossSettings
from gopd_jax.objective.shaping import coarse_divergence
from gopd_jax.objective.shaping_settings import SHAPING, ShapingSettings
from gopd_jax.types import PackedBatch, Params


@struct.dataclass
class FrozenHeads:
    """The output heads of the models that score, in the compute dtype.

    teachers: [V, D] each, without repetition.
    of_domain: int32 [domains], which of them is the domain's.
    reference: [V, D], or None.
    """

    teachers: tuple[jax.Array, ...]
    of_domain: jax.Array
    reference: jax.Array | None = None


def frozen_heads(
    teachers: Mapping[str, Params], reference: Params | None, domains: Sequence[str]
) -> FrozenHeads:
    """The heads of these models, on the devices; `of_domain` is that of the host.

    Args:
        teachers: parameters by domain, or their shapes; those of one teacher are one object.
        reference: likewise, or None.
        domains: in the order of their indices.
    """
    distinct = list({id(teachers[name]): teachers[name] for name in domains}.values())
    places = [next(i for i, t in enumerate(distinct) if t is teachers[n]) for n in domains]
    return FrozenHeads(
        teachers=tuple(bring(output_head(params)) for params in distinct),
        of_domain=np.array(places, np.int32),
        reference=None if reference is None else bring(output_head(reference)),
    )


def other_heads(
    heads: FrozenHeads | None,
    width: int,
    settings: EstimatorSettings,
    shaping: ShapingSettings = SHAPING,
) -> tuple[float, float]:
    """Passes through the heads of frozen models, as `operations.update_cost` takes them.

    Args:
        width: of the student.
    """
    if heads is None:
        return 0.0, 0.0
    widths = [heads.teachers[0].shape[1]]
    widths += [] if heads.reference is None else [heads.reference.shape[1]]
    once = sum(widths) / width
    asked = asked_of(settings, heads.reference is not None, shaping)
    again = len(needed_models(asked)) > 1
    # The Jensen-Shannon divergence needs the norms first: one more pass through all heads.
    second = 1 + once if asked.beta is not None else 0.0
    return once, once * (1 + again) + second


def asked_of(
    settings: EstimatorSettings, reference: bool, shaping: ShapingSettings = SHAPING
) -> Asked:
    """What an estimator other than "sampled" asks of the models.

    Args:
        reference: whether there is one.
        shaping: may ask for more.
    """
    models = (STUDENT, TEACHER, *([REFERENCE] if reference else []))
    means = {STUDENT: models, TEACHER: (TEACHER,), REFERENCE: (), TARGET: ()}
    if settings.estimator == "forward_kl" or shaping.forward_kl:
        means[TARGET] = (TARGET, STUDENT)
    gradient = {
        "sampled_baseline": "logprobs",
        "full": "means",
        "top_k": "candidates",
        "forward_kl": "target",
        "jsd": "jensen_shannon",
    }[settings.estimator]
    # A policy loss of an advantage from outside may be added to any of them.
    gradients = ("logprobs",) if gradient == "logprobs" else ("logprobs", gradient)
    gradients += ("target",) if shaping.forward_kl else ()
    has_candidates = settings.estimator == "top_k" or shaping.keep_states < 1
    return Asked(
        means=tuple((name, of) for name, of in means.items() if name in (*models, TARGET)),
        gradients=gradients,
        candidates=settings.top_k if has_candidates else 0,
        candidates_of=settings.top_k_of,
        beta=settings.beta if settings.estimator == "jsd" else None,
    )


def check_candidates(settings: EstimatorSettings, shaping: ShapingSettings, num_ids: int) -> None:
    """Raises ValueError if more candidates are looked at than there are ids."""
    if asked_of(settings, False, shaping).candidates > num_ids:
        raise ValueError(
            f"config.objective.top_k={settings.top_k}: expected at most {num_ids}, the number of "
            "ids of the tokenizer"
        )


def exact_predictions(
    hidden_RSD: jax.Array,
    head_VD: jax.Array,
    micro: PackedBatch,
    heads: FrozenHeads,
    settings: LossSettings,
    *,
    num_ids: int | None,
    frozen_head: bool,
) -> Predictions:
    """The predictions of one micro-batch, exact over the vocabulary.

    Args:
        hidden_RSD, head_VD: of the student, in balanced order.
        micro: with `teacher_hidden` and, where the reference is needed, `reference_hidden`.
        heads: of teachers and reference.
        settings: of the loss.
        num_ids, frozen_head: as for `logprobs.token_logprobs`.
    """
    handed = (micro.teacher_hidden, micro.reference_hidden, micro.targets, micro.reward_scale)
    teacher, reference, targets, scale = jax.tree.map(balanced, handed)
    wanted = balanced(micro.weights > 0)
    models = {STUDENT: (hidden_RSD, head_VD), TEACHER: (teacher, *heads.teachers)}
    if reference is not None:
        models[REFERENCE] = (reference, heads.reference)
    found = statistics(
        models,
        targets,
        wanted,
        asked_of(settings.estimator, reference is not None, settings.shaping),
        scale_RS=scale,
        which=heads.of_domain[micro.domains[0]] if len(heads.teachers) > 1 else None,
        num_ids=num_ids,
        frozen_head=frozen_head,
    )
    exact = jax.tree.map(in_order, _exact(found, jnp.where(wanted, scale, 0.0)))
    logprobs, negentropy = map(in_order, (found.logprobs[STUDENT], found.means[STUDENT][STUDENT]))
    return Predictions(logprobs, jax.lax.stop_gradient(-negentropy), exact=exact)


def _exact(found: Statistics, scale: jax.Array) -> Exact:
    means, norms, fixed = found.means, found.norms, jax.lax.stop_gradient
    log_z = norms[TARGET] - scale * norms[TEACHER]
    if REFERENCE in norms:
        log_z = log_z - (1 - scale) * norms[REFERENCE]
    else:
        log_z = jnp.zeros_like(log_z)  # the target is the teacher
    exact = Exact(
        teacher_logprobs=fixed(found.logprobs[TEACHER]),
        reference_logprobs=fixed(found.logprobs.get(REFERENCE)),
        own=means[STUDENT][STUDENT],
        teacher=means[STUDENT][TEACHER],
        reference=means[STUDENT].get(REFERENCE),
        teacher_entropy=fixed(-means[TEACHER][TEACHER]),
        log_z=fixed(log_z),
        target_negentropy=fixed(means[TARGET].get(TARGET)),
        target_cross=means[TARGET].get(STUDENT),
        jensen_shannon=found.jensen_shannon,
    )
    if found.candidates is None:
        return exact
    target = found.candidates[TEACHER]
    if REFERENCE in found.candidates:
        reference = found.candidates[REFERENCE]
        exact = exact.replace(divergence=coarse_divergence(target, reference))
        weight = scale[..., None]
        target = weight * target + (1 - weight) * reference - log_z[..., None]
    return exact.replace(candidates=found.candidates[STUDENT], candidates_target=fixed(target))
