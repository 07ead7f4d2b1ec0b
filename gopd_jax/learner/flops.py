"""Floating-point operations of scoring and training: the useful ones, and those that are run.

In: an architecture, and counts of what it is run on. Out: numbers of operations. Only matrix
products count, 2abc for [a, b] times [b, c]; norms, softmax and the optimizer do not. Runs nothing.

    useful    every real token once, and a prompt once for all of its samples; attention from each
              token to itself and the earlier ones of its own example, the head where a response is
              predicted, no product twice
    executed  what the program does: padding, masked scores and recomputation included
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from gopd_jax.kernels.packed_attention import prefix_of
from gopd_jax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """What one model is run on, over all rows.

    tokens: positions that pass through the blocks.
    pairs: pairs of a query and a key with a score, counted in one head of one layer.
    predictions: positions whose logits are computed.
    """

    tokens: int
    pairs: int
    predictions: int

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.predictions + other.predictions,
        )


@dataclasses.dataclass(frozen=True)
class Passes:
    """How often each part of a forward pass is done. A backward pass is two: one product for the
    gradient of each factor.
    """

    blocks: float = 1.0
    attention: float = 1.0
    head: float = 1.0


FORWARD = Passes()
TRAINING = Passes(3.0, 3.0, 3.0)  # nothing is recomputed


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations by part; attention's projections belong to the blocks."""

    blocks: float
    attention: float
    head: float

    @property
    def total(self) -> float:
        return self.blocks + self.attention + self.head

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            self.blocks + other.blocks, self.attention + other.attention, self.head + other.head
        )


def flops(config: ModelConfig, work: Work, passes: Passes = FORWARD) -> Flops:
    """The operations of some passes over some work.

    blocks     2 L tokens P      with P the elements of a block's matrices
    attention  4 L N H pairs     a score and a weighted value, 2 H each
    head       2 V D predictions
    """
    layers, heads = config.layers, config.heads * config.head_size
    return Flops(
        passes.blocks * 2 * layers * work.tokens * block_elements(config),
        passes.attention * 4 * layers * heads * work.pairs,
        passes.head * 2 * config.vocab_size * config.width * work.predictions,
    )


def block_elements(config: ModelConfig) -> int:
    """Elements of the matrices that one token is multiplied with in one block.

    With experts these are the router and the experts that a token goes to.
    """
    attention = config.width * config.head_size * 2 * (config.heads + config.kv_heads)
    if config.experts:
        expert = 3 * config.width * config.moe_mlp_width
        return attention + config.width * config.experts + config.experts_per_token * expert
    return attention + 3 * config.width * config.mlp_width


def training_passes(
    config: ModelConfig,
    *,
    block_again: bool,
    attention_again: bool,
    products_again: int,
    head_again: bool,
    ruled: float = 0.0,
    adapter: float = 0.0,
) -> Passes:
    """The passes of a train step that recomputes some of its forward pass.

    Args:
        config: the architecture.
        block_again: the backward pass repeats the products of each block, attention apart. The last
            one is not needed again, unless the router's gradient reads its result.
        attention_again: it repeats attention.
        products_again: products of attention's own backward pass besides the four that make the
            gradients: 1 if it computes the scores again. Two are a pass.
        head_again: it repeats the logits.
        ruled: share of the tokens whose log-prob under the sampling rule is computed as well,
            without a gradient.
        adapter: elements of the adapter, as a share of those of the blocks, where an adapter is
            trained. The matrices have no gradient then. 0 stands for all parameters.
    """
    last = 0 if config.experts else config.width * config.mlp_width
    once = needed_passes(adapter)
    return Passes(
        blocks=once.blocks + block_again * (1 - last / block_elements(config) + adapter),
        attention=once.attention + attention_again + products_again / 2,
        head=once.head + head_again + ruled,
    )


def needed_passes(adapter: float = 0.0) -> Passes:
    """The passes of a train step that recomputes nothing; `adapter` as in `training_passes`."""
    return Passes(2 + 3 * adapter, 3.0, 2.0) if adapter else TRAINING


def useful_work(
    prompts: Sequence[int], responses: Sequence[int], again: Sequence[bool] | None = None
) -> Work:
    """The work of examples of these many prompt and response tokens.

    Attention is causal: an example of n tokens has n (n + 1) / 2 pairs.

    Args:
        prompts, responses: tokens of each example.
        again: which examples have the prompt of another one, whose work counts there.
    """
    read = np.asarray(prompts, np.int64)
    lengths = read + np.asarray(responses, np.int64)
    known = read * (False if again is None else np.asarray(again, bool))
    pairs = (lengths * (lengths + 1) - known * (known + 1)) // 2
    tokens = int((lengths - known).sum())
    return Work(tokens, int(pairs.sum()), int(np.sum(responses, dtype=np.int64)))


def dense_pairs(rows: int, length: int, chunk: int) -> int:
    """Pairs where every query has a score for every key of its row.

    Args:
        rows: R over all micro-batches.
        length: S.
        chunk: rows of more tokens are cut into chunks of this many queries, the last one padded.
    """
    queries = length if length <= chunk else -(-length // chunk) * chunk
    return rows * queries * length


def block_pairs(segments_RS: np.ndarray, block: int) -> int:
    """Pairs where only blocks are run that causality and segments leave.

    Queries and keys are cut into blocks, of which the first one is padded. A block of keys is run
    for a block of queries if it is not later and both have a token of the same segment, or it has
    one of the prefix of the first segment of the queries.

    Args:
        segments_RS: int, not falling within a row but for the padding at its end, which is 0.
        block: queries and keys of a block.
    """
    rows, length = segments_RS.shape
    padded = np.pad(segments_RS, [(0, 0), (-length % block, 0)])
    blocks_RBb = padded.reshape(rows, -1, block)
    last_RB = blocks_RBb.max(axis=2)
    first_RB = np.where(blocks_RBb > 0, blocks_RBb, np.iinfo(np.int32).max).min(axis=2)
    meets_RBB = first_RB[:, :, None] <= last_RB[:, None, :]  # of a key block that is not later
    prefix_RB = prefix_of(first_RB)[:, :, None]
    meets_RBB |= (first_RB[:, None, :] <= prefix_RB) & (prefix_RB <= last_RB[:, None, :])
    run = np.tril(meets_RBB & (last_RB > 0)[:, :, None])
    return int(run.sum()) * block * block
