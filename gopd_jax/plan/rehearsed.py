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
from gopd_jax.learner.ahead import ask_for_distance, compile_ahead, frozen_params
from gopd_jax.learner.learner import Learner
from gopd_jax.models.config import ModelConfig
from gopd_jax.models.decoder import abstract_params, param_shardings
from gopd_jax.models.settings import SamplingRule
from gopd_jax.rewards.settings import NONE
from gopd_jax.rollout.engine import RolloutEngine
from gopd_jax.rollout.rehearsal import rehearse
from gopd_jax.rollout.samplers import Samplers
from gopd_jax.runtime.memory import device_bytes
from gopd_jax.runtime.mesh import compute_dtype, make_mesh, with_shardings
from gopd_jax.runtime.rehearsal import Call, Rehearsal
from gopd_jax.train.models import make_learner, make_samplers
from gopd_jax.train.prepare import RunInputs, roles_of
from gopd_jax.types import Params, TrainState, Tree

# Arguments of a program that a phase holds anyway, by position; the others come and go with it.
HELD_ARGUMENTS = {
    "start": (0,),
    "restart": (0,),
    "weights": (0,),
    "prefill": (0, 1),
    "decode": (0, 1, 2),
    "copy": (0,),
    "shrink": (0, 1),
    "score": (0,),
    "distance": (0, 1),
    "train step": (0,),
}
# Programs whose results a phase holds.
MAKE_HELD = ("start", "restart", "weights", "cache")
STOP_IDS = (0,)  # where no tokenizer says which


@dataclasses.dataclass(frozen=True)
class Held:
    """Something that stays on a device while programs run.

    what: such as "rollout cache".
    bytes: of one device.
    """

    what: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Planned:
    """A program of a phase.

    role: the model that it runs, such as "student".
    call: what is compiled.
    """

    role: str
    call: Call

    @property
    def name(self) -> str:
        """Such as "score (teacher of math): 16 x 18432"."""
        size = f": {self.size}" if self.size else ""
        return f"{self.call.name} ({self.role}){size}"

    @property
    def size(self) -> str:
        """The shapes that it is for, in words."""
        if self.call.name == "score":
            return " x ".join(map(str, self.call.args[1].shape))
        if self.call.name == "train step":
            return " + ".join(" x ".join(map(str, b.tokens.shape)) for b in self.call.args[1:])
        return self.call.bucket

    @property
    def held_arguments(self) -> int:
        """Bytes on one device of its arguments that a phase holds anyway."""
        places = HELD_ARGUMENTS.get(self.call.name, ())
        return sum(_held(self.call.args[i]) for i in places)

    @property
    def held_results(self) -> int:
        """Bytes on one device of its results that a phase holds from then on."""
        return device_bytes(self.call.result()) if self.call.name in MAKE_HELD else 0


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a run.

    name: such as "rollout".
    held: what stays on the devices while its programs run.
    programs: one runs after the other.
    """

    name: str
    held: tuple[Held, ...]
    programs: tuple[Planned, ...]


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
    ids: tuple[int | None, tuple[int, ...]] = (None, ()),
    every: bool = False,
) -> RehearsedRun:
    """Goes through a run.

    Args:
        config: with a compute dtype that is not "auto"; see `run_settings`.
        models: architecture by path.
        devices: of the mesh.
        ids: number of ids of the tokenizer, and those that end a response; where they are not
            known, None for the student's vocabulary, and ().
        every: takes all buckets of prefill and decode; else those that need the most memory.

    Raises:
        ValueError: the mesh does not fit the devices, or they do not divide what they must.
    """
    mesh = make_mesh(**dataclasses.asdict(config.mesh), devices=list(devices))
    table, dtype = Rehearsal(mesh), compute_dtype(config.compute_dtype)
    inputs = _inputs(config, models, *ids)
    student = models[config.student]
    learner = make_learner(config, student, table, dtype, inputs.num_ids)
    samplers = make_samplers(config, inputs, table, dtype)
    phases = _Phases(config, inputs, learner, samplers, every).all()
    sampler = samplers[student]
    kernels = learner.kernels | {"decode attention": str(sampler.kernel)}
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
        shapes = abstract_params(self._model)
        self._params = with_shardings(shapes, param_shardings(self._model, learner.mesh))

    def all(self) -> tuple[Phase, ...]:
        with self._table.asked() as asked:
            state = self._learner.start(self._params)
        frozen = self._frozen()
        held = (*_state_parts(state), *frozen)
        start = Phase("start", (Held("student", device_bytes(self._params)), *frozen), _of(asked))
        phases = [start, *self._evaluations(state, held), *self._step(state, held)]
        return tuple(phases)

    # ---- What is held.

    def _frozen(self) -> tuple[Held, ...]:
        """Teachers and reference; a folder that serves in several roles is loaded once."""
        paths: dict[str, list[str]] = {}
        for domain, path in self._inputs.teachers.items():
            paths.setdefault(path, []).append(f"teacher of {domain}")
        if self._inputs.reference:
            paths.setdefault(self._inputs.reference, []).append("reference")
        return tuple(
            Held(
                " and ".join(roles),
                device_bytes(frozen_params(self._learner, self._inputs.models[path])),
            )
            for path, roles in paths.items()
        )

    def _caches(self, *models: ModelConfig) -> list[Held]:
        """The caches of the engines of these architectures, wide and narrow."""
        parts = []
        for model in dict.fromkeys(models):
            engine = self._samplers[model]
            wide, *narrow = (device_bytes(engine.caches.abstract(w)) for w in engine.widths)
            of = "" if model == self._model else " (teacher)"
            parts.append(Held(f"rollout cache{of}", wide))
            parts += [Held(f"narrower caches{of}", sum(narrow))] if narrow else []
        return parts

    # ---- The phases.

    def _drawn(
        self, role: str, model: ModelConfig, params: Params, rule: SamplingRule, samples: int
    ) -> tuple[Held, tuple[Planned, ...]]:
        """The decode weights of a model, and the programs of a call of its engine."""
        with self._table.asked() as asked:
            weights = rehearse(
                self._samplers[model], params, rule, samples=samples, every=self._every
            )
        return Held(f"decode weights ({role})", device_bytes(weights)), _of(asked, role)

    def _evaluations(self, state: TrainState, held: tuple[Held, ...]) -> list[Phase]:
        """Where student and teachers stand before the first step."""
        config, inputs = self._config, self._inputs
        rule, samples = config.eval.rule, config.eval.samples
        weights, programs = self._drawn("student", self._model, state.params, rule, samples)
        student = (*held, weights, *self._caches(self._model))
        phases = [Phase("evaluate student", student, programs)]
        unverified = [n for n, d in config.domains.items() if d.reward == NONE]
        if unverified:
            with self._table.asked() as asked:
                for name in unverified:
                    path = inputs.teachers.get(name)
                    teacher = inputs.models[path] if path else None
                    limit = config.rollout.max_response_tokens
                    ask_for_distance(self._learner, state.params, teacher, limit)
            phases.append(Phase("distance to teachers", student, _of(asked)))
        done = set()
        for domain, path in inputs.teachers.items() if config.eval.teachers else ():
            if domain in unverified or path in done:
                continue
            done.add(path)
            model, role = inputs.models[path], f"teacher of {domain}"
            params = frozen_params(self._learner, model)
            weights, programs = self._drawn(role, model, params, rule, samples)
            caches = self._caches(self._model, model)
            phases.append(Phase(f"evaluate {role}", (*held, weights, *caches), programs))
        return phases

    def _step(self, state: TrainState, held: tuple[Held, ...]) -> list[Phase]:
        """The phases of a step."""
        config = self._config
        rollout = self._rollout(state, held)
        score, update = self._learning(state)
        caches = self._caches(*self._drawing_models())
        phases = []
        if rollout is not None:
            early = config.learner.score_early
            phases.append(Phase("rollout", rollout[0], (*rollout[1], *(score if early else ()))))
        if score and not (config.learner.score_early and rollout):
            phases.append(Phase("score", (*held, *caches), score))
        others = config.learner.updates_per_batch - 1
        batches = Held("packed batches of other updates", others * _batch_bytes(update))
        more = [batches] if others else []
        phases.append(Phase("update", (*held, *caches, *more), update))
        return phases

    def _drawing_models(self) -> list[ModelConfig]:
        """The architectures that draw in a step: the student, or for sft the teachers."""
        if self._config.method != "sft":
            return [self._model]
        drawing = [self._inputs.models[p] for p in self._inputs.teachers.values()]
        return [self._model, *drawing]  # the student's cache is that of its evaluation

    def _rollout(
        self, state: TrainState, held: tuple[Held, ...]
    ) -> tuple[tuple[Held, ...], tuple[Planned, ...]] | None:
        config, inputs = self._config, self._inputs
        rule, samples = config.rollout.rule, config.rollout.samples_per_prompt
        if config.method != "sft":
            drawn = [self._drawn("student", self._model, state.params, rule, samples)]
        else:
            drawn = []
            for domain, path in inputs.teachers.items():
                model = inputs.models[path]
                params = frozen_params(self._learner, model)
                drawn.append(self._drawn(f"teacher of {domain}", model, params, rule, samples))
        if not drawn:
            return None
        weights = max((w for w, _ in drawn), key=lambda w: w.bytes)
        parts = (*held, weights, *self._caches(*self._drawing_models()))
        return parts, tuple(p for _, programs in drawn for p in programs)

    def _learning(self, state: TrainState) -> tuple[tuple[Planned, ...], tuple[Planned, ...]]:
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
        with self._table.asked() as asked:
            compile_ahead(
                self._learner,
                teachers={inputs.models[path] for path in scoring.values()},
                reference=reference,
                old=policy and config.learner.updates_per_batch > 1,
                behaviour=policy,
            )
        score, update = [], []
        for call in asked:
            if call.name == "train step":
                update.append(Planned("student", call))
                continue
            model = call.function.keywords["model"].config
            named = roles.get(model, []) if call.args[0] is not state.params else []
            score.append(Planned(", ".join(named) or "old student", call))
        return tuple(score), tuple(update)


def _held(tree: Tree) -> int:
    """Bytes on one device of the shapes in a tree; arrays of the host do not count."""
    leaves = jax.tree.leaves(tree)
    return device_bytes([x for x in leaves if isinstance(x, jax.ShapeDtypeStruct)])


def _of(asked: Iterable[Call], role: str = "student") -> tuple[Planned, ...]:
    """The programs, each once."""
    return tuple(Planned(role, call) for call in {c.key: c for c in asked}.values())


def _state_parts(state: TrainState) -> tuple[Held, ...]:
    return (
        Held("student", device_bytes(state.params)),
        Held("optimizer state", device_bytes((state.step, state.opt_state))),
    )


def _batch_bytes(update: Iterable[Planned]) -> int:
    """Bytes on one device of the packed batches of an update."""
    return max((device_bytes(p.call.args[1:]) for p in update), default=0)
