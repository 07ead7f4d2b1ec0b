"""Three models' predictions, and what `logprobs.statistics` says of them, from whole arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from gopd_jax.models.head_pass import REFERENCE, STUDENT, TARGET, TEACHER, Asked

V, NUM_IDS, WIDTHS = 64, 59, {STUDENT: 16, TEACHER: 24, REFERENCE: 8}
ALL = (STUDENT, TEACHER, REFERENCE)
EXACT = ((STUDENT, ALL), (TEACHER, (TEACHER,)), (REFERENCE, ()), (TARGET, ()))
FORWARD = (*EXACT[:3], (TARGET, (TARGET, STUDENT)))
ASKED = {
    "means": Asked(EXACT, ("logprobs", "means")),
    "forward KL": Asked(FORWARD, ("target",)),
    "Jensen-Shannon": Asked(EXACT, ("jensen_shannon",), beta=0.3),
    "candidates of the student": Asked(EXACT, ("candidates",), candidates=5),
    "candidates of the teacher": Asked(EXACT, ("candidates",), candidates=5, candidates_of=TEACHER),
    "without a reference": Asked(
        ((STUDENT, (STUDENT, TEACHER)), (TEACHER, ()), (TARGET, (TARGET, STUDENT))),
        ("logprobs", "means", "target"),
    ),
}


def make(rows: int, length: int, heads: int = 2, seed: int = 0):
    """Hidden states, heads, targets, wanted, scale; what the ids from NUM_IDS on hold is NaN."""
    rng = np.random.default_rng(seed)
    models = {}
    for name, width in WIDTHS.items():
        hidden = rng.normal(size=(rows, length, width)).astype(np.float32)
        vocabulary = {STUDENT: V, TEACHER: V + 2, REFERENCE: NUM_IDS}[name]
        widths = [width, width - 8][:heads] if name == TEACHER else [width]
        of_model = []
        for narrower in widths:
            head = rng.normal(size=(vocabulary, narrower)).astype(np.float32) / narrower**0.5
            head[NUM_IDS:] = np.nan
            of_model.append(head)
        models[name] = (hidden, *of_model)
    targets = rng.integers(0, NUM_IDS, (rows, length), dtype=np.int32)
    scale = rng.uniform(0.5, 2.0, (rows, length)).astype(np.float32)
    return models, targets, rng.random((rows, length)) < 0.6, scale


def naive(models, targets, asked: Asked, scale, which: int):
    """`statistics` from the log-probs of all ids; as a tree like `Statistics`."""
    logits = {}
    for name in asked.models:
        hidden, *heads = models[name]
        head = heads[which if name == TEACHER and len(heads) > 1 else 0][:NUM_IDS]
        logits[name] = jnp.einsum("rsd,vd->rsv", hidden[..., : head.shape[1]], head)
        if name != STUDENT:
            logits[name] = jax.lax.stop_gradient(logits[name])
    logits[TARGET] = logits[TEACHER]
    if REFERENCE in asked.models:
        logits[TARGET] = (
            scale[..., None] * logits[TEACHER] + (1 - scale[..., None]) * logits[REFERENCE]
        )
    logp = {name: jax.nn.log_softmax(x) for name, x in logits.items()}
    at = {
        name: jnp.take_along_axis(logp[name], targets[..., None], -1)[..., 0]
        for name in asked.models
    }
    means = {
        name: {x: jnp.sum(jnp.exp(logp[name]) * logp[x], axis=-1) for x in of}
        for name, of in asked.means
    }
    norms = {name: jax.nn.logsumexp(logits[name], axis=-1) for name, _ in asked.means}
    candidates = divergence = None
    if asked.candidates:
        _, ids = jax.lax.top_k(logits[asked.candidates_of], asked.candidates)
        candidates = {name: jnp.take_along_axis(logp[name], ids, -1) for name in asked.models}
    if asked.beta is not None:
        p, q, b = jnp.exp(logp[STUDENT]), jnp.exp(logp[TARGET]), asked.beta
        middle = jnp.log(b * q + (1 - b) * p)
        divergence = b * jnp.sum(q * (logp[TARGET] - middle), axis=-1)
        divergence += (1 - b) * jnp.sum(p * (logp[STUDENT] - middle), axis=-1)
    return at, means, norms, candidates, divergence


def with_gradient(found, asked: Asked):
    """The results that have a gradient, in one list; `found` as `naive` gives it."""
    at, means, _, candidates, divergence = found
    some = {
        "logprobs": lambda: [at[STUDENT]],
        "means": lambda: [means[STUDENT][x] for x in sorted(means[STUDENT])],
        "target": lambda: [means[TARGET][STUDENT]],
        "candidates": lambda: [candidates[STUDENT][..., i] for i in range(asked.candidates)],
        "jensen_shannon": lambda: [divergence],
    }
    return [x for name in asked.gradients for x in some[name]()]
