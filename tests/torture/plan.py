"""Which signals strike a run, and when: drawn from a seed before anything runs.

Out: strikes in chains. A chain is one run that is struck several times, each time in a later window
of its steps, and resumed after each strike that ends it.
"""

from collections.abc import Sequence
import dataclasses
import random

STEPS, SAVE_EVERY, EVALUATE_EVERY = 12, 2, 3
# All after step 1. Each window holds a save and an evaluation, so that every phase can be aimed at.
WINDOWS = ((2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12))
PHASES = ("rollout", "score", "update", "save", "evaluation")
KILL_ALL, KILL_MAIN, KILL_WORKERS = "kill -9 group", "kill -9 main", "kill -9 workers"
SIGNALS = (KILL_ALL, KILL_MAIN, KILL_WORKERS, "SIGTERM", "SIGINT", "SIGSTOP")
STOPS = ("SIGTERM", "SIGINT")  # answered by saving the last finished step
# Exit statuses of a run that a signal ends; a run goes on after the others. 0: all steps are done.
ENDS = {KILL_ALL: (-9,), KILL_MAIN: (-9,), "SIGTERM": (143, 0), "SIGINT": (130, 0)}
# Of the usual duration of a phase; its end is left out, because durations vary.
FRACTION = (0.05, 0.6)
STOPPED_S = (2.0, 6.0)  # bounds of the seconds between SIGSTOP and SIGCONT


@dataclasses.dataclass(frozen=True)
class Strike:
    """One signal.

    signal: of `SIGNALS`.
    phase, step: what is aimed at.
    fraction: of the usual duration of the phase, after which the signal is sent.
    stopped_s: seconds until SIGCONT, for SIGSTOP.
    """

    number: int
    signal: str
    phase: str
    step: int
    fraction: float
    stopped_s: float


def happens(phase: str, step: int) -> bool:
    """Whether a step of the uninterrupted run has the phase."""
    if phase == "save":
        return step % SAVE_EVERY == 0 or step == STEPS
    if phase == "evaluation":
        return step % EVALUATE_EVERY == 0 or step == STEPS
    return True


def draw(seed: int, kills: int) -> list[list[Strike]]:
    """The strikes of a seed, in chains; signals and phases occur equally often, or nearly so."""
    rng = random.Random(seed)
    signals, phases = _spread(SIGNALS, kills, rng), _spread(PHASES, kills, rng)
    strikes = []
    for i, (signal, phase) in enumerate(zip(signals, phases, strict=True)):
        window = WINDOWS[i % len(WINDOWS)]
        step = rng.choice([s for s in window if happens(phase, s)])
        fraction, stopped_s = rng.uniform(*FRACTION), rng.uniform(*STOPPED_S)
        strikes.append(Strike(i + 1, signal, phase, step, fraction, stopped_s))
    return [strikes[i : i + len(WINDOWS)] for i in range(0, kills, len(WINDOWS))]


def _spread(names: Sequence[str], count: int, rng: random.Random) -> list[str]:
    """`count` names in a random order; each as often as any other, give or take one."""
    whole, rest = divmod(count, len(names))
    spread = [*names] * whole + rng.sample(names, rest)
    rng.shuffle(spread)
    return spread
