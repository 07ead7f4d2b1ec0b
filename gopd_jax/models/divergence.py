"""How far apart two models' predictions are, from hidden states and output heads.

In: the hidden states of a student and of its teacher at the same predictions. Out: KL, agreement
and entropy of each. The logits of all tokens are never held at once: they are computed in chunks.
"""

import jax
import jax.numpy as jnp

from gopd_jax.models.heads import chunk_length
from gopd_jax.runtime.mesh import on_each_device

Predictions = tuple[jax.Array, jax.Array]  # hidden states [R, T, D], output head [V, D]


def divergence(
    student: Predictions, teacher: Predictions | None, num_ids: int | None = None
) -> dict[str, jax.Array]:
    """Compares the distributions of two models over the whole vocabulary.

        kl      = sum_v p_student (log p_student - log p_teacher)
        same    = 1 where the most likely token of both is the same
        entropy = -sum_v p_student log p_student

    Each device compares its own tokens, and cuts its rows along T into chunks, whose logits exist
    one after the other.

    Args:
        student: hidden states after the final norm, and the output head.
        teacher: the same of the teacher, perhaps with another D; None leaves out `kl` and `same`.
        num_ids: ids from this number on do not exist. None stands for all V, which must then be
            equal.

    Returns:
        float32 [R, T] by name; nats.
    """
    models = [student] if teacher is None else [student, teacher]
    heads = [head_VD[:num_ids].astype(hidden.dtype) for hidden, head_VD in models]
    tokens = ("batch", "between")
    hidden, whole = ((*tokens, None),) * len(models), ((None, None),) * len(models)
    results = (tokens,) * (1 if teacher is None else 3)
    names = ["entropy"] if teacher is None else ["entropy", "kl", "same"]
    run = on_each_device(_on_device, (*hidden, *whole), results)
    return dict(zip(names, run(*(x for x, _ in models), *heads), strict=True))


def _on_device(*given: jax.Array) -> tuple[jax.Array, ...]:
    """`divergence` of a device's tokens, from the hidden states of the models and their heads."""
    hidden_states, heads = given[: len(given) // 2], given[len(given) // 2 :]
    R, T, _ = hidden_states[0].shape
    length = chunk_length(R, T, len(heads) * heads[0].shape[0])
    pad = -T % length

    def split(x_RTD):
        x = jnp.pad(x_RTD, [(0, 0), (0, pad), (0, 0)])
        return jnp.moveaxis(x.reshape(R, -1, length, x.shape[-1]), 1, 0)

    def body(_, hidden):
        logprobs = [_logprobs(*pair) for pair in zip(hidden, heads, strict=True)]
        return None, _compare(*logprobs)

    _, found = jax.lax.scan(body, None, [split(hidden) for hidden in hidden_states])
    return tuple(jnp.moveaxis(x, 0, 1).reshape(R, T + pad)[:, :T] for x in found)


def _logprobs(hidden_RCD: jax.Array, head_VD: jax.Array) -> jax.Array:
    logits_RCV = jnp.einsum("rcd,vd->rcv", hidden_RCD, head_VD, preferred_element_type=jnp.float32)
    return jax.nn.log_softmax(logits_RCV)


def _compare(student_RCV: jax.Array, teacher_RCV: jax.Array | None = None) -> tuple[jax.Array, ...]:
    """Entropy, and with a teacher KL and agreement."""
    p_RCV = jnp.exp(student_RCV)
    entropy_RC = -jnp.sum(p_RCV * student_RCV, axis=-1)
    if teacher_RCV is None:
        return (entropy_RC,)
    kl_RC = jnp.sum(p_RCV * (student_RCV - teacher_RCV), axis=-1)
    best = jnp.argmax(student_RCV, -1) == jnp.argmax(teacher_RCV, -1)
    # Rounding may leave the KL of two equal distributions a little below 0.
    return entropy_RC, jnp.maximum(kl_RC, 0.0), best.astype(jnp.float32)
