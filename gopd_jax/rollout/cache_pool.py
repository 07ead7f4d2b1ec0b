"""The cache that an engine draws with: of all its slots, or a narrower one for the last samples.

A cache is allocated when it is first needed, with zeros: what another model left might be NaN. It
lives until `clear`, at the end of a call. The engine lends blocks of it to programs, which take
their memory, and puts back the blocks that they return.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

import jax
from jax.typing import DTypeLike

from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.cache import Blocks, SlotCache, cache_shardings, joined, new_cache
from gopd_jax.rollout.scheduler import Scheduler
from gopd_jax.runtime.mesh import kv_copies, with_shardings
from gopd_jax.runtime.programs import ProgramTable

MIN_SLOTS = 4  # the cache is not narrowed to fewer

Layers = tuple[CacheBlock, ...]  # a block of each layer


def cache_widths(slots: int, shards: int) -> list[int]:
    """The numbers of slots that a cache may have: all slots, a quarter of them, and so on.

    The last samples of a call are moved to a narrower cache, which takes less time per step.
    """
    widths = [slots]
    while (narrower := widths[-1] // 4 // shards * shards) >= MIN_SLOTS:
        widths.append(narrower)
    return widths


def exit_at(scheduler: Scheduler, widths: Sequence[int]) -> int:
    """Number of active slots at which a dispatch ends early, to refill or narrow the cache.

    Args:
        widths: see `cache_widths`.
    """
    active = scheduler.active
    if scheduler.pending:
        return max(0, active - max(1, scheduler.slots // 16))  # refill 1 / 16 of the slots
    # Continue until the rest fits a narrower cache.
    at = max((w for w in widths if w < active), default=0)
    if scheduler.busiest_shard() * scheduler.shards > active:
        # The shards are uneven, so that their sum does not tell whether the rest fits.
        at = min(at, active - 1)
    return max(0, at)


class CachePool:
    """The caches of one engine; `pool[slots]` is the cache with that many slots.

    Args:
        programs: table that the program which allocates a cache is compiled in.
        configs: architectures of the models whose layers it holds.
        sizes: number of columns of each block.
        fresh_columns: largest number of tokens that a slot draws in one dispatch.
        dtype: of keys and values that are not quantized.
        quantized: whether keys and values are int8.
    """

    def __init__(
        self,
        programs: ProgramTable,
        configs: tuple[ModelConfig, ...],
        sizes: tuple[int, ...],
        fresh_columns: int,
        dtype: DTypeLike,
        quantized: bool,
    ):
        self._programs, self._sizes = programs, sizes
        self._new = functools.partial(
            _new_cache,
            configs=configs,
            fresh_columns=fresh_columns,
            dtype=dtype,
            quantized=quantized,
            copies=tuple(kv_copies(config.kv_heads, programs.mesh) for config in configs),
        )
        self._caches: dict[int, SlotCache] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, over all devices."""
        return sum(x.nbytes for x in jax.tree.leaves(self._caches))

    def abstract(self, slots: int) -> SlotCache:
        """The cache as ShapeDtypeStructs with shardings; nothing is allocated."""
        shapes = jax.eval_shape(functools.partial(self._new, rows=slots, sizes=self._sizes))
        return with_shardings(shapes, cache_shardings(self._programs.mesh, shapes))

    def bytes_of(self, slots: int) -> int:
        """Bytes of the cache with that many slots, over all devices."""
        shapes = jax.tree.leaves(self.abstract(slots))
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)

    def __getitem__(self, slots: int) -> SlotCache:
        if slots not in self._caches:
            self._caches[slots] = self._made(slots, 0)
        return self._caches[slots]

    def _made(self, slots: int, first: int) -> SlotCache:
        """A cache of zeros that lacks the blocks before the first one given."""
        make = functools.partial(self._new, rows=slots, sizes=self._sizes[first:])
        compiled = self._programs.compiled(
            make,
            name="cache",
            bucket=f"{slots} slots, {sum(self._sizes[first:])} columns",
            out=lambda: jax.tree.map(
                lambda x: x.sharding,
                self.abstract(slots).replace(blocks=self.abstract(slots).blocks[first:]),
            ),
        )
        return compiled()

    def replace(self, before: int, slots: int, move: Callable[[Layers], Layers], live: int) -> None:
        """Replaces a cache by a narrower one.

        Each block is given up as soon as it has moved, so that the two are never there together.

        Args:
            before, slots: numbers of slots.
            move: makes a block of the narrower cache of one of the wider cache.
            live: number of blocks that hold something.
        """
        wide, narrow = list(self[before].blocks[:live]), []
        del self._caches[before]
        while wide:
            narrow.append(move(wide.pop(0)))
        rest = self._made(slots, live)
        self._caches[slots] = rest.replace(blocks=(*narrow, *rest.blocks))

    def put_back(
        self, slots: int, blocks: Blocks, fresh: tuple[CacheBlock, ...] | None = None
    ) -> None:
        """Replaces the first blocks, and `fresh` if given, by what a program returned."""
        old = self._caches[slots]
        fresh = old.fresh if fresh is None else fresh
        self._caches[slots] = SlotCache((*blocks, *old.blocks[len(blocks) :]), fresh)

    def clear(self) -> None:
        """Frees the memory of all caches."""
        self._caches.clear()


def _new_cache(configs: Sequence[ModelConfig], copies: Sequence[int], **shape: Any) -> SlotCache:
    """A cache for the layers of several models; `shape` is that of `cache.new_cache`."""
    each = zip(configs, copies, strict=True)
    return joined([new_cache(config, copies=n, **shape) for config, n in each])
