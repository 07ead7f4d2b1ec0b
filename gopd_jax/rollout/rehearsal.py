"""Every program that an engine can need, asked for with shapes: the engine's own code, no device.

In: an engine whose program table is a `Rehearsal`, and the shapes of parameters. Out: nothing; the
table has the calls. The engine runs its own methods; only the scheduler is replaced, by one that
stands where the shapes are those of a bucket.
"""

from collections.abc import Iterator
import dataclasses

import jax
import numpy as np

from gopd_jax.models.settings import SamplingRule
from gopd_jax.rollout.cache import blocks_for
from gopd_jax.rollout.device_programs import SlotTable
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.scheduler import SMALL_BATCH, PrefillBatch, Scheduler, chunk_width
from gopd_jax.types import Params


@dataclasses.dataclass
class _Standing:
    """A scheduler at one moment.

    slots: of the cache in use.
    columns: filled by the longest sample.
    narrower: slots that hold all active samples.
    """

    slots: int
    shards: int
    columns: int
    narrower: int = 0
    pending: bool = False

    @property
    def active(self) -> int:
        return self.slots

    def longest(self) -> int:
        return self.columns

    def prompt_length(self, slot: int) -> int:
        return self.columns

    def busiest_shard(self) -> int:
        return self.narrower // self.shards

    def table(self) -> SlotTable:
        return Scheduler([], self.slots, self.shards, 1).table()

    def shrink(self, slots: int) -> np.ndarray:
        self.slots = slots
        return np.zeros((self.shards, slots // self.shards), np.int32)


def rehearse(
    engine: RolloutEngine,
    params: Params,
    rule: SamplingRule,
    *,
    samples: int = 1,
    requests: int | None = None,
    every: bool = False,
) -> Params:
    """Asks for the programs of a call of the engine.

    Args:
        params: of the model, as shapes with shardings.
        rule: the distribution that is drawn from.
        samples: of one prompt; with several, prompts are copied from slot to slot.
        requests: number of them, which may need fewer slots; None uses all slots.
        every: asks for the programs of all buckets; else, of each kind of program, for those that
            need the most memory.

    Returns:
        The decode weights, as shapes.
    """
    weights = engine.sync_weights(params)
    wanted = engine.slots if requests is None else requests
    first = min((w for w in engine.widths if w >= wanted), default=engine.slots)
    widths = [w for w in engine.widths if w <= first]
    decode = engine.decode_function(rule, str(jax.random.key_impl(jax.random.key(0))))
    for slots in widths if every else widths[:1]:
        for batch in _prefill_batches(engine, slots, every):
            engine._prefill(weights, slots, batch)
        for columns in _lengths(engine, engine.max_prompt_tokens, every) if samples > 1 else ():
            standing = _Standing(slots, engine.shards, columns)
            engine._copy(standing, [(0, 1)])
        most = engine.max_prompt_tokens + engine.max_response_tokens - 2
        for columns in _lengths(engine, most, every, engine.options.steps_per_dispatch):
            engine._decode(
                decode, weights, _Standing(slots, engine.shards, columns), np.zeros(2, np.uint32)
            )
    for slots in widths if every else widths[:1]:
        narrower = [w for w in widths if w < slots]
        for width in narrower if every else narrower[:1]:
            for columns in _lengths(engine, most, every):
                engine._narrow(_Standing(slots, engine.shards, columns, width))
    return weights


def _lengths(engine: RolloutEngine, most: int, every: bool, further: int = 0) -> list[int]:
    """Numbers of columns up to `most`, one for each number of blocks that a program may get.

    Args:
        further: columns that the program needs besides.
    """
    if not every:
        return [most]
    found = {blocks_for(engine.sizes, n + further): n for n in range(most + 1)}
    return sorted(found.values())


def _prefill_batches(engine: RolloutEngine, slots: int, every: bool) -> Iterator[PrefillBatch]:
    """Batches of chunks with the shapes that the scheduler makes; see `Scheduler.prefill_batch`."""
    chunk, limit = engine.longest_chunk, engine.max_prompt_tokens
    in_shard = slots // engine.shards
    shapes = set()
    for prefix in range(0, limit, chunk):
        for width in {chunk_width(left, chunk) for left in range(1, limit - prefix + 1)}:
            most = max(1, min(in_shard, engine.options.prefill_tokens // width))
            few = max(1, min(max(1, in_shard // 16), SMALL_BATCH // width, most))
            shapes |= {(prefix, most, width), (prefix, few, width)}
    # With the longest prefix, attention is widest; among equals, most tokens need most memory.
    chosen = sorted(shapes) if every else [max(shapes, key=lambda s: (s[0], s[1] * s[2], s[2]))]
    if not every and chosen[0][0]:
        chosen.append(max(shapes, key=lambda s: (s[1] * s[2], s[2])))
    for prefix, rows, width in chosen:
        numbers = [np.zeros((engine.shards, rows), np.int32) for _ in range(3)]
        tokens = np.zeros((engine.shards, rows, width), np.int32)
        yield PrefillBatch(tokens, *numbers, prefix, True)
