"""The learner on a mesh: the compiled train step, and what it takes.

In: the examples of one update. Out: packed batches on device, then a new state and metrics. Does
not read files or handle text.
"""

from collections.abc import Collection, Mapping, Sequence
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
from gopd_jax.learner import exact
from gopd_jax.learner.adapters import adapter_step, frozen_params, new_adapter, trained_params
from gopd_jax.learner.example import Example, RowSlice
from gopd_jax.learner.flops import block_elements
from gopd_jax.learner.operations import Cost, sharing_of, update_cost
from gopd_jax.learner.optimizer import (
    make_optimizer,
    make_schedule,
    opt_state_shardings,
    restart_schedule,
)
from gopd_jax.learner.packing import BatchShape, make_buckets, pack
from gopd_jax.learner.parking import HOST, bring, is_parked, moments_in_host, moments_to
from gopd_jax.learner.settings import LearnerSettings, SelfTeacherSettings
from gopd_jax.learner.step import FIXED, RULED, StepMetrics, TokenValues, exact_step, train_step
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, param_shardings
from gopd_jax.models.lora import adapted, adapter_elements
from gopd_jax.models.settings import NO_LORA, PLAIN, LoraSettings, Remat, SamplingRule
from gopd_jax.objective.loss import Loss, weighted_loss
from gopd_jax.objective.settings import EstimatorSettings, LossSettings
from gopd_jax.objective.shaping_settings import SHAPING, ShapingSettings
from gopd_jax.runtime.mesh import (
    batch_sharding,
    replicated,
    row_layout,
    rows_multiple,
    token_sharding,
    with_shardings,
)
from gopd_jax.runtime.programs import ProgramTable
from gopd_jax.types import PackedBatch, Params, SampleKey, TrainState

SAMPLED = EstimatorSettings()


@dataclasses.dataclass(frozen=True)
class FrozenModel:
    """A model that scores or answers and is never trained.

    role: what messages call it, such as "teacher of math".
    params: on the devices, or parked in the memory of the host; see `parking`.
    """

    role: str
    config: ModelConfig
    params: Params

    @property
    def parked(self) -> bool:
        return is_parked(self.params)


@dataclasses.dataclass(frozen=True)
class Packed:
    """The examples of one update on the mesh.

    batches: one for each bucket of the learner.
    examples, slices: by key, and where each one went.
    used: micro-batches of each bucket that hold something.
    domains: int32 [M] for each bucket, the domain of each micro-batch.
    cost: of the update.
    """

    batches: tuple[PackedBatch, ...]
    examples: dict[SampleKey, Example]
    slices: dict[SampleKey, RowSlice]
    used: tuple[int, ...]
    domains: tuple[np.ndarray, ...]
    cost: Cost


class Learner:
    """The programs of one student on one mesh.

    Example:
        learner = Learner(
            config, programs, LearnerSettings(), reward_scales={"math": 1.25},
            shape=BatchShape(examples=256, longest=1536), updates=100,
        )
        state = learner.start(params)
        scored = with_scores(learner, examples, {"math": teacher}, reference)
        state, metrics, tokens = learner.update(state, learner.pack(scored))

    Args:
        student: architecture of the model that is trained.
        programs: the table of compiled programs; its mesh is the learner's.
        settings: objective, optimizer, packing.
        reward_scales: lambda by domain; the order of the domains gives their indices.
        shape: the fixed shape of a packed batch.
        updates: optimizer updates of the whole run.
        rule: what the samples are drawn by.
        likelihood: the loss is the negative log-likelihood (SFT).
        estimator: how the gradient is estimated. All but "sampled" need `heads` before the first
            update, and examples with hidden states of teacher and reference.
        shaping: of advantage and loss; off by default.
        num_ids: number of ids of the tokenizer; the further rows of student, teachers and reference
            count for nothing. None stands for the whole vocabulary of each.
        dtype: compute dtype.
        loss_fn: the loss of a micro-batch, with the arguments and results of `weighted_loss`.
        self_teacher: how a teacher that starts as the student follows it; it is in the state.
        lora: the adapter that is trained in place of the student's parameters, unless its rank is
            0; `base` is then what stays as it is.

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
        estimator: EstimatorSettings = SAMPLED,
        shaping: ShapingSettings = SHAPING,
        num_ids: int | None = None,
        dtype: jnp.dtype = jnp.float32,
        loss_fn: Loss = weighted_loss,
        self_teacher: SelfTeacherSettings = FIXED,
        lora: LoraSettings = NO_LORA,
    ):
        self.programs, self.mesh, self.dtype = programs, programs.mesh, dtype
        self.devices = rows_multiple(self.mesh)
        self.shape, self.longest = shape, row_layout(self.mesh).rounded(shape.longest)
        self.buckets = make_buckets(shape, len(reward_scales), *row_layout(self.mesh))
        self.reward_scales, self.num_ids = dict(reward_scales), num_ids
        self.schedule: optax.Schedule = make_schedule(settings.optimizer, updates)
        optimizer = make_optimizer(settings.optimizer, self.schedule)
        self.param_shardings = param_shardings(student, self.mesh)
        self.parks_optimizer = settings.park_optimizer
        self.student, self.lora = student, lora
        self.estimator, self.shaping = estimator, shaping
        self._trained_params = trained_params(student, lora, self.mesh)
        self._state_shardings, self._resting = self._shardings(optimizer, self_teacher.follows)
        self.base: Params | None = None  # in the compute dtype, where an adapter is trained
        self.heads: exact.FrozenHeads | None = None  # of teachers and reference; see `read_heads`
        self.row_sharding = batch_sharding(self.mesh, leading=1)
        self.token_sharding = token_sharding(self.mesh, leading=1)
        follows = self_teacher.follows
        self._initial = functools.partial(_initial, optimizer=optimizer, follows=follows)
        adapter = {"config": student, "lora": lora, "optimizer": optimizer}
        self._new_adapter = functools.partial(new_adapter, **adapter)
        self._platform = self.mesh.devices.flat[0].platform
        attention = choose_packed_attention(settings.attention, self._platform)
        self.attention, self.kernels = attention.kernel, {"packed attention": str(attention)}
        self._trained = self.decoder(student, settings.remat)
        shares = settings.share_prompts and shape.samples > 1
        self.sharing = sharing_of(self._trained, self.buckets) if shares else None
        self._ruled = 1 / RULED if rule != PLAIN else 0.0
        self._step = functools.partial(
            train_step,
            model=self._trained,
            optimizer=optimizer,
            settings=LossSettings(settings.clipping, estimator, likelihood, shaping),
            num_domains=len(reward_scales),
            rule=rule,
            num_ids=num_ids,
            loss_fn=loss_fn,
            parked=settings.park_optimizer,
            self_teacher=self_teacher,
        )
        self._adapter = self._read_further()

    def _read_further(self) -> float:
        """Lets the step read the base of an adapter, and the heads of frozen models, if need be.

        Returns:
            The elements of the adapter, as a share of those of the blocks; 0 without one.
        """
        share = 0.0
        if self.lora.rank:
            self._step = functools.partial(adapter_step, **self._step.keywords, lora=self.lora)
            elements = self.student.layers * block_elements(self.student)
            share = adapter_elements(self.student, self.lora) / elements
        if self.estimator.exact:
            self._step = functools.partial(exact_step, step=self._step)
        return share

    def _shardings(
        self, optimizer: optax.GradientTransformation, follows: bool
    ) -> tuple[TrainState, TrainState]:
        """Those of the state in an update, and between updates."""
        where = jax.tree.map(lambda x: x.sharding, self._trained_params)
        moments = opt_state_shardings(optimizer, self._trained_params, where, self.mesh)
        state = TrainState(replicated(self.mesh), where, moments, where if follows else None)
        if not self.parks_optimizer:
            return state, state
        shapes = jax.eval_shape(optimizer.init, self._trained_params)
        return state, state.replace(opt_state=moments_in_host(shapes, moments))

    def decoder(self, config: ModelConfig, remat: Remat = "none") -> Decoder:
        """A model with the kernels of the learner's devices."""
        matmul = grouped_matmul.xla
        if config.experts:
            choice = choose_grouped_matmul("auto", self._platform)
            matmul, self.kernels["grouped matmul"] = choice.kernel, str(choice)
        return Decoder(config, self.dtype, remat, attention=self.attention, matmul=matmul)

    # ---- State.

    def start(self, params: Params, key: jax.Array | None = None) -> TrainState:
        """Step 0 of these parameters (donated), with an optimizer state sharded like them.

        Args:
            params: float32; in the compute dtype where an adapter is trained. They are its `base`
                then, and stay.
            key: the random key that an adapter is drawn with; needed for one.
        """
        if self.lora.rank:
            self.base = params
            if key is None:
                raise ValueError("start of an adapter without a key: expected a random key")
            data = np.asarray(jax.random.key_data(key))
            function, options = self._new_adapter, {"out": lambda: self._state_shardings}
            run = self.programs.compiled(function, data, name="start", **options)
            return self.rest(run(data))
        run = self.programs.compiled(
            self._initial, params, name="start", donate=0, out=lambda: self._state_shardings
        )
        return self.rest(run(params))

    def restart(self, state: TrainState) -> TrainState:
        """Step 0 of a run that starts from another run's state (donated); see `_restarted`."""
        run = self.programs.compiled(
            _restarted, state, name="restart", donate=0, out=lambda: self._state_shardings
        )
        return self.rest(run(state))

    def rest(self, state: TrainState) -> TrainState:
        """The state as it is between updates: moments in the host's memory, if they are parked."""
        if not self.parks_optimizer:
            return state
        return jax.block_until_ready(state.replace(opt_state=moments_to(HOST, state.opt_state)))

    def awake(self, state: TrainState) -> TrainState:
        """The state with all arrays on the devices, as a checkpoint takes and gives it."""
        return state.replace(opt_state=bring(state.opt_state))

    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings, for a restore."""
        shapes = jax.eval_shape(self._initial, self._trained_params)
        return with_shardings(shapes, self._state_shardings)

    def abstract_base(self) -> Params:
        """The frozen parameters of a student with an adapter, as shapes with shardings."""
        return frozen_params(self.student, self.mesh, self.dtype)

    def student_params(self, state: TrainState) -> Params:
        """The student's parameters as every model reads them; nothing is copied."""
        if not self.lora.rank:
            return state.params
        return adapted(self._base(), state.params, self.lora)

    def teacher_params(self, state: TrainState) -> Params | None:
        """A copy of a teacher that follows the student, in the compute dtype, or None."""
        if state.teacher is None:
            return None
        function = functools.partial(_copied, dtype=self.dtype)
        options = {"name": "teacher", "out": lambda: self._state_shardings.params}
        return self.programs.compiled(function, state.teacher, **options)(state.teacher)

    def _base(self) -> Params:
        """The frozen parameters, or their shapes before they are loaded."""
        return self.abstract_base() if self.base is None else self.base

    def read_heads(self, teachers: Mapping[str, Params], reference: Params | None) -> None:
        """Keeps the heads of frozen models for an estimator that reads the whole vocabulary.

        Args:
            teachers: parameters by domain, or their shapes with shardings.
            reference: likewise, where it is needed.
        """
        if not self.estimator.exact:
            return
        ids = self.num_ids or self.student.vocab_size
        exact.check_candidates(self.estimator, self.shaping, ids)
        heads = exact.frozen_heads(teachers, reference, list(self.reward_scales))
        where, numbers = replicated(self.mesh), heads.of_domain
        if isinstance(heads.teachers[0], jax.ShapeDtypeStruct):
            numbers = jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=where)
        else:
            numbers = put(numbers, where)
        self.heads = heads.replace(of_domain=numbers)

    def hidden(self) -> dict[str, tuple[int, np.dtype]]:
        """Width and dtype of the hidden states in a batch, by field; none with "sampled"."""
        if self.heads is None:
            return {}
        widths = {"teacher_hidden": max(head.shape[1] for head in self.heads.teachers)}
        if self.heads.reference is not None:
            widths["reference_hidden"] = self.heads.reference.shape[1]
        return {name: (width, np.dtype(self.dtype)) for name, width in widths.items()}

    # ---- Packing.

    def pack(self, examples: Sequence[Example], logprobs: Collection[str] | None = None) -> Packed:
        """Packs the examples of one update and puts them on the mesh; see `packing.pack`."""
        given = self.buckets, logprobs, self.sharing, self.hidden()
        batches, slices = pack(examples, *given)
        return Packed(
            tuple(jax.tree.map(self.put, batch) for batch in batches),
            {e.key: e for e in examples},
            slices,
            tuple(int(batch.used) for batch in batches),
            tuple(batch.domains[:, 0] for batch in batches),
            update_cost(
                self._trained,
                examples,
                batches,
                self.devices,
                self._ruled,
                self._adapter,
                exact.other_heads(self.heads, self.student.width, self.estimator, self.shaping),
            ),
        )

    def put(self, x: ArrayLike) -> jax.Array:
        """An array [M, R, ...] that every host holds, or a number, on the mesh."""
        by_axes = {2: self.row_sharding, 0: replicated(self.mesh)}
        return put(x, by_axes.get(np.ndim(x), self.token_sharding))

    # ---- The update.

    def updating(
        self, state: TrainState, batches: Sequence[PackedBatch]
    ) -> tuple[tuple, dict[str, Any]]:
        """Positional and keyword arguments of `ProgramTable.compiled` for the train step."""
        if self.parks_optimizer and isinstance(state.step, jax.ShapeDtypeStruct):
            state = with_shardings(state, self._resting)
        where = self._resting, replicated(self.mesh), self.token_sharding
        frozen = [self._base()] if self.lora.rank else []
        if self.estimator.exact:
            frozen = [self._heads(), *frozen]
        given = self._step, state, *frozen, *batches
        return given, {"name": "train step", "donate": 0, "out": lambda: where}

    def _heads(self) -> exact.FrozenHeads:
        if self.heads is None:
            raise ValueError(
                f"estimator={self.estimator.estimator!r} without heads: expected `read_heads` to "
                "be called first"
            )
        return self.heads

    def update(
        self, state: TrainState, packed: Packed
    ) -> tuple[TrainState, StepMetrics, tuple[TokenValues, ...]]:
        """One optimizer update; `state` is donated. See `step.train_step`."""
        given, options = self.updating(state, packed.batches)
        return self.programs.compiled(*given, **options)(*given[1:])


def put(x: ArrayLike, sharding: jax.sharding.Sharding) -> jax.Array:
    """An array that every host holds, on the mesh."""
    return jax.make_array_from_callback(np.shape(x), sharding, lambda i: np.asarray(x)[i])


def _initial(
    params: Params, *, optimizer: optax.GradientTransformation, follows: bool
) -> TrainState:
    teacher = jax.tree.map(jnp.copy, params) if follows else None
    return TrainState(jnp.int32(0), params, optimizer.init(params), teacher)


def _copied(params: Params, *, dtype: jnp.dtype) -> Params:
    return jax.tree.map(lambda x: jnp.copy(x.astype(dtype)), params)


def _restarted(state: TrainState) -> TrainState:
    """The state with no updates done; moments and their count, which corrects their bias, stay."""
    opt_state = restart_schedule(state.opt_state)
    return TrainState(jnp.int32(0), state.params, opt_state, state.teacher)
