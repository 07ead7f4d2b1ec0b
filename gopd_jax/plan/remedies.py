"""What to change when a run does not fit: a list of changes, tried by compiling.

In: a planner and a config whose plan does not fit. Out: the first change, or the fewest together,
with which every phase fits, by the same compilation as the plan itself. Arithmetic on what phases
hold prunes what cannot help; it never decides.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
import dataclasses
import math
from typing import Any

import jax

from gopd_jax.config import Config
from gopd_jax.plan.chips import describe, larger
from gopd_jax.plan.make import Plan, Planner
from gopd_jax.plan.memory import besides
from gopd_jax.plan.rehearsed import RehearsedRun
from gopd_jax.runtime.errors import brief
from gopd_jax.runtime.memory import in_words
from gopd_jax.runtime.progress import say

MOST_TRIES = 12  # plans that are compiled for one remedy
# Share of what programs of a name needed besides that a changed one is hoped to need, before it is
# compiled.
HOPE = 0.3


@dataclasses.dataclass(frozen=True)
class Change:
    """A setting that takes less memory.

    setting: without "config.", such as "rollout.slots".
    values: to be tried, the mildest first, given the config.
    helps: beginnings of the names of the phases that it makes smaller; empty for all.
    costs: what it costs, in a few words.
    """

    setting: str
    values: Callable[[Config], Sequence[Any]]
    helps: tuple[str, ...]
    costs: str


def _unless(setting: str, *values: Any) -> Callable[[Config], Sequence[Any]]:
    """The values after the one that the config has; all of them if it has none of them."""

    def choose(config: Config) -> Sequence[Any]:
        now = get(config, setting)
        return values[values.index(now) + 1 :] if now in values else values

    return choose


def _halves(setting: str, count: int, least: int) -> Callable[[Config], Sequence[int]]:
    def choose(config: Config) -> Sequence[int]:
        now = get(config, setting)
        return [now >> n for n in range(1, count + 1) if (now >> n) >= least]

    return choose


DRAWING = ("rollout", "evaluate")
LEARNING = ("update", "score")
# The mildest first: what costs little time, then what costs more, then what changes the numbers.
CHANGES = (
    Change(
        "learner.score_early",
        _unless("learner.score_early", True, False),
        ("rollout",),
        "scoring waits for the last response",
    ),
    Change(
        "learner.remat",
        _unless("learner.remat", "none", "attention", "block", "offload"),
        ("update",),
        "more is computed again, or moved to the host",
    ),
    Change(
        "learner.rows_per_micro_batch",
        _halves("learner.rows_per_micro_batch", 3, 1),
        LEARNING,
        "smaller matrix products",
    ),
    Change(
        "eval.teachers",
        _unless("eval.teachers", True, False),
        ("evaluate teacher",),
        "the teachers' scores are not known",
    ),
    Change(
        "learner.park_frozen",
        _unless("learner.park_frozen", False, True),
        (),
        "teachers and reference travel between host and devices in every step",
    ),
    Change(
        "rollout.layout",
        _unless("rollout.layout", "auto", "gathered"),
        DRAWING,
        "each layer is gathered for every token",
    ),
    Change(
        "rollout.kv_cache",
        _unless("rollout.kv_cache", "compute", "int8"),
        DRAWING,
        "keys and values are rounded to 8 bits",
    ),
    Change(
        "rollout.slots",
        _halves("rollout.slots", 3, 1),
        DRAWING,
        "fewer sequences are drawn at once",
    ),
    Change(
        "learner.park_optimizer",
        _unless("learner.park_optimizer", False, True),
        (),
        "the optimizer's moments travel between host and devices in every update",
    ),
    Change(
        "mesh.context",
        _unless("mesh.context", 1, 2, 4),
        LEARNING,
        "keys and values travel between chips",
    ),
    Change("mesh.tensor", _unless("mesh.tensor", 1, 2, 4, 8), (), "more traffic between chips"),
    Change(
        "rollout.weights",
        _unless("rollout.weights", "compute", "int8"),
        DRAWING,
        "decode weights are rounded to 8 bits",
    ),
)


@dataclasses.dataclass(frozen=True)
class Remedy:
    """Changes with which a run fits.

    topology: the larger slice that it needs; empty if the one that was asked for is enough.
    changes: value by setting.
    plan: of the changed config, compiled.
    tried: settings and outcome of each attempt, in words.
    """

    topology: str
    changes: dict[str, Any]
    plan: Plan
    tried: tuple[str, ...]

    @property
    def options(self) -> str:
        """The changes as options of the command line."""
        larger = [f"--topology={self.topology}"] if self.topology else []
        return " ".join([*larger, *(f"--config.{n}={spelled(v)}" for n, v in self.changes.items())])


def spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def get(config: Config, setting: str) -> Any:
    """The value of a setting such as "rollout.slots"."""
    value: Any = config
    for name in setting.split("."):
        value = getattr(value, name)
    return value


def changed(config: Config, setting: str, value: Any) -> Config:
    """The config with another value."""
    group, _, name = setting.rpartition(".")
    if not group:
        return dataclasses.replace(config, **{name: value})
    part = dataclasses.replace(getattr(config, group), **{name: value})
    return dataclasses.replace(config, **{group: part})


def find_remedy(planner: Planner, plan: Plan) -> tuple[Remedy | None, tuple[str, ...]]:
    """The smallest change that makes a run fit, and what was tried.

    One change alone is tried first. Then changes are added, each time the mildest that makes less
    of the run too large, and in the end those that are not needed are taken away again. Where
    nothing helps, slices of twice and four times the size are tried in the same way.
    """
    search = _Search(planner, plan)
    found, tried, name = search.single() or search.several(), search.tried, ""
    for name in larger(planner.where.name) if found is None else ():
        say(f"does not fit {planner.where.name}: trying {name}")
        bigger = dataclasses.replace(
            planner, where=describe(name), compiler=planner.compiler.on(name)
        )
        plan = bigger.plan(bigger.rehearsed(plan.run.config))
        search = _Search(bigger, plan)
        found = ({}, plan) if plan.fits else search.single() or search.several()
        tried += [f"{name}: {'fits' if plan.fits else 'does not fit'}"]
        tried += [f"{name}, {text}" for text in search.tried]
        if found is not None:
            break
    return (Remedy(name, *found, tuple(tried)) if found else None), tuple(tried)


Changes = dict[str, Any]


class _Search:
    """Tries changes and remembers what the compiler said."""

    def __init__(self, planner: Planner, plan: Plan):
        self._planner, self._plan = planner, plan
        self._limit = planner.where.limit
        self._known: dict[Hashable, float] = {}  # bytes besides what is held, by program
        self._by_name: dict[str, float] = {}
        self._note(plan)
        self._runs: dict[tuple[tuple[str, Any], ...], RehearsedRun | None] = {}
        self.tried: list[str] = []

    def single(self) -> tuple[Changes, Plan] | None:
        """One change that is enough."""
        for change, value in self._candidates(self._plan.run):
            changes = {change.setting: value}
            run = self._rehearsed(changes)
            if run is not None and self._excess(run) == (0, 0):
                plan = self._try(changes, run)
                if plan is not None and plan.fits:
                    return changes, plan
        return None

    def several(self) -> tuple[Changes, Plan] | None:
        """Changes that are enough together."""
        changes, run = {}, self._plan.run
        while (added := self._mildest(changes, run)) is not None:
            changes, run = added
            if self._excess(run) == (0, 0):
                plan = self._try(changes, run)
                if plan is not None and plan.fits:
                    return self._fewest(changes, plan)
                if plan is None or len(self.tried) >= MOST_TRIES:
                    return None
        return None

    def _mildest(self, changes: Changes, run: RehearsedRun) -> tuple[Changes, RehearsedRun] | None:
        """The changes with another one that makes less of the run too large."""
        before = self._excess(run)
        for change, value in self._candidates(run):
            more = changes | {change.setting: value}
            with_more = self._rehearsed(more)
            if with_more is not None and self._excess(with_more) < before:
                return more, with_more
        return None

    def _fewest(self, changes: Changes, plan: Plan) -> tuple[Changes, Plan]:
        """The changes without those that are not needed."""
        for name in list(changes)[:-1]:
            fewer = {n: v for n, v in changes.items() if n != name}
            run = self._rehearsed(fewer)
            if run is None or self._excess(run) != (0, 0):
                continue
            tried = self._try(fewer, run)
            if tried is not None and tried.fits:
                changes, plan = fewer, tried
        return changes, plan

    def _candidates(self, run: RehearsedRun) -> Iterator[tuple[Change, Any]]:
        """Changes of settings that concern the phases that are too large, and their values."""
        sizes = self._sizes(run)
        over = [name for name, size in sizes.items() if size > self._limit]
        for change in CHANGES:
            if any(not change.helps or name.startswith(change.helps) for name in over):
                yield from ((change, value) for value in change.values(run.config))

    def _rehearsed(self, changes: Changes) -> RehearsedRun | None:
        """The changed run; None for a config that there cannot be."""
        key = tuple(changes.items())
        if key not in self._runs:
            self._runs[key] = self._new_run(changes)
        return self._runs[key]

    def _new_run(self, changes: Changes) -> RehearsedRun | None:
        config = self._plan.run.config
        try:
            for name, value in changes.items():
                config = changed(config, name, value)
            return self._planner.rehearsed(config)
        except ValueError:
            return None

    # ---- Arithmetic, to try less.

    def _note(self, plan: Plan) -> None:
        for phase in plan.run.phases:
            for planned in phase.programs:
                compiled = plan.compiled[planned.call.key]
                needs = math.inf if compiled.refused else besides(planned, compiled)
                self._known[planned.call.key] = needs
                if needs < math.inf:
                    name = planned.call.name
                    self._by_name[name] = max(needs, self._by_name.get(name, 0))

    def _sizes(self, run: RehearsedRun) -> dict[str, float]:
        """Bytes of each phase: what the compiler said, or hardly more than what is held."""
        sizes = {}
        for phase in run.phases:
            needs = [
                self._known.get(p.call.key, HOPE * self._by_name.get(p.call.name, 0))
                for p in phase.programs
            ]
            sizes[phase.name] = sum(h.bytes for h in phase.held) + max(needs, default=0)
        return sizes

    def _excess(self, run: RehearsedRun) -> tuple[int, float]:
        """How far a run is from fitting: phases that are refused, and bytes that are too many."""
        sizes = self._sizes(run).values()
        over = sum(max(0, size - self._limit) for size in sizes if size < math.inf)
        return sum(size == math.inf for size in sizes), over

    def _try(self, changes: Changes, run: RehearsedRun) -> Plan | None:
        """The plan of a changed run; None when enough was tried, or it cannot be compiled."""
        if len(self.tried) >= MOST_TRIES:
            return None
        names = ", ".join(f"{name}={spelled(value)}" for name, value in changes.items())
        say(f"does not fit yet: trying {names}")
        try:
            plan = self._planner.plan(run)
        except (jax.errors.JaxRuntimeError, NotImplementedError, ValueError) as error:
            self.tried.append(f"{names}: cannot be compiled ({brief(error)})")
            return None
        self._note(plan)
        worst = plan.worst
        what = "refused by the compiler" if worst.refused else in_words(worst.bytes)
        self.tried.append(
            f"{names}: {'fits' if plan.fits else 'does not fit'}, {worst.phase} {what}"
        )
        return plan
