"""The rollout engine: continuous batching over a fixed number of cache slots.

In: the student's parameters and requests. Out: rollouts as they finish, in any order. The device
runs up to K tokens of every slot per dispatch (`device_programs`); between two dispatches the host
gives new work to the slots whose samples are finished (`scheduler`). Does not score, verify or
decode text.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
import numpy as np

from gopd_jax.kernels.choose import choose_decode_attention
from gopd_jax.kernels.decode_attention import CacheBlock
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.settings import PLAIN, SamplingRule
from gopd_jax.rollout import device_programs
from gopd_jax.rollout.cache import Blocks, SlotCache, block_sizes, blocks_for, cache_shardings
from gopd_jax.rollout.cache_pool import CachePool, cache_widths, exit_at
from gopd_jax.rollout.device_programs import Outcome
from gopd_jax.rollout.mixture import Mixture, check_vocabularies, read_models
from gopd_jax.rollout.scheduler import PrefillBatch, Scheduler, check_requests
from gopd_jax.rollout.settings import EngineOptions
from gopd_jax.rollout.stats import RolloutStats
from gopd_jax.rollout.weights import decode_weight_shardings, decode_weights
from gopd_jax.runtime.mesh import replicated, slots_multiple
from gopd_jax.runtime.programs import Program, ProgramTable
from gopd_jax.runtime.progress import detail
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.types import Params, Request, Rollout

DEFAULTS = EngineOptions()
# On several devices, a dispatch may end early after every so many steps only.
LOOKS_EVERY = 4


class RolloutEngine:
    """Draws samples with a fixed number of slots.

    Example:
        engine = RolloutEngine(
            config, mesh, stop_ids, slots=64, max_prompt_tokens=512, max_response_tokens=1024
        )
        weights = engine.sync_weights(params)
        for rollout in engine(weights, requests, key, rule):
            ...

    Args:
        config: architecture of the model that is sampled.
        mesh: slots are spread over all of its axes but tensor, weights and caches over tensor.
        stop_ids: drawing one of these token ids ends the response and is part of it.
        slots: number of sequences decoded at once, a multiple of the number of tensor groups.
        max_prompt_tokens, max_response_tokens: a slot's cache has columns for both.
        num_ids: number of ids of the tokenizer; the model's further rows are never drawn. None
            stands for the whole vocabulary.
        dtype: compute dtype, and that of the cache unless it is int8.
        options: how the work is done.
        programs: table to compile in. Engines with equal settings that are given one table share
            their programs. None makes a new table.
        room: bytes of a device that decode weights and cache may take, which decides their layout
            if the options leave it open; None stands for enough.
        others: models that tokens are drawn from together with the first; see `mixture`.

    Attributes:
        stats: counts of the current or latest call.
        kernel: the choice of the decode attention kernel.
        layout: that of the decode weights of the first model, and why.
        kernels: both, in words.
        models: how the programs read each model.
        sizes: number of columns of each block of the cache.
        shards: number of tensor groups, each of which holds slots of its own.
        caches: see `CachePool`.

    Raises:
        ValueError: a number of slots that the mesh does not divide, no stop id or one outside of a
            vocabulary, a kernel that cannot be used here, or a program table of another mesh.
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
        num_ids: int | None = None,
        dtype: DTypeLike = jnp.float32,
        options: EngineOptions = DEFAULTS,
        programs: ProgramTable | None = None,
        room: int | None = None,
        others: Sequence[ModelConfig] = (),
    ):
        self.shards = slots_multiple(mesh)
        _check_slots_and_stop_ids(slots, self.shards, stop_ids, num_ids or config.vocab_size)
        check_vocabularies((config, *others), num_ids)
        self.num_ids = num_ids
        if programs is not None and programs.mesh != mesh:
            raise ValueError(f"program table of {programs.mesh}: expected one of {mesh}")
        self.config, self.mesh, self.dtype, self.options = config, mesh, dtype, options
        self.slots, self.stop_ids = slots, tuple(stop_ids)
        self.max_prompt_tokens, self.max_response_tokens = max_prompt_tokens, max_response_tokens
        self.longest_chunk = min(options.prefill_tokens, max_prompt_tokens)
        self.programs = ProgramTable(mesh) if programs is None else programs
        self.stats = RolloutStats()

        platform, quantized = mesh.devices.flat[0].platform, options.kv_cache == "int8"
        self.sizes = block_sizes(max_prompt_tokens + max_response_tokens, fine=platform == "cpu")
        self.kernel = choose_decode_attention(
            options.kernel, platform, quantized=quantized, block_sizes=self.sizes
        )
        self.models, layouts = read_models(
            (config, *others),
            mesh,
            slots=slots,
            max_tokens=max_prompt_tokens + max_response_tokens,
            dtype=dtype,
            options=options,
            room=room,
        )
        self.layout = layouts[0]
        words = {"decode attention": self.kernel, "decode weights": self.layout}
        self.kernels = {name: str(choice) for name, choice in words.items()}
        # A kernel that skips idle slots gains nothing from a narrower cache.
        self.widths = [slots] if self.kernel.skips else cache_widths(slots, self.shards)
        configs, fresh = (config, *others), options.steps_per_dispatch
        self.caches = CachePool(self.programs, configs, self.sizes, fresh, dtype, quantized)
        self._drawing = False
        self._unreported: list[Program] = []  # compiled for this engine, not in the log yet
        detail(f"rollout engine: {slots} slots x {sum(self.sizes)} columns, weights {self.layout}")

    # ---- Weights and memory.

    def sync_weights(self, params: Params, number: int = 0) -> Params:
        """Decode weights made from `params`: cast, unstacked and resharded by one device program.

        Needed once after each change of the parameters. `number` is that of the model.
        """
        model, int8 = self.models[number], self.options.weights == "int8"
        how = {"dtype": self.dtype, "int8": int8, "gathered": model.split is not None}
        with self._reporting():
            program = self.programs.compiled(
                functools.partial(decode_weights, **how),
                params,
                name="weights",
                out=lambda: decode_weight_shardings(model.config, self.mesh, **how),
            )
        return program(params)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the caches that are allocated now, over all devices: none between two calls."""
        return self.caches.nbytes

    # ---- Drawing.

    def __call__(
        self,
        weights: Params | Mixture,
        requests: Sequence[Request],
        key: jax.Array,
        rule: SamplingRule = PLAIN,
    ) -> Iterator[Rollout]:
        """Draws all requests and yields the rollouts as they finish, in any order.

        A rollout depends on the weights, its request, the key and the rule only: not on the slots,
        the other requests, or where and when it is drawn. One call at a time.

        Args:
            weights: decode weights, as `sync_weights` returns them; or a mixture of those of all
                models, which adds what is measured to the rollouts.
            requests: in any order.
            key: the key of (run seed, step); see `sampling.sample_keys`.
            rule: the distribution that tokens are drawn from.

        Raises:
            ValueError: before anything is drawn, for a prompt or a token limit that the cache
                cannot hold, or two prompts with one id.
            RuntimeError: if another call is not finished.
        """
        check_requests(
            requests,
            max_prompt_tokens=self.max_prompt_tokens,
            max_response_tokens=self.max_response_tokens,
        )
        if self._drawing:
            raise RuntimeError(
                "this engine is drawing already: finish or close the other iterator first"
            )
        self._drawing = True
        try:
            yield from self._draw(weights, requests, key, rule)
        finally:
            self._drawing = False
            self.caches.clear()  # scoring and the update need the memory
            self._report()

    def _draw(
        self, weights: Params, requests: Sequence[Request], key: jax.Array, rule: SamplingRule
    ) -> Iterator[Rollout]:
        width = min((w for w in self.widths if w >= len(requests)), default=self.slots)
        scheduler = Scheduler(requests, width, self.shards, self.longest_chunk)
        prompts = {r.key.prompt_id: len(r.prompt.tokens) for r in requests}
        self.stats = RolloutStats(samples=len(requests), prompt_tokens=sum(prompts.values()))
        decode = self.decode_function(rule, str(jax.random.key_impl(key)))
        key_data = np.asarray(jax.random.key_data(key))
        while scheduler.pending or scheduler.active:
            stop_point()
            with self._reporting():
                before = self.stats.prefill_tokens, self.stats.copies, scheduler.slots
                self._fill(weights, scheduler)
                self._narrow(scheduler)
                start = time.perf_counter()
                outcome = self._decode(decode, weights, scheduler, key_data)
            alone = before == (self.stats.prefill_tokens, self.stats.copies, scheduler.slots)
            seconds = time.perf_counter() - start if alone else None
            self.stats.add_dispatch(outcome, scheduler.slots, seconds)
            yield from scheduler.record(outcome)

    def _fill(self, weights: Params, scheduler: Scheduler) -> None:
        """Copies and prefills prompts until every free slot that can be given work has some.

        While other slots draw, a batch that completes no prompt is the last one before the next
        dispatch, so that long prompts do not hold up the others.
        """
        few = max(1, scheduler.slots // self.shards // 16)
        while True:
            if copies := scheduler.place():
                self._copy(scheduler, copies)
            if not scheduler.prefilling:
                return
            batch = scheduler.prefill_batch(few, self.options.prefill_tokens)
            self._prefill(weights, scheduler.slots, batch)
            if scheduler.active and not batch.completes_prompt:
                return

    def _copy(self, scheduler: Scheduler, copies: list[tuple[int, int]]) -> None:
        """Copies prompts from slot to slot; `copies` are (source, target) within one shard each."""
        width = scheduler.slots // self.shards
        sources = np.zeros((self.shards, width), np.int32)
        targets = np.full((self.shards, width), -1, np.int32)
        used = [0] * self.shards
        for source, target in copies:
            shard = target // width
            index = shard, used[shard]
            sources[index], targets[index] = source % width, target % width
            used[shard] += 1
        n = blocks_for(self.sizes, max(scheduler.prompt_length(target) for _, target in copies))
        blocks = self.caches[scheduler.slots].blocks[:n]
        bucket = f"{scheduler.slots} slots, {sum(self.sizes[:n])} columns"
        args = blocks, sources, targets
        program = self._on_blocks("copy", bucket, device_programs.copy_prompts, blocks, *args)
        self.caches.put_back(scheduler.slots, program(*args))
        self.stats.copies += len(copies)

    def _prefill(self, weights: Params, slots: int, batch: PrefillBatch) -> None:
        prefix_blocks = blocks_for(self.sizes, batch.prefix)
        prefix_columns = sum(self.sizes[:prefix_blocks])
        n = blocks_for(self.sizes, min(prefix_columns + batch.width, sum(self.sizes)))
        blocks = self.caches[slots].blocks[:n]
        function = functools.partial(
            device_programs.prefill,
            models=self.models,
            prefix_blocks=prefix_blocks,
        )
        bucket = f"{slots} slots, {batch.rows.size} x {batch.width} after {prefix_columns}"
        args = weights, blocks, batch.tokens, batch.starts, batch.lengths, batch.rows
        program = self._on_blocks("prefill", bucket, function, blocks, *args, donate=1)
        self.caches.put_back(slots, program(*args))
        self.stats.prefill_tokens += int(batch.lengths.sum())
        self.stats.padded_prefill_tokens += batch.tokens.size

    def _narrow(self, scheduler: Scheduler) -> None:
        """Moves the last samples to the narrowest cache that holds them."""
        if scheduler.pending:
            return
        at_least = scheduler.busiest_shard() * self.shards
        width, before = min(w for w in self.widths if w >= at_least), scheduler.slots
        if width >= before:
            return
        live = blocks_for(self.sizes, scheduler.longest())
        rows = scheduler.shrink(width)

        def move(layers: tuple[CacheBlock, ...]) -> tuple[CacheBlock, ...]:
            bucket = f"{before} to {width} slots, {layers[0].keys.shape[2]} columns"
            args = device_programs.shrink, layers, layers, rows
            return self._on_blocks("shrink", bucket, *args, donate=())(layers, rows)

        self.caches.replace(before, width, move, live)

    def _decode(
        self,
        function: functools.partial,
        weights: Params,
        scheduler: Scheduler,
        key_data: np.ndarray,
    ) -> Outcome:
        """Runs one dispatch; returns its outcome on the host."""
        cache = self.caches[scheduler.slots]
        columns = scheduler.longest() + self.options.steps_per_dispatch
        n = max(1, blocks_for(self.sizes, columns))
        ends = np.int32(exit_at(scheduler, self.widths))
        args = weights, cache.blocks[:n], cache.fresh, scheduler.table(), key_data, ends
        program = self.programs.compiled(
            function,
            *args,
            name="decode",
            bucket=f"{scheduler.slots} slots, {sum(self.sizes[:n])} columns",
            donate=(1, 2),
            out=lambda: self.decode_shardings(cache, n),
        )
        blocks, fresh, outcome = program(*args)
        self.caches.put_back(scheduler.slots, blocks, fresh)
        return jax.device_get(outcome)

    # ---- Programs.

    def decode_function(self, rule: SamplingRule, key_impl: str) -> functools.partial:
        """`device_programs.decode_steps` with the settings of this engine, not compiled."""
        return functools.partial(
            device_programs.decode_steps,
            models=self.models,
            rule=rule,
            kernel=self.kernel.kernel,
            stop_ids=self.stop_ids,
            shards=self.shards,
            key_impl=key_impl,
            num_ids=self.num_ids,
            looks_every=1 if self.mesh.size == 1 else LOOKS_EVERY,
        )

    def decode_shardings(self, cache: SlotCache, blocks: int) -> Any:
        """Shardings of what `decode_function` returns for the first `blocks` blocks of `cache`.

        The outcome is whole on every device.
        """
        of_blocks = cache_shardings(self.mesh, cache.blocks[:blocks])
        return of_blocks, cache_shardings(self.mesh, cache.fresh), replicated(self.mesh)

    def _on_blocks(
        self,
        name: str,
        bucket: str,
        function: Callable[..., Any],
        result: Blocks | tuple[CacheBlock, ...],
        *args: Any,
        donate: int | tuple[int, ...] = 0,
    ) -> jax.stages.Compiled:
        """The compiled program of a function that returns cache blocks like `result`."""
        return self.programs.compiled(
            function,
            *args,
            name=name,
            bucket=bucket,
            donate=donate,
            out=lambda: cache_shardings(self.mesh, result),
        )

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Notes what is compiled meanwhile; other users of the table do not run in between."""
        before = len(self.programs.programs)
        try:
            yield
        finally:
            self._unreported += self.programs.programs[before:]

    def _report(self) -> None:
        """Says, as a detail, which programs the call compiled."""
        if self._unreported:
            seconds = sum(p.compile_seconds for p in self._unreported)
            names = ", ".join(map(str, self._unreported))
            detail(f"rollout engine: {seconds:.1f} s of compilation: {names}")
            self._unreported = []


def _check_slots_and_stop_ids(
    slots: int, shards: int, stop_ids: Sequence[int], num_ids: int
) -> None:
    if slots < 1 or slots % shards:
        raise ValueError(
            f"rollout slots={slots}: expected a positive multiple of {shards} "
            "(data x fsdp x expert x context devices)"
        )
    outside = [i for i in stop_ids if not 0 <= i < num_ids]
    if not stop_ids or outside:
        raise ValueError(
            f"stop ids {list(stop_ids)}: expected at least one, all in [0, {num_ids}); "
            f"outside: {outside}"
        )
