"""The programs that the engine runs on the device.

Pure functions of decode weights, cache blocks and a few numbers for each slot: `decode_steps` draws
up to K tokens for every slot, `prefill` runs a chunk of some prompts, `copy_prompts` copies prompts
from slot to slot, and `shrink` moves slots to a narrower cache. The engine compiles each of them
once per bucket of shapes. Nothing here schedules or touches the host.
"""

from collections.abc import Callable, Sequence
import functools

from flax import struct
import jax
import jax.numpy as jnp

from gopd_jax.kernels.choose import matmul_of
from gopd_jax.kernels.decode_attention import CacheBlock, DecodeAttention, over_mesh
from gopd_jax.models.decoder import decode, output_head
from gopd_jax.models.rope import rotation
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.cache import Blocks, as_block, copy_rows, take, write
from gopd_jax.rollout.gathered import logits
from gopd_jax.rollout.layouts import OneToken, PrefillChunk
from gopd_jax.rollout.mixture import MEASURES, Member, Mixture, members, mixed
from gopd_jax.rollout.sampling import draw, sample_keys
from gopd_jax.runtime.mesh import constrain, platform_in_use
from gopd_jax.types import Params


@struct.dataclass
class SlotTable:
    """What a dispatch needs to know about each slot; every field [B].

    lengths: int32, columns of the cache that are filled.
    tokens: int32, the token to feed; its keys and values belong in column `lengths`.
    drawn, limits: int32, number of response tokens drawn so far, and at most.
    prompts, samples: uint32, the numbers that key the sample.
    active: bool, whether the slot draws.
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
    """What a dispatch drew.

    tokens: int32 [B, K], of which the first `counts` belong to the slot's sample.
    logprobs: float32 [B, K], nats, of these tokens.
    counts: int32 [B].
    active: bool [B], whether the slot continues.
    stopped: bool [B], whether a stop id ended the sample.
    steps: int32 scalar, number of steps that were run.
    sums: float32 [B, 2], the `mixture.MEASURES` of these tokens, added up; None without a mixture.
    """

    tokens: jax.Array
    logprobs: jax.Array
    counts: jax.Array
    active: jax.Array
    stopped: jax.Array
    steps: jax.Array
    sums: jax.Array | None = None


def decode_steps(
    weights: Params | Mixture,
    blocks: Blocks,
    fresh: tuple[CacheBlock, ...],
    table: SlotTable,
    key_data: jax.Array,
    exit_at: jax.Array,
    *,
    models: tuple[Member, ...],
    rule: SamplingRule,
    kernel: DecodeAttention,
    stop_ids: tuple[int, ...],
    shards: int,
    key_impl: str,
    num_ids: int | None = None,
    looks_every: int = 1,
) -> tuple[Blocks, tuple[CacheBlock, ...], Outcome]:
    """Draws up to K tokens for every active slot, where K is the number of columns of `fresh`.

    Args:
        weights: decode weights, see `weights.decode_weights`; or a mixture.
        blocks: the live columns of the cache; donated.
        fresh: columns for the tokens of this dispatch; donated.
        key_data: data of the key of (run seed, step); see `sampling.sample_keys`.
        exit_at: int32 scalar; the dispatch ends early when at most this many slots continue.
        models: the one that is drawn from, or those of the mixture. The cache holds the layers of
            the first in front.
        num_ids: ids from this number on are never drawn; None stands for the whole vocabulary.
        looks_every: number of steps after which the dispatch may end early. To count the slots
            that continue, all devices of a mesh must wait for each other.

    Returns:
        The blocks with the new columns, `fresh`, and the outcome.
    """
    table = jax.tree.map(lambda x: constrain(x, ("slots",)), table)
    B, steps = len(table.tokens), fresh[0].keys.shape[2]
    step_key = jax.random.wrap_key_data(key_data, impl=key_impl)
    keys_B = sample_keys(step_key, table.prompts, table.samples)
    kernel = over_mesh(kernel)
    lengths_B = jnp.where(table.active, table.lengths, 0)

    def continues(carry):
        i, active_B = carry[:2]
        return (i < steps) & (jnp.sum(active_B) > exit_at)

    def one_step(carry):
        i, active_B, token_B, stopped_B, fresh, (tokens_BT, logprobs_BT, counts_B, sums) = carry
        layout = functools.partial(OneToken, lengths_B=lengths_B, step=i, kernel=kernel)
        of_models, fresh = _feed(models, weights, token_B, table.lengths + i, layout, blocks, fresh)
        logits_BV, measured = mixed(weights, of_models, num_ids)
        if measured is not None:
            sums = sums + jnp.where(active_B[:, None], measured, 0.0)
        drawn_B = table.drawn + i
        token_B, logprob_B = draw(jax.vmap(jax.random.fold_in)(keys_B, drawn_B), logits_BV, rule)
        tokens_BT = jax.lax.dynamic_update_index_in_dim(tokens_BT, token_B, i, axis=1)
        logprobs_BT = jax.lax.dynamic_update_index_in_dim(logprobs_BT, logprob_B, i, axis=1)
        counts_B = counts_B + active_B
        stopped_B = stopped_B | (active_B & jnp.isin(token_B, jnp.asarray(stop_ids)))
        active_B = active_B & ~stopped_B & (drawn_B + 1 < table.limits)
        drawn = tokens_BT, logprobs_BT, counts_B, sums
        return i + 1, active_B, token_B, stopped_B, fresh, drawn

    def some_steps(carry):
        last = jnp.minimum(carry[0] + looks_every, steps)
        return jax.lax.while_loop(lambda carry: carry[0] < last, one_step, carry)

    body = one_step if looks_every == 1 else some_steps
    ints, floats = jnp.zeros((B, steps), jnp.int32), jnp.zeros((B, steps), jnp.float32)
    sums = jnp.zeros((B, len(MEASURES))) if isinstance(weights, Mixture) else None
    drawn = ints, floats, jnp.zeros(B, jnp.int32), sums
    carry = jnp.int32(0), table.active, table.tokens, jnp.zeros(B, bool), fresh, drawn
    i, active_B, _, stopped_B, fresh, drawn = jax.lax.while_loop(continues, body, carry)
    *drawn, sums = drawn
    outcome = Outcome(*drawn, active=active_B, stopped=stopped_B, steps=i, sums=sums)
    return merge(blocks, fresh, table, i, shards=shards), fresh, outcome


def _feed(
    models: tuple[Member, ...],
    weights: Params | Mixture,
    tokens_B: jax.Array,
    positions_B: jax.Array,
    layout: Callable[..., OneToken],
    blocks: Blocks,
    fresh: tuple[CacheBlock, ...],
) -> tuple[list[jax.Array], tuple[CacheBlock, ...]]:
    """Runs one token of every slot through each model; returns their logits, and `fresh`."""
    of_models, written = [], ()
    for model, own, layers in members(models, weights):
        angles = rotation(model.config, positions_B[:, None])
        caches = [(_layer(blocks, layer), fresh[layer]) for layer in layers]
        matmul = matmul_of(model.config.experts, platform_in_use())
        hidden_B1D, new = decode(
            model.config, own, tokens_B[:, None], layout(*angles), caches, matmul, model.split
        )
        written += new
        apply_head = logits if model.split is None else model.split.logits
        of_models.append(apply_head(hidden_B1D[:, 0], output_head(own)))
    return of_models, written


def merge(
    blocks: Blocks,
    fresh: tuple[CacheBlock, ...],
    table: SlotTable,
    steps: jax.Array,
    *,
    shards: int,
) -> Blocks:
    """The blocks with the first `steps` fresh columns of every active slot behind its own."""
    # An idle slot may hold a prompt that other samples start from: nothing is written there.
    counts_Db = jnp.where(table.active, steps, 0).reshape(shards, -1)
    rows_Db = jnp.broadcast_to(jnp.arange(counts_Db.shape[1]), counts_Db.shape)
    return _write_all(blocks, fresh, rows_Db, table.lengths.reshape(shards, -1), counts_Db)


def prefill(
    weights: Params | Mixture,
    blocks: Blocks,
    tokens_DrT: jax.Array,
    starts_Dr: jax.Array,
    lengths_Dr: jax.Array,
    rows_Dr: jax.Array,
    *,
    models: tuple[Member, ...],
    prefix_blocks: int,
) -> Blocks:
    """Runs a chunk of up to D x r prompts and writes its keys and values into their slots.

    Args:
        weights: decode weights, see `weights.decode_weights`; or a mixture.
        blocks: those that hold the prefix and the chunk; donated.
        tokens_DrT, starts_Dr, lengths_Dr, rows_Dr: fields of `scheduler.PrefillBatch`.
        models: as for `decode_steps`.
        prefix_blocks: number of blocks that hold the prefix.
    """
    D, r, T = tokens_DrT.shape
    tokens_RT = tokens_DrT.reshape(D * r, T)
    starts_R, lengths_R = starts_Dr.reshape(-1), lengths_Dr.reshape(-1)
    new = ()
    for model, own, layers in members(models, weights):
        cos, sin = rotation(model.config, starts_R[:, None] + jnp.arange(T))
        layout = PrefillChunk(cos, sin, lengths_R, starts_R)
        prefix = [
            tuple(take(block, rows_Dr) for block in _layer(blocks[:prefix_blocks], layer))
            for layer in layers
        ]
        tokens_RT = constrain(tokens_RT, ("slots", None))
        matmul = matmul_of(model.config.experts, platform_in_use())
        new += decode(model.config, own, tokens_RT, layout, prefix, matmul, model.split)[1]
    new = tuple(as_block(*pair, like=like) for pair, like in zip(new, blocks[0], strict=True))
    return _write_all(blocks, new, rows_Dr, starts_Dr, lengths_Dr)


def copy_prompts(blocks: Blocks, sources_Db: jax.Array, targets_Db: jax.Array) -> Blocks:
    """Copies the columns of some slots to others; see `cache.copy_rows`."""
    return copy_rows(blocks, sources_Db, targets_Db)


def shrink(layers: tuple[CacheBlock, ...], rows_Dr: jax.Array) -> tuple[CacheBlock, ...]:
    """One block of a narrower cache: the given rows of each shard of a wider one.

    Args:
        layers: the block of the wider cache.
        rows_Dr: int32, rows within the shard.
    """
    return take(layers, rows_Dr)


def _layer(blocks: Blocks, layer: int) -> tuple[CacheBlock, ...]:
    return tuple(block[layer] for block in blocks)


def _write_all(
    blocks: Blocks,
    new: Sequence[CacheBlock],
    rows_Dr: jax.Array,
    starts_Dr: jax.Array,
    counts_Dr: jax.Array,
) -> Blocks:
    """Every block with the new tokens that fall into it; see `cache.write`."""
    written, offset = [], 0
    for layers in blocks:
        written.append(write(layers, new, rows_Dr, starts_Dr, counts_Dr, offset))
        offset += layers[0].keys.shape[2]
    return tuple(written)
