"""The run that `train` would make, with shapes in place of arrays: its phases and programs.

In: a config, architectures, described devices. Out: for each phase what is held meanwhile, with
bytes on one device, and the programs that it runs. Learner, engines and scorers are those of
`train`; they ask a `Rehearsal` for their programs in place of a table that compiles.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import types
from typing import cast

import jax

from gopd_jax.config import Config
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.learner.adapters import frozen_params
from gopd_jax.learner.ahead import ask_for_distance, compile_ahead
from gopd_jax.learner.learner import Learner
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.models.settings import SamplingRule
from gopd_jax.plan.phases import Held, Phase, Planned, on_device
from gopd_jax.rewards.settings import NONE
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.rehearsal import rehearse
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.mesh import compute_dtype, make_mesh, with_shardings
from gopd_jax.runtime.rehearsal import Call, Rehearsal
from gopd_jax.train.keys import adapter_key
from gopd_jax.train.memory import room_to_draw
from gopd_jax.train.models import make_learner, make_samplers, read_abstract_heads
from gopd_jax.train.prepare import RunInputs, roles_of
from gopd_jax.types import Params, TrainState

STOP_IDS = (0,)  # where no tokenizer says which


@dataclasses.dataclass(frozen=True)
class RehearsedRun:
    """A run with shapes in place of arrays.

    phases: in their order; the first ones come once.
    table: has every program.
    kernels: what runs attention and the like, by operation.
    """

    config: Config
    models: Mapping[str, ModelConfig]
    learner: Learner
    sampler: RolloutEngine
    table: Rehearsal
    phases: tuple[Phase, ...]
    kernels: Mapping[str, str]


def run_settings(config: Config, kind: str) -> Config:
    """The config with the compute dtype that "auto" stands for on devices of a kind."""
    if config.compute_dtype != "auto":
        return config
    return dataclasses.replace(config, compute_dtype="float32" if kind == "cpu" else "bfloat16")


def rehearse_run(
    config: Config,
    models: Mapping[str, ModelConfig],
    devices: Iterable[jax.Device],
    *,
    memory: int | None = None,
    ids: tuple[int | None, tuple[int, ...]] = (None, ()),
    every: bool = False,
) -> RehearsedRun:
    """Goes through a run.

    Args:
        config: with a compute dtype that is not "auto"; see `run_settings`.
        models: architecture by path.
        devices: of the mesh.
        memory: bytes of one device, which decide the layout of decode weights; None stands for
            enough.
        ids: number of ids of the tokenizer, and those that end a response; where they are not
            known, None for the student's vocabulary, and ().
        every: takes all buckets of prefill and decode; else those that need the most memory.

    Raises:
        ValueError: the mesh does not fit the devices, or they do not divide what they must.
    """
    mesh = make_mesh(**dataclasses.asdict(config.mesh), devices=list(devices))
    table, dtype = Rehearsal(mesh), compute_dtype(config.compute_dtype)
    inputs, roles = _inputs(config, models, *ids), roles_of(config)
    student = models[config.student]
    learner = make_learner(config, student, table, dtype, inputs.num_ids)
    room = room_to_draw(config, roles, models, mesh, dtype, memory)
    samplers = make_samplers(config, inputs, table, dtype, room)
    phases = _Phases(config, inputs, learner, samplers, every).all()
    sampler = samplers[student]
    kernels = learner.kernels | {
        "decode attention": str(sampler.kernel),
        "decode weights": str(sampler.layout),
    }
    return RehearsedRun(config, models, learner, sampler, table, phases, kernels)


def _inputs(
    config: Config,
    models: Mapping[str, ModelConfig],
    num_ids: int | None,
    stop_ids: tuple[int, ...],
) -> RunInputs:
    """What stands for the inputs of `train`: no prompts, and of the tokenizer its numbers."""
    roles = roles_of(config)
    ids = models[config.student].vocab_size if num_ids is None else num_ids
    stands = types.SimpleNamespace(stop_ids=stop_ids or STOP_IDS, num_ids=ids)
    named = {n: roles.get(f"teacher of {n}") for n in config.domains}
    values = dict.fromkeys(("train", "test", "dropped", "in_train", "fingerprints", "origin"), {})
    return RunInputs(
        tokenizer=cast(ChatTokenizer, stands),
        models=dict(models),
        teachers={name: path for name, path in named.items() if path},
        reference=roles.get("reference"),
        **values,
    )


class _Phases:
    """Builds the phases of a run; what a phase holds is what `train` has alive then."""

    def __init__(
        self,
        config: Config,
        inputs: RunInputs,
        learner: Learner,
        samplers: Samplers,
        every: bool,
    ):
        self._config, self._inputs, self._learner = config, inputs, learner
        self._samplers, self._every = samplers, every
        self._table = cast(Rehearsal, learner.programs)
        self._model = inputs.models[config.student]

    def all(self) -> tuple[Phase, ...]:
        learner, model = self._learner, self._model
        if self._config.lora.rank:
            given = learner.abstract_base(), adapter_key(self._config.seed)
        else:
            given = (with_shardings(abstract_params(model), param_shardings(model, learner.mesh)),)
        with self._table.asked() as asked:
            state = learner.start(*given)
        params = learner.student_params(state)
        frozen = () if self._parks else self._frozen()
        loaded = Held("student", on_device(given[0]))
        held = (*self._trained(state, loaded), *frozen)
        start = Phase("start", (loaded, *frozen), _of(asked))
        return (start, *self._evaluations(params, held), *self._step(params, held))

    # ---- What is held.

    def _trained(self, state: TrainState, loaded: Held) -> tuple[Held, ...]:
        """The student between updates; of one with an adapter, what is frozen as well."""
        optimizer = Held("optimizer state", on_device((state.step, state.opt_state)))
        if self._config.lora.rank:
            return loaded, Held("adapter", on_device(state.params)), optimizer
        return Held("student", on_device(state.params)), optimizer

    def _frozen(self) -> tuple[Held, ...]:
        """Teachers and reference; a folder that serves in several roles is loaded once."""
        paths: dict[str, list[str]] = {}
        for domain, path in self._inputs.teachers.items():
            paths.setdefault(path, []).append(f"teacher of {domain}")
        if self._inputs.reference:
            paths.setdefault(self._inputs.reference, []).append("reference")
        if self._config.lora.rank:  # the frozen student is there for all of its roles
            paths.pop(self._config.student, None)
        return tuple(
            Held(" and ".join(roles), on_device(self._shapes(self._inputs.models[path])))
            for path, roles in paths.items()
        )

    def _shapes(self, model: ModelConfig) -> Params:
        return frozen_params(model, self._learner.mesh, self._learner.dtype)

    @property
    def _parks(self) -> bool:
        """Whether frozen models wait in the memory of the host."""
        on_cpu = self._table.mesh.devices.flat[0].platform == "cpu"
        return self._config.learner.park_frozen and not on_cpu

    def _brought(self) -> list[Held]:
        """What is on the devices of parked models while they score: one at a time."""
        models = self._frozen() if self._parks else ()
        return [max(models, key=lambda h: h.bytes)] if models else []

    def _cache(self, model: ModelConfig) -> Held:
        """The cache of an engine; it is there while the engine draws, and becomes narrower."""
        engine = self._samplers[model]
        return Held("rollout cache", on_device(engine.caches.abstract(engine.slots)))

    # ---- The phases.

    def _drawn(
        self, role: str, model: ModelConfig, params: Params, rule: SamplingRule, samples: int
    ) -> tuple[Held, tuple[Planned, ...]]:
        """The decode weights of a model, and the programs of a call of its engine."""
        with self._table.asked() as asked:
            weights = rehearse(
                self._samplers[model], params, rule, samples=samples, every=self._every
            )
        brought = self._parks and role != "student"
        return Held(f"decode weights ({role})", on_device(weights)), _of(asked, role, brought)

    def _evaluations(self, student_params: Params, held: tuple[Held, ...]) -> list[Phase]:
        """Where student and teachers stand before the first step."""
        config, inputs = self._config, self._inputs
        rule, samples = config.eval.rule, config.eval.samples
        weights, programs = self._drawn("student", self._model, student_params, rule, samples)
        student = (*held, weights, self._cache(self._model))
        phases = [Phase("evaluate student", student, programs)]
        unverified = [n for n, d in config.domains.items() if d.reward == NONE]
        if unverified:
            with self._table.asked() as asked:
                for name in unverified:
                    path = inputs.teachers.get(name)
                    teacher = inputs.models[path] if path else None
                    limit = config.rollout.max_response_tokens
                    ask_for_distance(self._learner, student_params, teacher, limit)
            compared = (*held, weights, *self._brought())
            phases.append(Phase("distance to teachers", compared, _of(asked)))
        done = set()
        for domain, path in inputs.teachers.items() if config.eval.teachers else ():
            if domain in unverified or path in done:
                continue
            done.add(path)
            model, role = inputs.models[path], f"teacher of {domain}"
            params = self._shapes(model)
            weights, programs = self._drawn(role, model, params, rule, samples)
            parts = (*held, weights, self._cache(model))
            phases.append(Phase(f"evaluate {role}", parts, programs))
        return phases

    def _step(self, student_params: Params, held: tuple[Held, ...]) -> list[Phase]:
        """The phases of a step."""
        config = self._config
        rollout = self._rollout(student_params, held)
        score, update = self._learning()
        phases = []
        if rollout is not None:
            early = score if config.learner.score_early else ()
            parts = (*rollout[0], *(self._brought() if early else ()))
            phases.append(Phase("rollout", parts, (*rollout[1], *early)))
        if score:
            phases.append(Phase("score", (*held, *self._brought()), score))
        others = config.learner.updates_per_batch - 1
        batches = Held("packed batches of other updates", others * _batch_bytes(update))
        more = [batches] if others else []
        phases.append(Phase("update", (*held, *more), update))
        return phases

    def _rollout(
        self, student_params: Params, held: tuple[Held, ...]
    ) -> tuple[tuple[Held, ...], tuple[Planned, ...]] | None:
        config, inputs = self._config, self._inputs
        rule, samples = config.rollout.rule, config.rollout.samples_per_prompt
        if config.method != "sft":
            weights, programs = self._drawn("student", self._model, student_params, rule, samples)
            return (*held, weights, self._cache(self._model)), programs
        drawn = []
        for domain, path in inputs.teachers.items():
            model, role = inputs.models[path], f"teacher of {domain}"
            params = self._shapes(model)
            drawn.append((*self._drawn(role, model, params, rule, samples), self._cache(model)))
        if not drawn:
            return None
        # One teacher after the other: what the largest needs.
        weights, _, cache = max(drawn, key=lambda d: d[0].bytes + d[2].bytes)
        parts = (*held, weights, cache)
        return parts, tuple(p for _, programs, _ in drawn for p in programs)

    def _learning(self) -> tuple[tuple[Planned, ...], tuple[Planned, ...]]:
        """The programs that score, and the train step."""
        config, inputs = self._config, self._inputs
        policy = config.method != "sft"
        scoring = inputs.teachers if config.method == "gopd" else {}
        roles: dict[ModelConfig, list[str]] = {}
        for domain, path in scoring.items():
            roles.setdefault(inputs.models[path], []).append(f"teacher of {domain}")
        reference = inputs.models[inputs.reference] if inputs.reference else None
        if reference is not None:
            roles.setdefault(reference, []).append("reference")
        read_abstract_heads(self._learner, inputs.teachers, inputs.reference, inputs.models)
        with self._table.asked() as asked:
            compile_ahead(
                self._learner,
                teachers={inputs.models[path] for path in scoring.values()},
                reference=reference,
                old=policy and config.learner.updates_per_batch > 1,
                behaviour=policy,
                read=not config.control.of_advantages,
            )
        score, update = [], []
        for call in asked:
            if call.name == "train step":
                update.append(Planned("student", call))
                continue
            model = call.function.keywords["model"].config
            score.append(Planned(", ".join(roles.get(model, ["old student"])), call))
        return tuple(score), tuple(update)


def _of(asked: Iterable[Call], role: str = "student", brought: bool = False) -> tuple[Planned, ...]:
    """The programs, each once; only weights are made from parameters that are brought."""
    calls = {call.key: call for call in asked}.values()
    return tuple(Planned(role, call, brought and call.name == "weights") for call in calls)


def _batch_bytes(update: Iterable[Planned]) -> int:
    """Bytes on one device of the packed batches of an update."""
    return max((on_device(p.batches) for p in update), default=0)
