"""Passes over the vocabulary on the devices of a mesh.

In: a pass of `head_pass` or `head_gradient`, and whole arrays. Out: what it finds, with one part
for each part of the vocabulary, which are still to be joined. Each device runs the pass for its own
rows and its own part of the vocabulary. Where the width of the heads is split over devices it stays
so: a block of the vocabulary is gathered when its turn comes, and its gradient is summed over the
devices and split again before the next block, so that no device holds a whole head or its whole
gradient.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp

from gopd_jax.models import head_gradient, head_over_context, head_pass
from gopd_jax.models.head_pass import STUDENT, Asked, Heads, Parts
from gopd_jax.runtime.mesh import Axes, on_each_device, width_split

ROWS, TOKENS, IDS = ("batch", "length", None), ("batch", "length"), ("vocab",)
HEAD, SPLIT_HEAD, WHOLE_HEAD = ("vocab", None), ("vocab", "embed"), (None, None)
# The first axis of a partial result counts the parts.
OF_VOCABULARY, OF_ROW = ("vocab", *TOKENS), ("vocab_of_row", "batch", None)


class OnDevices:
    """The passes over some models' heads.

    Args:
        models: by name, hidden states [R, S, D] and heads [V, D].
        which: int32 scalar, the teacher's head that counts, or None.
        num_ids: ids that exist; None stands for all.
    """

    def __init__(
        self,
        models: Mapping[str, Sequence[jax.Array]],
        which: jax.Array | None,
        num_ids: int | None,
    ):
        self._models, self._which, self._num_ids = models, which, num_ids
        hidden, head_VD = models[STUDENT]
        self._vocabulary = head_VD.shape[0]
        heads = [head for _, *of_model in models.values() for head in of_model]
        splits = [width_split(*hidden.shape[:2], head.shape[1]) for head in heads]
        self.split = splits[0] if all(splits) else None
        self._shared = head_over_context.shared(self.split, self._vocabulary)

    def forward(self, asked: Asked, *tokens: jax.Array | None) -> Parts:
        """`head_pass.forward`: [parts, R, S, ...] each."""
        run = self._chosen(head_pass.forward, head_pass.forward_split, asked=asked)
        leaves, tree = jax.tree.flatten(head_pass.nothing(asked, 1))
        outputs = [(*self._of_part, *[None] * (x.ndim - 1)) for x in leaves]
        return jax.tree.unflatten(tree, self._run(run, outputs, tokens))

    def jensen_shannon(self, asked: Asked, *tokens: Any) -> tuple[jax.Array, jax.Array]:
        """`head_gradient.jensen_shannon`: [parts, R, S] each."""
        both = head_gradient.jensen_shannon, head_gradient.jensen_shannon_split
        return self._run(self._chosen(*both, asked=asked), [self._of_part] * 2, tokens)

    def backward(self, asked: Asked, frozen: bool, *tokens: Any) -> tuple[jax.Array, ...]:
        """`head_gradient.backward`: [parts, R, S, D] of the hidden states, and of the head.

        The latter is [parts, parts, V, D], or whole where the width is split: [V, D].
        """
        both = head_gradient.backward, head_gradient.backward_split
        run = self._chosen(*both, asked=asked, frozen=frozen)
        of_head = [] if frozen else [SPLIT_HEAD if self.split else (*TOKENS, *HEAD)]
        return self._run(run, [("vocab", *ROWS), *of_head], tokens, head_over_context.backward)

    @property
    def _of_part(self) -> Axes:
        return OF_ROW if self._shared else OF_VOCABULARY

    def _chosen(self, run: Callable, run_split: Callable, **options: Any) -> Callable:
        split = self._shared or self.split
        if split:
            return functools.partial(run_split, split=split, **options)
        return functools.partial(run, **options)

    def _run(
        self,
        run: Callable[..., Any],
        outputs: Sequence[Axes],
        tokens: Any,
        over_context: Callable[..., Any] = head_over_context.forward,
    ) -> tuple[jax.Array, ...]:
        """`run(heads, *tokens)` on each device; the leaves of its results."""
        hidden = {name: x for name, (x, *_) in self._models.items()}
        weights = {name: tuple(heads) for name, (_, *heads) in self._models.items()}
        heads = hidden, weights, self._which, jnp.arange(self._vocabulary)
        axes = SPLIT_HEAD if self.split else HEAD
        of_heads = (
            jax.tree.map(lambda _: ROWS, hidden),
            jax.tree.map(lambda _: axes, weights),
            None if self._which is None else (),
            IDS,
        )
        of_tokens = jax.tree.map(lambda x: (*TOKENS, *[None] * (x.ndim - 2)), tokens)
        leaves, tree = jax.tree.flatten((heads, tokens))
        inputs = tree.flatten_up_to((of_heads, of_tokens))
        if self._shared:
            run = functools.partial(over_context, run=run)

        def on_device(*args):
            of_device, tokens = jax.tree.unflatten(tree, args)
            return tuple(jax.tree.leaves(run(Heads(*of_device, self._num_ids), *tokens)))

        return on_each_device(on_device, inputs, tuple(outputs))(*leaves)
