"""The learner on a mesh: the compiled train step and scorers, and the arrays they exchange.

In: sequences of one update. Out: a scored batch on device, then a new state and metrics. Knows no files and no text.
"""

from collections.abc import Sequence as Seq
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from gopd_jax.config import Config
from gopd_jax.learner.optimizer import make_optimizer, make_schedule, opt_state_shardings
from gopd_jax.learner.packing import (
    Place,
    Sequence,
    as_teachers_read,
    gather_index,
    micro_batches_needed,
    pack,
)
from gopd_jax.learner.step import score, train_step
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import Decoder, abstract_params, logical_axes
from gopd_jax.objective.settings import Clipping
from gopd_jax.runtime.mesh import batch_sharding, replicated, rows_multiple, shardings
from gopd_jax.types import PackedBatch, TrainState


@dataclasses.dataclass(frozen=True)
class Packed:
    """The batch of one update on device; where each sequence went, by its name; the share of tokens that are not padding."""

    batch: PackedBatch
    places: dict[tuple, Place]
    filled: float
    used: int  # micro-batches that hold something
    domain_M: np.ndarray  # int32 [M], domain of each micro-batch
    teachers: "tuple[Packed, jax.Array] | None" = (
        None  # the batch as teachers with context read it, and `gather_index`
    )


class Learner:
    """The programs of one student on one mesh.

    Raises:
        ValueError: the mesh does not divide rows_per_micro_batch or a parameter.
    """

    def __init__(self, config: Config, student: ModelConfig, mesh: Mesh, dtype: Any):
        devices = rows_multiple(mesh)
        c = config.learner
        if c.rows_per_micro_batch % devices:
            raise ValueError(
                f"config.learner.rows_per_micro_batch={c.rows_per_micro_batch}: wanted a multiple of {devices}, "
                "the devices on the data and fsdp axes"
            )
        self.config, self.mesh, self.dtype = config, mesh, dtype
        self.domains = list(config.domains)
        rollouts = (
            config.rollout.prompts_per_step
            * config.rollout.samples_per_prompt
            // c.updates_per_batch
        )
        self.micro_batches = micro_batches_needed(
            rollouts, config.longest, c.rows_per_micro_batch, config.row_length, len(self.domains)
        )
        self.schedule = make_schedule(
            c.schedule, c.learning_rate, config.steps * c.updates_per_batch, c.warmup_steps
        )
        self.optimizer = make_optimizer(
            self.schedule, c.b1, c.b2, c.eps, c.weight_decay, c.clip_norm
        )
        self.param_shardings = shardings(mesh, abstract_params(student), logical_axes(student))
        opt_shardings = opt_state_shardings(
            self.optimizer, abstract_params(student), self.param_shardings, mesh
        )
        self._state_shardings = TrainState(replicated(mesh), self.param_shardings, opt_shardings)
        self._student = student
        self._rows = batch_sharding(mesh, leading=1)
        step = functools.partial(
            train_step,
            model=Decoder(student, dtype, c.remat),
            optimizer=self.optimizer,
            clipping=Clipping(c.clip_low, c.clip_high, c.dual_clip, c.importance_cap),
            num_domains=len(self.domains),
            rule=config.rollout.rule,
            devices=devices,
        )
        self._step = jax.jit(
            step,
            donate_argnums=0,
            out_shardings=(self._state_shardings, replicated(mesh), self._rows),
        )

        @functools.cache
        def scorer(model: ModelConfig):
            run = functools.partial(
                score, model=Decoder(model, dtype, remat=False), devices=devices
            )
            return jax.jit(run, out_shardings=self._rows)

        self._scorer = scorer
        self._add = jax.jit(jnp.add)
        self._regather = jax.jit(_regather, out_shardings=self._rows)

    def start(self, params: Any) -> TrainState:
        """Step 0 of these parameters (donated), optimizer state sharded like them."""
        return jax.jit(self._initial, out_shardings=self._state_shardings, donate_argnums=0)(params)

    def _initial(self, params: Any) -> TrainState:
        return TrainState(jnp.int32(0), params, self.optimizer.init(params))

    def abstract_state(self) -> TrainState:
        """The state as shapes with shardings, for a restore."""
        shapes = jax.eval_shape(self._initial, abstract_params(self._student))
        return jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding),
            shapes,
            self._state_shardings,
        )

    def pack(self, sequences: Seq[Sequence]) -> Packed:
        """Packs the sequences of one update and puts them on the mesh, twice where teachers read another prompt."""
        packed = self._pack(sequences)
        if not (read := as_teachers_read(sequences)):
            return packed
        teachers = self._pack(read)
        index = gather_index(sequences, packed.places, teachers.places, packed.batch.tokens.shape)
        return dataclasses.replace(packed, teachers=(teachers, self._put(index)))

    def _put(self, x: Any) -> jax.Array:
        sharding = self._rows if np.ndim(x) else replicated(self.mesh)
        return jax.make_array_from_callback(
            np.shape(x), sharding, lambda index: np.asarray(x)[index]
        )

    def _pack(self, sequences: Seq[Sequence]) -> Packed:
        c = self.config
        batch, places, filled = pack(
            sequences, self.micro_batches, c.learner.rows_per_micro_batch, c.row_length
        )
        return Packed(
            jax.tree.map(self._put, batch), places, filled, int(batch.used), batch.domains[:, 0]
        )

    def score(
        self,
        packed: Packed,
        teachers: dict[str, tuple[ModelConfig, Any]],
        reference: tuple[ModelConfig, Any] | None,
        old: Any | None,
    ) -> PackedBatch:
        """The batch with the frozen models' log-probs in it.

        Args:
            teachers: architecture and parameters by domain; each scores the micro-batches of its own domain only.
            reference: scores micro-batches whose lambda is not 1; None where every lambda is 1.
            old: student parameters at the start of the rollout batch, scored when several updates follow; or None.
        """
        batch = packed.batch
        filled = np.arange(self.micro_batches) < packed.used
        if teachers:
            shown_more = {name for name in teachers if self.config.domains[name].teacher_context}
            total = self._by_domain(
                {n: t for n, t in teachers.items() if n not in shown_more}, packed
            )
            if packed.teachers is not None:
                read, index = packed.teachers
                total = self._regather(
                    total, self._by_domain({n: teachers[n] for n in shown_more}, read), index
                )
            batch = batch.replace(teacher_logprobs=total)
        if reference is not None:
            counts = np.array([self.config.reward_scale(name) != 1 for name in self.domains])
            batch = batch.replace(
                reference_logprobs=self._score(*reference, batch, filled & counts[packed.domain_M])
            )
        if old is not None:
            batch = batch.replace(old_logprobs=self._score(self._student, old, batch, filled))
        return batch

    def _by_domain(self, teachers: dict[str, tuple[ModelConfig, Any]], packed: Packed) -> jax.Array:
        """Each domain's micro-batches scored by its own teacher; zeros where there is none."""
        filled = np.arange(self.micro_batches) < packed.used
        active = {name: filled & (packed.domain_M == self.domains.index(name)) for name in teachers}
        parts = [
            self._score(*teachers[name], packed.batch, rows)
            for name, rows in active.items()
            if np.any(rows)
        ]
        return functools.reduce(
            self._add, parts or [self._put(np.zeros(packed.batch.tokens.shape, np.float32))]
        )

    def _score(
        self, model: ModelConfig, params: Any, batch: PackedBatch, active_M: np.ndarray
    ) -> jax.Array:
        plain = batch.replace(
            behaviour_logprobs=None,
            teacher_logprobs=None,
            reference_logprobs=None,
            old_logprobs=None,
        )
        with jax.set_mesh(self.mesh):
            return self._scorer(model)(params, plain, active_M)

    def update(
        self, state: TrainState, batch: PackedBatch
    ) -> tuple[TrainState, dict[str, Any], jax.Array]:
        """One optimizer update; `state` is donated. See `step.train_step`."""
        with jax.set_mesh(self.mesh):
            return self._step(state, batch)


def _regather(ours: jax.Array, theirs: jax.Array, index: jax.Array) -> jax.Array:
    """`theirs` at the flat `index` where it is not -1, else `ours`; all [M, R, S]."""
    return jnp.where(index < 0, ours, jnp.take(theirs.reshape(-1), jnp.maximum(index, 0)))
