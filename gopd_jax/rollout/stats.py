"""What the engine did in one call, as counts, and the seconds of its decode steps."""

import dataclasses

from gopd_jax.rollout.device_programs import Outcome


@dataclasses.dataclass
class RolloutStats:
    """Counts of one call of the engine, up to date while it draws.

    samples: rollouts requested.
    tokens: response tokens drawn.
    prompt_tokens: tokens of the prompts, each prompt counted once.
    prefill_tokens: prompt tokens run by prefill programs.
    padded_prefill_tokens: the same with the padding of these programs.
    copies: prompts copied from slot to slot.
    dispatches: runs of the decode program.
    steps: decode steps of all dispatches.
    slot_steps: slots x decode steps, whether the slot drew or not.
    timed_steps: decode steps of the dispatches that no prefill, copy or shrink ran just before.
    timed_seconds: their seconds; other dispatches wait for these programs first.
    """

    samples: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    prefill_tokens: int = 0
    padded_prefill_tokens: int = 0
    copies: int = 0
    dispatches: int = 0
    steps: int = 0
    slot_steps: int = 0
    timed_steps: int = 0
    timed_seconds: float = 0.0

    @property
    def utilisation(self) -> float:
        """Fraction of slot steps that drew a token."""
        return self.tokens / max(1, self.slot_steps)

    def __add__(self, other: "RolloutStats") -> "RolloutStats":
        """The counts of both."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return RolloutStats(**{name: mine[name] + theirs[name] for name in mine})

    def add_dispatch(self, outcome: Outcome, slots: int, seconds: float | None) -> None:
        """Counts a dispatch; its seconds are None if it was not alone on the device."""
        self.dispatches += 1
        self.steps += int(outcome.steps)
        self.slot_steps += int(outcome.steps) * slots
        self.tokens += int(outcome.counts.sum())
        if seconds is not None:
            self.timed_steps += int(outcome.steps)
            self.timed_seconds += seconds
