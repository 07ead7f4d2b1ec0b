"""A plan: a config and a slice in, memory by phase, work by part, and a verdict out."""

from collections.abc import Hashable, Mapping
import dataclasses

from gopd_jax.config import Config
from gopd_jax.models.config import ModelConfig
from gopd_jax.plan.chips import Slice
from gopd_jax.plan.compiling import Compiled, Compiler
from gopd_jax.plan.memory import Peak, peaks
from gopd_jax.plan.rehearsed import RehearsedRun, rehearse_run, run_settings
from gopd_jax.plan.work import Assumed, Load, loads


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run takes on a slice.

    compiled: by key of the rehearsed run's calls.
    peaks: by phase. loads: by part of a step; empty where the chip has no published figures.
    """

    where: Slice
    run: RehearsedRun
    compiled: Mapping[Hashable, Compiled]
    peaks: tuple[Peak, ...]
    loads: tuple[Load, ...]
    assumed: Assumed

    @property
    def fits(self) -> bool:
        return all(peak.fits(self.where.limit) for peak in self.peaks)

    @property
    def worst(self) -> Peak:
        """The phase that needs most; one that the compiler refuses comes first."""
        return max(self.peaks, key=lambda peak: (bool(peak.refused), peak.bytes))

    @property
    def step_seconds(self) -> float:
        """At the assumed shares of the published figures; 0 where there are none."""
        return sum(load.seconds(self.where, self.assumed) for load in self.loads)

    @property
    def hours(self) -> float:
        """Of all steps, without evaluations and checkpoints."""
        return self.run.config.steps * self.step_seconds / 3600

    @property
    def tokens_per_second(self) -> float:
        """Response tokens that are drawn and learned from, over the whole slice."""
        tokens = self.run.config.rollouts_per_step * self.assumed.response_tokens
        return tokens / self.step_seconds if self.step_seconds else 0.0


@dataclasses.dataclass(frozen=True)
class Planner:
    """Plans runs of the same models on one slice.

    ids: of the tokenizer; see `rehearse_run`.
    every: takes all buckets of prefill and decode; else those that need the most memory.
    """

    where: Slice
    models: Mapping[str, ModelConfig]
    compiler: Compiler
    assumed: Assumed
    ids: tuple[int | None, tuple[int, ...]] = (None, ())
    every: bool = False

    def rehearsed(self, config: Config) -> RehearsedRun:
        """The run, not compiled; raises ValueError for a config that the slice cannot have."""
        settings = run_settings(config, self.where.chip.kind)
        devices = self.where.devices
        memory = round(self.where.chip.memory)
        return rehearse_run(
            settings, self.models, devices, memory=memory, ids=self.ids, every=self.every
        )

    def plan(self, run: RehearsedRun) -> Plan:
        """Compiles all programs of a run."""
        compiled = self.compiler(run.table.calls.values())
        found = peaks(run.phases, compiled)
        parts = loads(run, compiled, self.assumed)
        return Plan(self.where, run, compiled, tuple(found), tuple(parts), self.assumed)
