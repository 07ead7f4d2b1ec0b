"""The learner on a mesh: the compiled train step and scorers, and the arrays they exchange.

In: the examples of one update. Out: a scored batch on device, then a new state and metrics. Does
not read files or handle text.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from gopd_jax.kernels import grouped_matmul
from gopd_jax.kernels.choose import choose_grouped_matmul, choose_packed_attention
from gopd_jax.learner.distance import Reading, distance, reading
from gopd_jax.learner.optimizer import (
    make_optimizer,
    make_schedule,
    opt_state_shardings,
    restart_schedule,
)
from gopd_jax.learner.packing import (
    Example,
    RowSlice,
    as_teachers_read,
    gather_index,
    micro_batches_needed,
    pack,
    rows_of_micro_batch,
)
from gopd_jax.learner.settings import LearnerSettings
from gopd_jax.learner.step import StepMetrics, TokenValues, score, train_step
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, abstract_params, param_shardings
from gopd_jax.models.settings import PLAIN, Remat, SamplingRule
from gopd_jax.objective.gopd import needs_reference
from gopd_jax.objective.loss import Loss, weighted_loss
from gopd_jax.runtime.mesh import batch_sharding, replicated, rows_multiple, with_shardings
from gopd_jax.runtime.processes import fetch
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.runtime.stopping import stop_point
from gopd_jax.types import PackedBatch, Params, Rollout, SampleKey, TrainState


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A model that scores or answers and is never trained.

    role: what messages call it, such as "teacher of math".
    """

    role: str
    config: ModelConfig
    params: Params


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The fixed shape that the examples of one update are packed into.

    examples: of one update. longest: tokens of the longest possible example.
    rows: of a micro-batch; 0 takes `packing.rows_of_micro_batch`.
    row_length: tokens of a row; 0 takes `longest`.
    """

    examples: int
    longest: int
    rows: int = 0
    row_length: int = 0


@dataclasses.dataclass(frozen=True)
class Packed:
    """The batch of one update on device.

    slices: where each example went.
    filled: share of the tokens that are not padding.
    used: number of micro-batches that hold something.
    domain_M: int32 [M], domain of each micro-batch.
    teacher_view: the batch as teachers with a context read it, and the `gather_index` from it.
    """

    batch: PackedBatch
    slices: dict[SampleKey, RowSlice]
    filled: float
    used: int
    domain_M: np.ndarray
    teacher_view: "tuple[Packed, jax.Array] | None" = None

    def active(self, domains: set[int]) -> np.ndarray:
        """Which micro-batches hold something of these domains, bool [M]."""
        return np.isin(self.domain_M, list(domains)) & (np.arange(len(self.domain_M)) < self.used)


class Learner:
    """The programs of one student on one mesh.

    Example:
        learner = Learner(
            config, programs, LearnerSettings(), reward_scales={"math": 1.25},
            shape=BatchShape(examples=256, longest=1536), updates=100,
        )
        state = learner.start(params)
        packed = learner.pack(examples)
        batch = learner.score(packed, {"math": teacher}, reference, None)
        state, metrics, tokens = learner.update(state, batch)

    Args:
        student: architecture of the model that is trained.
        programs: the table of compiled programs; its mesh is the learner's.
        settings: objective, optimizer, packing.
        reward_scales: lambda by domain; the order of the domains gives their indices.
        shape: the fixed shape of a packed batch.
        updates: optimizer updates of the whole run.
        rule: what the samples are drawn by.
        likelihood: the loss is the negative log-likelihood (SFT).
        num_ids: number of ids of the tokenizer; the further rows of student, teachers and reference
            count for nothing. None stands for the whole vocabulary of each.
        dtype: compute dtype.
        loss_fn: the loss of a micro-batch, with the arguments and results of `weighted_loss`.

    Raises:
        ValueError: the mesh does not divide the rows of a micro-batch, or a parameter; or the
            attention kernel does not run on its devices.
    """

    def __init__(
        self,
        student: ModelConfig,
        programs: ProgramTable,
        settings: LearnerSettings,
        *,
        reward_scales: Mapping[str, float],
        shape: BatchShape,
        updates: int,
        rule: SamplingRule = PLAIN,
        likelihood: bool = False,
        num_ids: int | None = None,
        dtype: jnp.dtype = jnp.float32,
        loss_fn: Loss = weighted_loss,
    ):
        self.programs, self.mesh, self.dtype = programs, programs.mesh, dtype
        self._devices = devices = rows_multiple(self.mesh)
        length = shape.row_length or shape.longest
        rows = rows_of_micro_batch(shape.rows, length, devices)
        if rows % devices:
            raise ValueError(
                f"config.learner.rows_per_micro_batch={rows}: expected a multiple of "
                f"{devices}, the devices on the data and fsdp axes"
            )
        self.shape = shape = dataclasses.replace(shape, rows=rows, row_length=length)
        self.reward_scales, self._num_ids = dict(reward_scales), num_ids
        self._domains = list(reward_scales)
        self.micro_batches = micro_batches_needed(
            shape.examples, shape.longest, shape.rows, shape.row_length, len(self._domains)
        )
        self.schedule: optax.Schedule = make_schedule(settings.optimizer, updates)
        optimizer = make_optimizer(settings.optimizer, self.schedule)
        self.param_shardings = param_shardings(student, self.mesh)
        moments = opt_state_shardings(
            optimizer, abstract_params(student), self.param_shardings, self.mesh
        )
        self._state_shardings = TrainState(replicated(self.mesh), self.param_shardings, moments)
        self.student = student
        self.row_sharding = batch_sharding(self.mesh, leading=1)
        self._initial = functools.partial(_initial, optimizer=optimizer)
        self._platform = self.mesh.devices.flat[0].platform
        attention = choose_packed_attention(settings.attention, self._platform)
        self.attention = attention.kernel
        self.kernels = {"packed attention": str(attention)}
        self._step = functools.partial(
            train_step,
            model=self._decoder(student, settings.remat),
            optimizer=optimizer,
            clipping=settings.clipping,
            num_domains=len(self._domains),
            rule=rule,
            likelihood=likelihood,
            num_ids=num_ids,
            loss_fn=loss_fn,
        )

    def _decoder(self, config: ModelConfig, remat: Remat) -> Decoder:
        matmul = grouped_matmul.xla
        if config.experts:
            choice = choose_grouped_matmul("auto", self._platform)
            matmul, self.kernels["grouped matmul"] = choice.kernel, str(choice)
        return Decoder(config, self.dtype, remat, attention=self.attention, matmul=matmul)

    # ---- State.

    def start(self, params: Params) -> TrainState:
        """Step 0 of these parameters (donated), with an optimizer state sharded like them."""
        run = self.programs.compiled(
            self._initial, params, name="start", donate=0, out=lambda: self._state_shardings
        )
        return run(params)

    def restart(self, state: TrainState) -> TrainState:
        """Step 0 of a run that starts from another run's state (donated); see `_restarted`."""
        run = self.programs.compiled(
            _restarted, state, name="restart", donate=0, out=lambda: self._state_shardings
        )
        return run(state)

    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings, for a restore."""
        shapes = jax.eval_shape(self._initial, abstract_params(self.student))
        return with_shardings(shapes, self._state_shardings)

    # ---- Packing.

    def pack(self, examples: Sequence[Example]) -> Packed:
        """Packs the examples of one update and puts them on the mesh.

        Examples whose teacher reads a prompt of its own are packed a second time, as it reads them.
        """
        packed = self._pack(examples)
        if not (read := as_teachers_read(examples)):
            return packed
        view = self._pack(read)
        index = gather_index(examples, packed.slices, view.slices, packed.batch.tokens.shape)
        return dataclasses.replace(packed, teacher_view=(view, self._put(index)))

    def _pack(self, examples: Sequence[Example]) -> Packed:
        shape = self.shape
        batch, slices, filled = pack(examples, self.micro_batches, shape.rows, shape.row_length)
        on_mesh = jax.tree.map(self._put, batch)
        return Packed(on_mesh, slices, filled, int(batch.used), batch.domains[:, 0])

    def _put(self, x: ArrayLike) -> jax.Array:
        return put(x, self.row_sharding if np.ndim(x) else replicated(self.mesh))

    # ---- Scoring.

    def score(
        self,
        packed: Packed,
        teachers: Mapping[str, FrozenModel],
        reference: FrozenModel | None,
        old: Params | None,
    ) -> PackedBatch:
        """The batch with the frozen models' log-probs in it.

        Args:
            teachers: by domain; each scores only the micro-batches of its own domain.
            reference: scores the micro-batches whose lambda needs it; None where none does.
            old: student parameters at the start of the rollout batch, scored when several updates
                follow; or None.
        """
        batch = packed.batch
        if teachers:
            batch = batch.replace(teacher_logprobs=self._teacher_logprobs(teachers, packed))
        everything = set(range(len(self._domains)))
        if reference is not None:
            scales = self.reward_scales.values()
            needed = {i for i, scale in enumerate(scales) if needs_reference(scale)}
            logprobs = self._score(
                reference.config, reference.params, packed.batch, packed.active(needed)
            )
            batch = batch.replace(reference_logprobs=logprobs)
        if old is not None:
            logprobs = self._score(self.student, old, packed.batch, packed.active(everything))
            batch = batch.replace(old_logprobs=logprobs)
        return batch

    def _teacher_logprobs(self, teachers: Mapping[str, FrozenModel], packed: Packed) -> jax.Array:
        """Each domain scored by its own teacher, on the prompt that this teacher reads."""
        if packed.teacher_view is None:
            return self._by_domain(teachers, packed)
        view, index = packed.teacher_view
        with_context = {self._domains[i] for i in view.domain_M[: view.used]}
        plain = {name: t for name, t in teachers.items() if name not in with_context}
        shown_more = {name: t for name, t in teachers.items() if name in with_context}
        ours, theirs = self._by_domain(plain, packed), self._by_domain(shown_more, view)
        run = self.programs.compiled(
            _regather, ours, theirs, index, name="regather", out=lambda: self.row_sharding
        )
        return run(ours, theirs, index)

    def _by_domain(self, teachers: Mapping[str, FrozenModel], packed: Packed) -> jax.Array:
        """Each domain's micro-batches scored by its own teacher; zeros in all others."""
        total = None
        for name, teacher in teachers.items():
            active_M = packed.active({self._domains.index(name)})
            if not active_M.any():
                continue
            part = self._score(teacher.config, teacher.params, packed.batch, active_M)
            total = part if total is None else self._add(total, part)
        zeros = np.zeros(packed.batch.tokens.shape, np.float32)
        return self._put(zeros) if total is None else total

    def _add(self, a: jax.Array, b: jax.Array) -> jax.Array:
        run = self.programs.compiled(jnp.add, a, b, name="add", out=lambda: self.row_sharding)
        return run(a, b)

    def scoring(
        self, config: ModelConfig, params: Params, batch: PackedBatch, active_M: np.ndarray
    ) -> tuple[tuple, dict[str, Any]]:
        """Positional and keyword arguments of `ProgramTable.compiled` for a scorer."""
        decoder = self._decoder(config, remat="none")
        function = functools.partial(score, model=decoder, num_ids=self._num_ids)
        given = function, params, batch.replace(behaviour_logprobs=None), active_M
        return given, {"name": "score", "out": lambda: self.row_sharding}

    def _score(
        self, config: ModelConfig, params: Params, batch: PackedBatch, active_M: np.ndarray
    ) -> jax.Array:
        (function, *args), options = self.scoring(config, params, batch, active_M)
        run = self.programs.compiled(function, *args, **options)
        stop_point()
        return jax.block_until_ready(run(*args))

    # ---- The distance to a teacher.

    def distances(
        self, params: Params, teacher: FrozenModel | None, rollouts: Sequence[Rollout]
    ) -> list[dict[str, np.ndarray]]:
        """KL, agreement and entropy of each response token; see `models.divergence`.

        One program for each teacher's architecture and response limit serves every call.

        Args:
            params: the student's.
            teacher: None gives the entropy alone.
            rollouts: of the student, all with one response limit.

        Returns:
            For each rollout, float32 [T] by name.
        """
        function = functools.partial(
            distance,
            student=self._decoder(self.student, remat="none"),
            teacher=None if teacher is None else self._decoder(teacher.config, remat="none"),
            response=rollouts[0].request.max_tokens,
            num_ids=self._num_ids,
            devices=self._devices,
        )
        rows = batch_sharding(self.mesh)
        found: list[dict[str, np.ndarray]] = []
        for start in range(0, len(rollouts), self.shape.rows):
            part = rollouts[start : start + self.shape.rows]
            reads = [
                jax.tree.map(functools.partial(put, sharding=rows), self._reading(part, as_teacher))
                for as_teacher in (False, True)
            ]
            theirs = (None, None) if teacher is None else (teacher.params, reads[1])
            args = (params, theirs[0], reads[0], theirs[1])
            run = self.programs.compiled(function, *args, name="distance", out=lambda: rows)
            stop_point()
            values = {name: fetch(x) for name, x in run(*args).items()}
            found += [
                {name: x[i, : len(r.tokens)] for name, x in values.items()}
                for i, r in enumerate(part)
            ]
        return found

    def _reading(self, rollouts: Sequence[Rollout], as_teacher: bool) -> Reading:
        return reading(rollouts, self.shape.rows, self.shape.longest, as_teacher)

    # ---- The update.

    def updating(self, state: TrainState, batch: PackedBatch) -> tuple[tuple, dict[str, Any]]:
        """Positional and keyword arguments of `ProgramTable.compiled` for the train step."""
        where = self._state_shardings, replicated(self.mesh), self.row_sharding
        return (self._step, state, batch), {"name": "train step", "donate": 0, "out": lambda: where}

    def update(
        self, state: TrainState, batch: PackedBatch
    ) -> tuple[TrainState, StepMetrics, TokenValues]:
        """One optimizer update; `state` is donated. See `step.train_step`."""
        given, options = self.updating(state, batch)
        return self.programs.compiled(*given, **options)(state, batch)


def put(x: ArrayLike, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every host holds, on the mesh."""
    return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])


def _initial(params: Params, *, optimizer: optax.GradientTransformation) -> TrainState:
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def _restarted(state: TrainState) -> TrainState:
    """The state with no updates done; moments and their count, which corrects their bias, stay."""
    return TrainState(jnp.int32(0), state.params, restart_schedule(state.opt_state))


def _regather(ours: jax.Array, theirs: jax.Array, index: jax.Array) -> jax.Array:
    """`theirs` at the flat `index` where it is not -1, else `ours`; all [M, R, S]."""
    return jnp.where(index < 0, ours, jnp.take(theirs.reshape(-1), jnp.maximum(index, 0)))
