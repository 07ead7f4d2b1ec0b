"""What models say of the trained tokens, as the loss reads it: arrays [R, S], float32, nats."""

from flax import struct
import jax


@struct.dataclass
class Exact:
    """What student, teacher and reference say over the whole vocabulary, at each state.

    Only what is named "with gradient" has one, to the student. The target is the optimum of G-OPD,
    target(v) = teacher(v)^lambda reference(v)^(1 - lambda) / Z. What an estimator does not need is
    None, and so is the reference where no lambda needs it.

    teacher_logprobs, reference_logprobs: of the drawn tokens.
    own, teacher, reference: E_student[log of student, teacher, reference], with gradient.
    teacher_entropy: that of the teacher.
    log_z: log Z.
    target_negentropy, target_cross: E_target[log target] and, with gradient, E_target[log student].
    jensen_shannon: the divergence of target and student, with gradient.
    candidates, candidates_target: [R, S, k], log-probs of the k most likely tokens under the
        student, with gradient, and under the target.
    divergence: the Jensen-Shannon divergence of teacher and reference, over the candidates.
    """

    teacher_logprobs: jax.Array
    own: jax.Array
    teacher: jax.Array
    teacher_entropy: jax.Array
    log_z: jax.Array
    reference_logprobs: jax.Array | None = None
    reference: jax.Array | None = None
    target_negentropy: jax.Array | None = None
    target_cross: jax.Array | None = None
    jensen_shannon: jax.Array | None = None
    candidates: jax.Array | None = None
    candidates_target: jax.Array | None = None
    divergence: jax.Array | None = None


@struct.dataclass
class Predictions:
    """What is known of each predicted token of a micro-batch.

    logprobs: the student's log-probs of the drawn tokens, with gradient.
    entropy: of the student; for diagnostics.
    sampler_logprobs: the student's log-probs under the sampling rule, NaN where they are not known;
        None where that is the plain distribution. For diagnostics.
    exact: over the whole vocabulary; None with the sampled estimator.
    """

    logprobs: jax.Array
    entropy: jax.Array
    sampler_logprobs: jax.Array | None = None
    exact: Exact | None = None
