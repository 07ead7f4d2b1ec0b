"""The caches that an engine keeps, one for each number of slots that it has used.

A cache is allocated when it is first needed and kept from call to call until `clear`. The engine
lends blocks of it to programs, which take their memory, and puts back the blocks that they return.
"""

import functools

import jax
from jax.typing import DTypeLike

from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.models.config import ModelConfig
from gopd_jax.rollout.cache import Blocks, SlotCache, cache_shardings, new_cache
from gopd_jax.runtime.mesh import with_shardings
from gopd_jax.runtime.programs import ProgramTable

MIN_SLOTS = 4  # the cache is not narrowed to fewer


def cache_widths(slots: int, shards: int) -> list[int]:
    """The numbers of slots that a cache may have: all slots, a quarter of them, and so on.

    The last samples of a call are moved to a narrower cache, which takes less time per step.
    """
    widths = [slots]
    while (narrower := widths[-1] // 4 // shards * shards) >= MIN_SLOTS:
        widths.append(narrower)
    return widths


class CachePool:
    """The caches of one engine; `pool[slots]` is the cache with that many slots.

    Args:
        programs: table that the program which allocates a cache is compiled in.
        config: architecture of the model.
        sizes: number of columns of each block.
        fresh_columns: largest number of tokens that a slot draws in one dispatch.
        dtype: of keys and values that are not quantized.
        quantized: whether keys and values are int8.
    """

    def __init__(
        self,
        programs: ProgramTable,
        config: ModelConfig,
        sizes: tuple[int, ...],
        fresh_columns: int,
        dtype: DTypeLike,
        quantized: bool,
    ):
        self._programs = programs
        self._new = functools.partial(
            new_cache,
            config=config,
            sizes=sizes,
            fresh_columns=fresh_columns,
            dtype=dtype,
            quantized=quantized,
        )
        self._caches: dict[int, SlotCache] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all caches, over all devices."""
        return sum(x.nbytes for x in jax.tree.leaves(self._caches))

    def abstract(self, slots: int) -> SlotCache:
        """The cache as ShapeDtypeStructs with shardings; nothing is allocated."""
        shapes = jax.eval_shape(functools.partial(self._new, rows=slots))
        return with_shardings(shapes, cache_shardings(self._programs.mesh, shapes))

    def __getitem__(self, slots: int) -> SlotCache:
        if slots not in self._caches:
            make = functools.partial(self._new, rows=slots)
            compiled = self._programs.compiled(
                make,
                name="cache",
                bucket=f"{slots} slots",
                out=lambda: jax.tree.map(lambda x: x.sharding, self.abstract(slots)),
            )
            self._caches[slots] = compiled()
        return self._caches[slots]

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
