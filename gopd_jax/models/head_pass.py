"""One device's pass over the vocabulary: what the heads of some models say of the wanted tokens.

In: hidden states of one or more models at the same predictions, their heads, and what is asked of
each prediction. Out: partial results of this device's part of the vocabulary, which `joined` makes
whole, and the gradient of the first model. The wanted hidden states are gathered first, and the
heads are applied to these alone, in chunks of tokens and blocks of the vocabulary; no array of all
tokens and all ids exists.

The models are the student, the teacher and the reference; "target" is the distribution in between,
whose logits are scale * teacher + (1 - scale) * reference.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gopd_jax.models import head_blocks
from gopd_jax.runtime.mesh import WidthSplit

NO_ID = 2**31 - 1  # more than any id
# Not -inf: a part of the vocabulary may have no id that counts, and inf - inf is NaN.
LEAST = float(jnp.finfo(jnp.float32).min)

STUDENT, TEACHER, REFERENCE, TARGET = "student", "teacher", "reference", "target"
MODELS = STUDENT, TEACHER, REFERENCE

Parts = dict[str, Any]  # partial results, see `forward`


class Asked(NamedTuple):
    """What is computed of each wanted prediction; static.

    means: by distribution, the logits whose means under it are wanted. A distribution without any
        is asked for its norm alone.
    gradients: which results have a gradient, of "logprobs", "means", "target", "candidates" and
        "jensen_shannon".
    candidates: number of most likely ids whose log-probs are wanted; 0 for none.
    candidates_of: the model that they are the most likely ids of.
    beta: weight of the target in the Jensen-Shannon divergence; None where that is not wanted.
    """

    means: tuple[tuple[str, tuple[str, ...]], ...]
    gradients: tuple[str, ...] = ("logprobs",)
    candidates: int = 0
    candidates_of: str = STUDENT
    beta: float | None = None

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are read, in their order."""
        return tuple(name for name in MODELS if name in dict(self.means))

    @property
    def mixes(self) -> bool:
        """Whether the target is asked for, and is not the teacher itself."""
        return TARGET in dict(self.means) and REFERENCE in self.models

    @property
    def of_target(self) -> set[str]:
        """The models that the target is made of."""
        return {TEACHER, REFERENCE} if self.mixes else {TEACHER}

    def logits(self, of_models: Mapping[str, jax.Array], scale_C: jax.Array | None) -> Parts:
        """The logits of all distributions, from those of the models; no target if one is absent."""
        if TARGET not in dict(self.means) or not self.of_target <= of_models.keys():
            return dict(of_models)
        target = of_models[TEACHER]
        if self.mixes:
            scale = scale_C[:, None]
            target = scale * target + (1 - scale) * of_models[REFERENCE]
        return {**of_models, TARGET: target}


LOGPROBS = Asked(means=((STUDENT, (STUDENT,)),))


@dataclasses.dataclass(frozen=True)
class Heads:
    """The models as a device holds them.

    hidden: [R, S, D] by model.
    weights: by model, its heads [V, D], of which one counts: that of the micro-batch's domain.
    which: int32 scalar, which of the teacher's heads that is; None where each model has one.
    ids: int32 [V].
    num_ids: ids from this number on do not exist; None stands for all.
    """

    hidden: Mapping[str, jax.Array]
    weights: Mapping[str, Sequence[jax.Array]]
    which: jax.Array | None
    ids: jax.Array
    num_ids: int | None

    @property
    def vocabulary(self) -> int:
        return self.ids.shape[0]

    def rows(self, model: str, take: Callable[[jax.Array], jax.Array]) -> jax.Array:
        """What `take` cuts out of the model's head; zeros fill up the width of a narrower one."""
        heads, width = self.weights[model], self.hidden[model].shape[-1]
        if len(heads) == 1:
            return take(heads[0])

        def taker(head):
            def cut(_):
                rows = take(head)
                return jnp.pad(rows, [(0, 0), (0, width - rows.shape[1])])

            return cut

        return jax.lax.switch(self.which, [taker(head) for head in heads], None)


# ---- Tokens.


class Chunks:
    """The wanted tokens of some rows, in chunks.

    Args:
        wanted_RS: bool.
        most: tokens of a chunk at most.
    """

    def __init__(self, wanted_RS: jax.Array, most: int):
        wanted = wanted_RS.reshape(-1)
        self.shape, self.size = wanted_RS.shape, min(most, wanted.size)
        self.padded = wanted.size + -wanted.size % self.size
        self.wanted = wanted
        self.tokens = jnp.sum(wanted, dtype=jnp.int32)
        order = jnp.nonzero(wanted, size=self.padded, fill_value=0)[0]
        # The last chunk is filled up with a token that is wanted: others may be NaN.
        filler = jnp.argmax(wanted)
        self.order = jnp.where(jnp.arange(self.padded) < self.tokens, order, filler)
        self.rank = jnp.cumsum(wanted) - 1
        self.count = -(-self.tokens // self.size)

    def take(self, index: jax.Array, x: jax.Array) -> jax.Array:
        """The entries of [R, S, ...] that belong to a chunk."""
        places = jax.lax.dynamic_slice(self.order, (index * self.size,), (self.size,))
        return jnp.take(x.reshape(-1, *x.shape[2:]), places, axis=0, mode="clip")

    def is_token(self, index: jax.Array) -> jax.Array:
        """Which entries of a chunk are tokens; the others fill up the last chunk."""
        return index * self.size + jnp.arange(self.size) < self.tokens

    def put(self, index: jax.Array, gathered: jax.Array, x: jax.Array) -> jax.Array:
        """Writes a chunk's results into `gathered`, [padded, ...]."""
        start = (index * self.size, *[0] * (x.ndim - 1))
        return jax.lax.dynamic_update_slice(gathered, x.astype(gathered.dtype), start)

    def spread(self, gathered: jax.Array) -> jax.Array:
        """[padded, ...] back to [R, S, ...], with 0 where nothing is wanted."""
        tail = gathered.shape[1:]
        wanted = self.wanted.reshape(-1, *[1] * len(tail))
        found = jnp.take(gathered, self.rank, axis=0, mode="clip")
        return jnp.where(wanted, found, 0).reshape(*self.shape, *tail)


# ---- Blocks of the vocabulary.


def over_blocks(blocks: int, body: Callable[[ArrayLike, Any], Any], start: Any) -> Any:
    """`fori_loop` over the blocks of the vocabulary; without a loop where there is one."""
    return body(0, start) if blocks == 1 else jax.lax.fori_loop(0, blocks, body, start)


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of the vocabulary: first row in the part, rows of each head, ids, which count."""

    start: jax.Array
    rows: dict[str, jax.Array]
    ids: jax.Array
    counts: jax.Array
    whole: bool

    def logits(self, asked: Asked, hidden: Mapping[str, jax.Array], scale_C) -> Parts:
        """float32 [C, v] of each distribution, -inf for ids that do not count."""
        found = {}
        for name, rows in self.rows.items():
            product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
            found[name] = product("cd,vd->cv", hidden[name], rows)
        found = asked.logits(found, scale_C)
        return found if self.whole else {k: self.masked(x, -jnp.inf) for k, x in found.items()}

    def masked(self, x_Cv: jax.Array, other: float = 0.0) -> jax.Array:
        """The entries of ids that count."""
        return x_Cv if self.whole else jnp.where(self.counts, x_Cv, other)


def block_of(heads: Heads, number: ArrayLike, size: int, models: Sequence[str]) -> Block:
    """A block of `size` ids.

    The last block begins early enough to be whole; what an earlier one had does not count.
    """
    V, num_ids = heads.vocabulary, heads.num_ids
    start = jnp.minimum(number * size, V - size)
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
    ids, counts = cut(heads.ids), start + jnp.arange(size) >= number * size
    rows = {name: heads.rows(name, cut) for name in models}
    if num_ids is not None:
        counts &= ids < num_ids
        # Whatever stands there must not meet a 0: 0 * NaN is NaN.
        rows = {name: jnp.where((ids < num_ids)[:, None], x, 0) for name, x in rows.items()}
    return Block(start, rows, ids, counts, whole=num_ids is None and V % size == 0)


def sizes(heads: Heads, wanted_RS: jax.Array, models: int) -> tuple[Chunks, int, int]:
    """The chunks of the wanted tokens, ids of a block, and the number of blocks.

    Args:
        models: whose logits of a block exist at once.
    """
    chunks = Chunks(wanted_RS, head_blocks.chunk_tokens(wanted_RS.size))
    return chunks, *head_blocks.vocabulary_blocks(chunks.size, heads.vocabulary, models)


# ---- Forward.


def forward(
    heads: Heads,
    targets_RS: jax.Array,
    wanted_RS: jax.Array,
    scale_RS: jax.Array | None,
    *,
    asked: Asked,
) -> Parts:
    """What a part of the vocabulary adds, float32 [1, R, S] each.

    Returns:
        For each distribution asked for, {"largest", "total", "sums": (...)}: its largest logit, the
        norm and the sum of p * logit for each of its means, relative to exp(largest); "logits" of
        the target ids by model; and "candidates", [1, R, S, k] each, if there are any.
    """
    chunks, size, blocks = sizes(heads, wanted_RS, len(asked.models))

    def block(number, running, hidden, targets_C, scale_C):
        here = block_of(heads, number, size, asked.models)
        logits = here.logits(asked, hidden, scale_C)
        found = {
            name: _more(running[name], logits[name], [here.masked(logits[x]) for x in of])
            for name, of in asked.means
        }
        hit = (here.ids == targets_C[:, None]) & here.counts
        # A comparison and not a gather: the id may be in another part.
        found["logits"] = {
            name: x + jnp.sum(jnp.where(hit, logits[name], 0.0), axis=-1)
            for name, x in running["logits"].items()
        }
        if asked.candidates:
            new = {name: logits[name] for name in asked.models}
            new["ids"] = jnp.broadcast_to(here.ids, hit.shape)
            found["candidates"] = _most_likely(asked, running["candidates"], new)
        return found

    def chunk(index, gathered):
        take = functools.partial(chunks.take, index)
        hidden = {name: take(heads.hidden[name]) for name in asked.models}
        given = hidden, take(targets_RS), None if scale_RS is None else take(scale_RS)
        start = nothing(asked, chunks.size)
        found = over_blocks(blocks, lambda n, x: block(n, x, *given), start)
        return jax.tree.map(functools.partial(chunks.put, index), gathered, found)

    empty = jax.tree.map(jnp.zeros_like, nothing(asked, chunks.padded))
    found = jax.lax.fori_loop(0, chunks.count, chunk, empty)
    return jax.tree.map(lambda x: chunks.spread(x)[None], found)


def nothing(asked: Asked, tokens: int) -> Parts:
    """The results of no ids."""
    zeros, least = jnp.zeros(tokens), jnp.full(tokens, LEAST)
    found: Parts = {
        name: {"largest": least, "total": zeros, "sums": (zeros,) * len(of)}
        for name, of in asked.means
    }
    found["logits"] = {name: zeros for name in asked.models}
    if asked.candidates:
        shape = tokens, asked.candidates
        found["candidates"] = {name: jnp.full(shape, LEAST) for name in asked.models}
        found["candidates"]["ids"] = jnp.full(shape, NO_ID, jnp.int32)
    return found


def _more(running: Parts, logits_Cv: jax.Array, means_Cv: Sequence[jax.Array]) -> Parts:
    """The norm and sums of a distribution with those of a further block."""
    new = jnp.maximum(running["largest"], jnp.max(logits_Cv, axis=-1))
    shares = jnp.exp(logits_Cv - new[:, None])
    shrink = jnp.exp(running["largest"] - new)
    sums = [
        x * shrink + jnp.sum(shares * more, axis=-1)
        for x, more in zip(running["sums"], means_Cv, strict=True)
    ]
    total = running["total"] * shrink + jnp.sum(shares, axis=-1)
    return {"largest": new, "total": total, "sums": tuple(sums)}


def _most_likely(asked: Asked, *several: Parts) -> Parts:
    """The most likely ids among several lists, [..., n] each, with the logits of all models."""
    joined = {name: jnp.concatenate([x[name] for x in several], axis=-1) for name in several[0]}
    _, places = jax.lax.top_k(joined[asked.candidates_of], asked.candidates)
    return {name: jnp.take_along_axis(x, places, axis=-1) for name, x in joined.items()}


def joined(parts: Parts, asked: Asked) -> Parts:
    """What parts of the vocabulary found, [parts, R, S] each, as that of one, [R, S]."""
    found: Parts = {}
    for name, _ in asked.means:
        largest = parts[name]["largest"]
        overall = jnp.max(largest, axis=0)
        shrink = jnp.exp(largest - overall)
        added = [jnp.sum(x * shrink, axis=0) for x in (parts[name]["total"], *parts[name]["sums"])]
        found[name] = {"largest": overall, "total": added[0], "sums": tuple(added[1:])}
    found["logits"] = {name: jnp.sum(x, axis=0) for name, x in parts["logits"].items()}
    if asked.candidates:
        lists = [
            jax.tree.map(lambda x, i=i: x[i], parts["candidates"]) for i in range(_count(parts))
        ]
        found["candidates"] = _most_likely(asked, *lists)
    return found


def _count(parts: Parts) -> int:
    return len(parts["candidates"]["ids"])


# ---- Where the width of the heads is split over devices.


class Gathered:
    """The blocks of the vocabulary of heads that are split by width, each with its whole width.

    Args:
        heads: what this device has of them.
        tokens: those that the heads are applied to.
        models: whose logits of a block exist at once.
        split: how the width is split.
    """

    def __init__(self, heads: Heads, tokens: int, models: int, split: WidthSplit):
        self.parts, self.split = heads, split
        chunk = head_blocks.chunk_tokens(tokens)
        width = heads.hidden[STUDENT].shape[-1]
        of = head_blocks.vocabulary_blocks(chunk, heads.vocabulary, models, gathered=width)
        self.size, self.count = of

    def start(self, number: jax.Array) -> jax.Array:
        """The first row of a block. The last block begins early enough to be whole."""
        return jnp.minimum(number * self.size, self.parts.vocabulary - self.size)

    def block(self, number: jax.Array, models: Sequence[str]) -> Heads:
        """A block as heads of their own; what an earlier block had gets the id NO_ID."""
        start, heads = self.start(number), self.parts
        cut = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=self.size
        )
        is_new = start + jnp.arange(self.size) >= number * self.size
        gathered = {
            name: (heads.rows(name, lambda head: self.split.gather(cut(head))),) for name in models
        }
        return dataclasses.replace(
            heads,
            hidden={name: heads.hidden[name] for name in models},
            weights=gathered,
            which=None,
            ids=jnp.where(is_new, cut(heads.ids), NO_ID),
            num_ids=NO_ID if heads.num_ids is None else heads.num_ids,
        )


def forward_split(heads: Heads, *of_tokens: jax.Array, asked: Asked, split: WidthSplit) -> Parts:
    """`forward`, one gathered block after the other."""
    blocks = Gathered(heads, of_tokens[1].size, len(asked.models), split)

    def found_in(number):
        parts = forward(blocks.block(number, asked.models), *of_tokens, asked=asked)
        return jax.tree.map(lambda x: x[0], parts)

    found = joined(jax.lax.map(found_in, jnp.arange(blocks.count)), asked)
    return jax.tree.map(lambda x: x[None], found)
