"""The rollout engine: a fixed number of cache slots, refilled while the others go on.

In: the student's parameters, requests. Out: finished rollouts as they finish, in any order. The device runs up to K tokens of
every slot per dispatch (`programs`), the host only schedules (`scheduler`). Does not score, verify or decode text.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from gopd_jax.kernels import decode_attention as kernels
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.rollout import programs
from gopd_jax.rollout.cache import AXES, SlotCache, block_sizes, blocks_for, new_cache
from gopd_jax.rollout.scheduler import Scheduler
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.rollout.weights import make_lay_out
from gopd_jax.runtime.mesh import RULES, replicated, rows_multiple
from gopd_jax.types import Request, Rollout

NARROWEST = 4  # slots below which the cache is not narrowed any more


DEFAULTS = EngineOptions()


@dataclasses.dataclass(frozen=True)
class Program:
    """One compiled program: what it does, its bucket, and what the compiler says of it."""

    kind: str
    bucket: str
    compile_seconds: float
    temporary_bytes: int

    def __str__(self) -> str:
        return f"{self.kind} {self.bucket} ({self.compile_seconds:.1f} s)"


@dataclasses.dataclass
class RolloutStats:
    """What the engine has done; a new one for each call. slot_steps: slots x decode steps, drawing or not."""

    samples: int = 0
    tokens: int = 0
    prompt_tokens: int = 0  # each prompt counted once
    prefill_tokens: int = 0
    copies: int = 0
    dispatches: int = 0
    steps: int = 0
    slot_steps: int = 0

    @property
    def utilisation(self) -> float:
        """Share of slot steps that drew a token."""
        return self.tokens / max(1, self.slot_steps)


class RolloutEngine:
    """Draws samples with a fixed number of slots.

    Args:
        config: architecture of the model that is sampled.
        mesh: slots are spread over its data and fsdp axes, weights and caches over its tensor axis.
        stop_ids: a drawn stop id ends the response and is part of it.
        slots: sequences decoded at once; a multiple of data x fsdp devices.
        max_prompt_tokens, max_response_tokens: a slot's cache has columns for both.
        dtype: compute dtype, and that of the cache.
        say: told which programs a call compiled, and which kernel was chosen why.

    Raises:
        ValueError: slots that the mesh does not divide, no stop id or one outside the vocabulary, an unknown option.
    """

    def __init__(
        self,
        config: ModelConfig,
        mesh: Mesh,
        stop_ids: Sequence[int],
        *,
        slots: int,
        max_prompt_tokens: int,
        max_response_tokens: int,
        dtype: Any = jnp.float32,
        options: EngineOptions = DEFAULTS,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.shards = rows_multiple(mesh)
        if slots < 1 or slots % self.shards:
            raise ValueError(
                f"rollout slots={slots}: wanted a positive multiple of {self.shards} (data x fsdp devices)"
            )
        outside = [i for i in stop_ids if not 0 <= i < config.vocab_size]
        if not stop_ids or outside:
            raise ValueError(
                f"stop ids {list(stop_ids)}: wanted at least one, all in [0, {config.vocab_size}); outside: {outside}"
            )
        self.config, self.mesh, self.slots, self.dtype, self.options = (
            config,
            mesh,
            slots,
            dtype,
            options,
        )
        self.stop_ids = tuple(stop_ids)
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        platform, quantized = mesh.devices.flat[0].platform, options.kv_cache == "int8"
        self.sizes = block_sizes(max_prompt_tokens + max_response_tokens, fine=platform == "cpu")
        self.kernel = kernels.choose(
            options.kernel, platform, quantized=quantized, block_sizes=self.sizes
        )
        self.longest_piece = min(options.prefill_tokens, max_prompt_tokens)
        self.widths = [
            slots
        ]  # of the caches: a narrower one for the last samples; a kernel that skips idle slots needs none
        while (
            not self.kernel.skips
            and (less := self.widths[-1] // 4 // self.shards * self.shards) >= NARROWEST
        ):
            self.widths.append(less)
        self.programs: list[Program] = []
        self.stats = RolloutStats()
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._caches: dict[int, SlotCache] = {}
        self._lay_out = make_lay_out(config, mesh, dtype, options.weights == "int8")
        self._busy, self._said, self._say = False, 0, say
        say(f"rollout engine: {slots} slots x {sum(self.sizes)} columns, kernel {self.kernel.why}")

    # ---- Weights and memory.

    def lay_out(self, params: Any) -> Any:
        """The parameters cast, unstacked and resharded for decode: one device program, once for each change of weights."""
        return self._program("weights", "", self._lay_out, params)(params)

    @property
    def cache_bytes(self) -> int:
        """Bytes of all caches, over all devices. They are kept from call to call, until `free`."""
        return sum(x.nbytes for x in jax.tree.leaves(self._caches))

    def free(self) -> None:
        """Gives the memory of the caches back; the next call allocates them again."""
        self._caches.clear()

    # ---- Drawing.

    def __call__(
        self, weights: Any, requests: Sequence[Request], key: jax.Array, rule: SamplingRule = PLAIN
    ) -> Iterator[Rollout]:
        """Draws every request from `weights` (what `lay_out` returned) and yields the rollouts as they finish, in any order.

        A rollout depends on the weights, its request, the rule and `key` (that of run seed and step; see
        `sampling.sample_keys`): not on the slots, the other requests, or where and when it was drawn. One call at a time.

        Raises:
            ValueError: before anything is drawn, for a prompt or a token limit that the cache cannot hold, two prompts of one
                id, or more samples of a prompt than slots; names the prompt.
        """
        self._check(requests)
        if self._busy:
            raise RuntimeError(
                "this engine is drawing already; finish or close the other iterator first"
            )
        self._busy = True
        try:
            yield from self._draw(weights, requests, key, rule)
        except GeneratorExit:  # closed early: the caches are whole
            raise
        except BaseException:
            self.free()  # a program may have been given the caches and not given them back
            raise
        finally:
            self._busy = False
            if new := self.programs[self._said :]:
                seconds = sum(p.compile_seconds for p in new)
                self._say(
                    f"rollout engine: compiled {len(new)} programs in {seconds:.1f} s: {', '.join(map(str, new))}"
                )
                self._said = len(self.programs)

    def _check(self, requests: Sequence[Request]) -> None:
        tokens: dict[str, np.ndarray] = {}
        for r in requests:
            name = r.key.prompt_id
            if not 0 < len(r.prompt.tokens) <= self.max_prompt_tokens:
                raise ValueError(
                    f"prompt {name!r} has {len(r.prompt.tokens)} tokens: wanted 1 to max_prompt_tokens={self.max_prompt_tokens}"
                )
            if not 0 < r.max_tokens <= self.max_response_tokens:
                raise ValueError(
                    f"prompt {name!r} asks for max_tokens={r.max_tokens}: "
                    f"wanted 1 to max_response_tokens={self.max_response_tokens}"
                )
            first = tokens.setdefault(name, r.prompt.tokens)
            if first is not r.prompt.tokens and not np.array_equal(first, r.prompt.tokens):
                raise ValueError(
                    f"prompt id {name!r} stands for two prompts: wanted an id for each"
                )
        for name, count in Counter(r.key.prompt_id for r in requests).items():
            if count > self.slots:
                raise ValueError(
                    f"prompt {name!r} is asked for {count} samples: wanted at most slots={self.slots}"
                )

    def _draw(
        self, weights: Any, requests: Sequence[Request], key: jax.Array, rule: SamplingRule
    ) -> Iterator[Rollout]:
        width = min((w for w in self.widths if w >= len(requests)), default=self.slots)
        scheduler = Scheduler(requests, width, self.shards, self.longest_piece)
        self.stats = stats = RolloutStats(len(requests))
        stats.prompt_tokens = sum(
            len(r.prompt.tokens) for r in {r.key.prompt_id: r for r in requests}.values()
        )
        key_data, key_impl = np.asarray(jax.random.key_data(key)), str(jax.random.key_impl(key))
        while scheduler.pending or scheduler.active:
            with jax.set_mesh(
                self.mesh
            ):  # not around the yield: what happens between rollouts is the caller's
                self._fill(weights, scheduler)
                self._narrow(scheduler)
                outcome = self._decode(weights, scheduler, key_data, key_impl, rule)
            stats.dispatches += 1
            stats.steps += int(outcome.steps)
            stats.slot_steps += int(outcome.steps) * scheduler.slots
            stats.tokens += int(outcome.counts.sum())
            yield from scheduler.record(outcome)

    def _fill(self, weights: Any, scheduler: Scheduler) -> None:
        """Copies and prefills until no free slot can be given anything; of long prompts only one piece while others draw."""
        few = max(1, scheduler.slots // self.shards // 16)
        while True:
            if copies := scheduler.place():
                self._share(scheduler, copies)
            if not scheduler.prefilling:
                return
            batch, width, prefix, unfinished = scheduler.pieces(few, self.options.prefill_tokens)
            prefix_blocks = blocks_for(self.sizes, prefix)
            reach = min(sum(self.sizes[:prefix_blocks]) + width, sum(self.sizes))
            cache, n = self._cache(scheduler.slots), blocks_for(self.sizes, reach)
            run = functools.partial(
                programs.prefill, config=self.config, prefix_blocks=prefix_blocks
            )
            args = weights, cache.blocks[:n], batch.tokens, batch.starts, batch.lengths, batch.rows
            bucket = f"{scheduler.slots} slots, {batch.rows.size} x {width} after {sum(self.sizes[:prefix_blocks])}"
            blocks = self._program(
                "prefill",
                bucket,
                run,
                *args,
                donate=1,
                out=functools.partial(self.places, cache.blocks[:n]),
            )(*args)
            self._keep(scheduler.slots, blocks)
            self.stats.prefill_tokens += int(batch.lengths.sum())
            if unfinished and scheduler.active:
                return

    def _share(self, scheduler: Scheduler, copies: list[tuple[int, int]]) -> None:
        rows = scheduler.slots // self.shards
        sources, targets = (
            np.zeros((self.shards, rows), np.int32),
            np.full((self.shards, rows), -1, np.int32),
        )
        used = np.zeros(self.shards, np.int32)
        for source, target in copies:
            shard = target // rows
            sources[shard, used[shard]], targets[shard, used[shard]] = source % rows, target % rows
            used[shard] += 1
        n = blocks_for(self.sizes, max(scheduler.prompt_length(target) for _, target in copies))
        cache = self._cache(scheduler.slots)
        args = cache.blocks[:n], sources, targets
        bucket = f"{scheduler.slots} slots, {sum(self.sizes[:n])} columns"
        blocks = self._program(
            "share",
            bucket,
            programs.share,
            *args,
            donate=0,
            out=lambda: self.places(cache.blocks[:n]),
        )(*args)
        self._keep(scheduler.slots, blocks)
        self.stats.copies += len(copies)

    def _narrow(self, scheduler: Scheduler) -> None:
        """Moves the last samples to the narrowest cache that holds them."""
        if scheduler.pending:
            return
        busiest = scheduler.busiest_shard()
        width = min(w for w in self.widths if w >= busiest * self.shards)
        if width >= scheduler.slots:
            return
        wide, narrow = self._cache(scheduler.slots), self._cache(width)
        n, old = blocks_for(self.sizes, scheduler.longest()), scheduler.slots
        rows = scheduler.shrink(width)
        blocks = []
        for layers, target, size in zip(wide.blocks[:n], narrow.blocks, self.sizes, strict=False):
            args = target, layers, rows
            bucket = f"{old} to {width} slots, {size} columns"
            blocks.append(
                self._program(
                    "shrink",
                    bucket,
                    _shrink,
                    *args,
                    donate=0,
                    out=functools.partial(self.places, target),
                )(*args)
            )
        self._keep(width, tuple(blocks))

    def _decode(
        self,
        weights: Any,
        scheduler: Scheduler,
        key_data: np.ndarray,
        key_impl: str,
        rule: SamplingRule,
    ) -> programs.Outcome:
        """One dispatch; its outcome on the host."""
        cache = self._cache(scheduler.slots)
        n = max(1, blocks_for(self.sizes, scheduler.longest() + self.options.steps_per_dispatch))
        active = scheduler.active
        if scheduler.pending:
            exit_at = active - max(1, scheduler.slots // 16)  # so many are refilled together
        else:
            exit_at = max(
                (w for w in self.widths if w < active), default=0
            )  # then the cache can be narrowed
            if (
                scheduler.busiest_shard() * self.shards > active
            ):  # uneven shards: the total says too little
                exit_at = min(exit_at, active - 1)
        run = self.decode_function(rule, key_impl)
        args = (
            weights,
            cache.blocks[:n],
            cache.fresh,
            scheduler.table(),
            key_data,
            np.int32(max(0, exit_at)),
        )
        bucket = f"{scheduler.slots} slots, {sum(self.sizes[:n])} columns"
        compiled = self._program(
            "decode",
            bucket,
            run,
            *args,
            donate=(1, 2),
            out=lambda: self.decode_places(cache, n),
            salt=(rule, key_impl),
        )
        blocks, fresh, outcome = compiled(*args)
        self._keep(scheduler.slots, blocks, fresh)
        return jax.device_get(outcome)

    # ---- Compiled programs and caches.

    def decode_function(self, rule: SamplingRule, key_impl: str) -> Callable[..., Any]:
        """`programs.decode_steps` of this engine, before jit."""
        return functools.partial(
            programs.decode_steps,
            config=self.config,
            rule=rule,
            kernel=self.kernel.kernel,
            stop_ids=self.stop_ids,
            shards=self.shards,
            key_impl=key_impl,
        )

    def new_cache(self, slots: int) -> SlotCache:
        """A zero cache, traceable."""
        steps, quantized = self.options.steps_per_dispatch, self.options.kv_cache == "int8"
        return new_cache(self.config, slots, self.sizes, steps, self.dtype, quantized)

    def places(self, tree: Any) -> Any:
        """Shardings of cache arrays."""
        return jax.tree.map(
            lambda x: NamedSharding(
                self.mesh, PartitionSpec(*[RULES[a] if a else None for a in AXES[: x.ndim]])
            ),
            tree,
        )

    def decode_places(self, cache: SlotCache, blocks: int) -> Any:
        """Shardings of what `programs.decode_steps` returns: the outcome whole on every device."""
        return self.places(cache.blocks[:blocks]), self.places(cache.fresh), replicated(self.mesh)

    def _cache(self, slots: int) -> SlotCache:
        if slots not in self._caches:
            make = functools.partial(self.new_cache, slots)
            with jax.set_mesh(self.mesh):
                out = functools.partial(self.places, jax.eval_shape(make))
                self._caches[slots] = self._program("cache", f"{slots} slots", make, out=out)()
        return self._caches[slots]

    def _keep(self, slots: int, blocks: programs.Blocks, fresh: Any = None) -> None:
        """Puts blocks that a program returned in the place of those that it was given."""
        old = self._caches[slots]
        self._caches[slots] = SlotCache(
            (*blocks, *old.blocks[len(blocks) :]), old.fresh if fresh is None else fresh
        )

    def _program(
        self,
        kind: str,
        bucket: str,
        function: Callable[..., Any],
        *args: Any,
        donate: Any = (),
        out: Callable[[], Any] | None = None,
        salt: Any = None,
    ) -> Callable[..., Any]:
        """The compiled program of a bucket. `out`: shardings of what it returns; without it, `function` is jitted already."""
        name = (kind, bucket, salt)
        if name not in self._compiled:
            start = time.perf_counter()
            if out is not None:
                function = jax.jit(
                    function, donate_argnums=donate, out_shardings=out(), keep_unused=True
                )
            compiled = function.lower(*args).compile()
            memory = compiled.memory_analysis()
            seconds = time.perf_counter() - start
            self.programs.append(
                Program(kind, bucket, seconds, getattr(memory, "temp_size_in_bytes", 0))
            )
            self._compiled[name] = compiled
        return self._compiled[name]


def _shrink(target: Any, layers: Any, rows_Dr: jax.Array) -> Any:
    """`programs.shrink` into the memory of `target`."""
    return programs.shrink(layers, rows_Dr)
