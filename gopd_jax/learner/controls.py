"""Runs without the teacher's knowledge: what a claim about the teacher is compared with.

In: scored examples. Out: the same ones with advantages of their own in place of what teacher and
reference said. Everything else of a run stays equal: prompts, samples, weights, the optimizer.
"""

from collections.abc import Sequence
import dataclasses

import jax
import numpy as np

from gopd_jax.learner.example import Example
from gopd_jax.learner.settings import ControlSettings
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.types import Params


def controlled(
    examples: Sequence[Example], settings: ControlSettings, seed: tuple[int, ...]
) -> list[Example]:
    """The examples of one update with the advantages of a control, and no log-probs of teachers.

        constant           A = settings.advantage
        permuted_tokens    the teacher's advantages, dealt out anew to all tokens of a domain
        permuted_answers   each answer has those of another answer of its domain, token by token,
                           from the start again where that one is shorter

    The teacher's advantages are those of the log-probs that the tokens were drawn with. A control
    of another kind leaves the examples as they are.

    Args:
        examples: scored, with behaviour log-probs.
        seed: of the permutations, such as run seed, step and update.
    """
    if not settings.of_advantages:
        return list(examples)
    advantages = {e.key: _advantages(e) for e in examples}
    if settings.kind == "constant":
        found = {key: np.full_like(a, settings.advantage) for key, a in advantages.items()}
    else:
        deal = _dealt_tokens if settings.kind == "permuted_tokens" else _dealt_answers
        rng, found = np.random.default_rng(seed), {}
        for domain in sorted({e.domain for e in examples}):
            keys = [e.key for e in examples if e.domain == domain]
            found |= dict(zip(keys, deal([advantages[key] for key in keys], rng), strict=True))
    return [_with_advantages(e, found[e.key]) for e in examples]


def _advantages(example: Example) -> np.ndarray:
    """The G-OPD advantage of each token, float32 [T]; see `objective.gopd.gopd_advantage`."""
    scale, teacher = example.reward_scale, example.teacher_logprobs
    advantage = scale * teacher - example.behaviour_logprobs
    if needs_reference(scale):
        advantage = advantage + (1 - scale) * example.reference_logprobs
    return advantage.astype(np.float32)


def _dealt_tokens(of_answers: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    dealt = rng.permutation(np.concatenate(of_answers))
    return np.split(dealt, np.cumsum([len(a) for a in of_answers])[:-1])


def _dealt_answers(of_answers: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Each answer has those of the next one in a random order, so that none keeps its own."""
    order = rng.permutation(len(of_answers))
    found = list(of_answers)
    for mine, theirs in zip(order, np.roll(order, 1), strict=True):
        found[mine] = np.resize(of_answers[theirs], len(of_answers[mine]))
    return found


def _with_advantages(example: Example, advantages: np.ndarray) -> Example:
    return dataclasses.replace(
        example,
        advantage=example.advantage + advantages,
        teacher_logprobs=None,
        reference_logprobs=None,
    )


def random_teacher(teacher: Params, start: Params, seed: int) -> Params:
    """A teacher as far from the student's start as the real one, in a direction that says nothing.

    In each parameter, the elements of teacher - start change places at random.

    Args:
        teacher, start: of one architecture, in the compute dtype; neither is changed.
        seed: of the run.

    Raises:
        ValueError: the two have different architectures.
    """
    shapes = [[x.shape for x in jax.tree.leaves(params)] for params in (teacher, start)]
    if jax.tree.structure(teacher) != jax.tree.structure(start) or shapes[0] != shapes[1]:
        raise ValueError(
            "config.control.kind='random_teacher': expected a teacher of the student's architecture"
        )
    leaves, tree = jax.tree.flatten(teacher)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0x7EAC), len(leaves))

    def moved(key, theirs, ours):
        return ours + jax.random.permutation(key, (theirs - ours).reshape(-1)).reshape(ours.shape)

    moved = [
        jax.jit(moved, out_shardings=theirs.sharding)(key, theirs, ours)
        for key, theirs, ours in zip(keys, leaves, jax.tree.leaves(start), strict=True)
    ]
    return jax.tree.unflatten(tree, moved)
