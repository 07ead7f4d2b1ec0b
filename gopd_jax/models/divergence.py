"""How far apart two models' predictions are, from hidden states and output heads.

In: the hidden states of a student and of its teacher at the same predictions. Out: KL, agreement
and entropy of each. The logits of all tokens are never held at once: they are computed in chunks.
"""

import jax
import jax.numpy as jnp

from gopd_jax.models.heads import chunk_length

Predictions = tuple[jax.Array, jax.Array]  # hidden states [R, T, D], output head [V, D]


def divergence(
    student: Predictions, teacher: Predictions | None, num_ids: int | None = None, devices: int = 1
) -> dict[str, jax.Array]:
    """Compares the distributions of two models over the whole vocabulary.

        kl      = sum_v p_student (log p_student - log p_teacher)
        same    = 1 where the most likely token of both is the same
        entropy = -sum_v p_student log p_student

    Rows are cut along T into chunks, whose logits exist one after the other.

    Args:
        student: hidden states after the final norm, and the output head.
        teacher: the same of the teacher, perhaps with another D; None leaves out `kl` and `same`.
        num_ids: ids from this number on do not exist. None stands for all V, which must then be
            equal.
        devices: number of devices that rows are sharded over; sets the chunk length.

    Returns:
        float32 [R, T] by name; nats.
    """
    models = [student] if teacher is None else [student, teacher]
    heads = [head_VD[:num_ids].astype(hidden.dtype) for hidden, head_VD in models]
    R, T, _ = student[0].shape
    length = chunk_length(max(1, R // devices), T, len(models) * heads[0].shape[0])
    pad = -T % length

    def split(x_RTD):
        x = jnp.pad(x_RTD, [(0, 0), (0, pad), (0, 0)])
        return jnp.moveaxis(x.reshape(R, -1, length, x.shape[-1]), 1, 0)

    def body(_, hidden):
        logprobs = [_logprobs(*pair) for pair in zip(hidden, heads, strict=True)]
        return None, _compare(*logprobs)

    _, found = jax.lax.scan(body, None, [split(hidden) for hidden, _ in models])
    return {k: jnp.moveaxis(x, 0, 1).reshape(R, T + pad)[:, :T] for k, x in found.items()}


def _logprobs(hidden_RCD: jax.Array, head_VD: jax.Array) -> jax.Array:
    logits_RCV = jnp.einsum("rcd,vd->rcv", hidden_RCD, head_VD, preferred_element_type=jnp.float32)
    return jax.nn.log_softmax(logits_RCV)


def _compare(student_RCV: jax.Array, teacher_RCV: jax.Array | None = None) -> dict[str, jax.Array]:
    p_RCV = jnp.exp(student_RCV)
    found = {"entropy": -jnp.sum(p_RCV * student_RCV, axis=-1)}
    if teacher_RCV is not None:
        kl_RC = jnp.sum(p_RCV * (student_RCV - teacher_RCV), axis=-1)
        best = jnp.argmax(student_RCV, -1) == jnp.argmax(teacher_RCV, -1)
        # Rounding may leave the KL of two equal distributions a little below 0.
        found |= {"kl": jnp.maximum(kl_RC, 0.0), "same": best.astype(jnp.float32)}
    return found
