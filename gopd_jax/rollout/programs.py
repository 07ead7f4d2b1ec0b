"""The device programs of the engine: pure functions of weights, cache blocks and a few numbers for each slot.

decode: up to K tokens of every slot. prefill: a piece of some prompts into their slots. share: a prompt's columns to the slots
of its other samples. shrink: the slots still in use to a narrower cache. Each is compiled once per bucket by the engine.
"""

from collections.abc import Sequence
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.kernels.decode_attention import Kernel, over_mesh
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import decode, output_head
from gopd_jax.models.rope import rotation
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.cache import Block, as_block, copy_rows, take, write
from gopd_jax.rollout.layouts import OneToken, Piece
from gopd_jax.rollout.sampling import draw, sample_keys
from gopd_jax.runtime.mesh import constrain

Blocks = tuple[tuple[Block, ...], ...]  # [block][layer]


@struct.dataclass
class SlotTable:
    """What a dispatch needs to know of each slot; every field [B].

    lengths: int32, columns in the cache. tokens: int32, the token to feed, which stands in column `lengths`. drawn, limits:
    int32, response tokens so far and at most. prompts, samples: uint32, for the keys. active: bool.
    """

    lengths: jax.Array
    tokens: jax.Array
    drawn: jax.Array
    limits: jax.Array
    prompts: jax.Array
    samples: jax.Array
    active: jax.Array


@struct.dataclass
class Outcome:
    """What a dispatch drew: tokens, logprobs [B, K], of which the first counts [B] are a slot's; whether a slot goes on, and
    if it does not, whether a stop id ended it; steps: how many were run."""

    tokens: jax.Array
    logprobs: jax.Array
    counts: jax.Array
    active: jax.Array
    stopped: jax.Array
    steps: jax.Array


def decode_steps(
    weights: Any,
    blocks: Blocks,
    fresh: tuple[Block, ...],
    table: SlotTable,
    key_data: jax.Array,
    exit_at: jax.Array,
    *,
    config: ModelConfig,
    rule: SamplingRule,
    kernel: Kernel,
    stop_ids: tuple[int, ...],
    shards: int,
    key_impl: str,
) -> tuple[Blocks, tuple[Block, ...], Outcome]:
    """Draws up to K tokens for every active slot, K the columns of `fresh`; ends early when at most `exit_at` slots go on.

    Args:
        weights: what `lay_out` returned. blocks: the live columns of the cache, donated. fresh: donated.
        key_data: of the key of (run seed, step); see `sampling.sample_keys`.

    Returns:
        the blocks with the new columns, fresh, and the outcome.
    """
    B, steps = len(table.tokens), fresh[0].keys.shape[2]
    keys_B = sample_keys(
        jax.random.wrap_key_data(key_data, impl=key_impl), table.prompts, table.samples
    )
    head_VD = output_head(weights)
    lengths_B = jnp.where(table.active, table.lengths, 0)
    kernel = over_mesh(kernel)

    def goes_on(carry):
        i, active_B = carry[:2]
        return (i < steps) & (jnp.sum(active_B) > exit_at)

    def one_step(carry):
        i, active_B, token_B, stopped_B, fresh, out = carry
        layout = OneToken(*rotation(config, (table.lengths + i)[:, None]), lengths_B, i, kernel)
        by_layer = [
            (tuple(block[layer] for block in blocks), fresh[layer])
            for layer in range(config.layers)
        ]
        hidden_B1D, fresh = decode(config, weights, token_B[:, None], layout, by_layer)
        logits_BV = jnp.einsum(
            "bd,vd->bv", hidden_B1D[:, 0], head_VD, preferred_element_type=jnp.float32
        )
        drawn_B = table.drawn + i
        token_B, logprob_B = draw(jax.vmap(jax.random.fold_in)(keys_B, drawn_B), logits_BV, rule)
        tokens_BT, logprobs_BT, counts_B = out
        tokens_BT = jax.lax.dynamic_update_index_in_dim(tokens_BT, token_B, i, axis=1)
        logprobs_BT = jax.lax.dynamic_update_index_in_dim(logprobs_BT, logprob_B, i, axis=1)
        counts_B = counts_B + active_B
        stopped_B = stopped_B | (active_B & jnp.isin(token_B, jnp.asarray(stop_ids)))
        active_B = active_B & ~stopped_B & (drawn_B + 1 < table.limits)
        return i + 1, active_B, token_B, stopped_B, fresh, (tokens_BT, logprobs_BT, counts_B)

    out = (
        jnp.zeros((B, steps), jnp.int32),
        jnp.zeros((B, steps), jnp.float32),
        jnp.zeros(B, jnp.int32),
    )
    carry = jnp.int32(0), table.active, table.tokens, jnp.zeros(B, bool), fresh, out
    i, active_B, _, stopped_B, fresh, (tokens_BT, logprobs_BT, counts_B) = jax.lax.while_loop(
        goes_on, one_step, carry
    )

    outcome = Outcome(tokens_BT, logprobs_BT, counts_B, active_B, stopped_B, i)
    return merge(blocks, fresh, table, i, shards=shards), fresh, outcome


def merge(
    blocks: Blocks, fresh: tuple[Block, ...], table: SlotTable, steps: jax.Array, *, shards: int
) -> Blocks:
    """The blocks with the first `steps` fresh columns of every active slot behind its own."""
    # Idle slots may hold a prompt that others will start from: nothing is written there.
    counts_Db = jnp.where(table.active, steps, 0).reshape(shards, -1)
    rows_Db = jnp.broadcast_to(jnp.arange(counts_Db.shape[1]), counts_Db.shape)
    return _write_all(blocks, fresh, rows_Db, table.lengths.reshape(shards, -1), counts_Db)


def prefill(
    weights: Any,
    blocks: Blocks,
    tokens_DrT: jax.Array,
    starts_Dr: jax.Array,
    lengths_Dr: jax.Array,
    rows_Dr: jax.Array,
    *,
    config: ModelConfig,
    prefix_blocks: int,
) -> Blocks:
    """Runs a piece of up to D x r prompts and writes its keys and values into their slots.

    Args:
        blocks: those that hold the prefix and the piece; donated.
        tokens_DrT: int32, padded at the end. starts_Dr: tokens of the prompt that are in the cache already, all within the
            first `prefix_blocks` blocks. lengths_Dr: tokens of the piece, 0: no prompt. rows_Dr: slot within the shard.
    """
    D, r, T = tokens_DrT.shape
    tokens_RT, starts_R, lengths_R = (
        tokens_DrT.reshape(D * r, T),
        starts_Dr.reshape(-1),
        lengths_Dr.reshape(-1),
    )
    layout = Piece(*rotation(config, starts_R[:, None] + jnp.arange(T)), lengths_R, starts_R)
    prefix = [
        tuple(take(block[layer], rows_Dr) for block in blocks[:prefix_blocks])
        for layer in range(config.layers)
    ]
    _, new = decode(config, weights, constrain(tokens_RT, ("batch", None)), layout, prefix)
    new = tuple(as_block(*pair, like=like) for pair, like in zip(new, blocks[0], strict=True))
    return _write_all(blocks, new, rows_Dr, starts_Dr, lengths_Dr)


def share(blocks: Blocks, sources_Db: jax.Array, targets_Db: jax.Array) -> Blocks:
    """Copies the columns of some slots to others; see `cache.copy_rows`."""
    return copy_rows(blocks, sources_Db, targets_Db)


def shrink(layers: tuple[Block, ...], rows_Dr: jax.Array) -> tuple[Block, ...]:
    """One block of a narrower cache: some rows of each shard of a wider one."""
    return take(layers, rows_Dr)


def _write_all(
    blocks: Blocks,
    new: Sequence[Block],
    rows_Dr: jax.Array,
    starts_Dr: jax.Array,
    counts_Dr: jax.Array,
) -> Blocks:
    """Every block with the new tokens that fall into it."""
    written, offset = [], 0
    for layers in blocks:
        written.append(write(layers, new, rows_Dr, starts_Dr, counts_Dr, offset))
        offset += layers[0].keys.shape[2]
    return tuple(written)
