"""A chain: one run, struck several times, resumed to its end, compared with one never struck.

In: the strikes, the arguments of the train command. Out: an `Outcome` for each strike.
"""

from collections.abc import Sequence
import dataclasses
from pathlib import Path
import time

from tests.same_run import differences
from tests.torture.phases import at_moment
from tests.torture.plan import ENDS, STEPS, STOPS, Strike
from tests.torture.struck_run import Failed, StruckRun, seconds_until_gone


@dataclasses.dataclass
class Outcome:
    """What a strike did.

    struck: the phases in which it came; "save" goes on beside others.
    step: in which it came.
    status: exit status of the run; None if it goes on.
    said: the last line of its output by then.
    gone_s: seconds until the processes below it had ended; None if they had not, or nothing should.
    resumed: step of the checkpoint that the next start resumed from; None without a next start.
    equal: whether the chain of the strike ended with the same bits.
    wrong: what is not as it should be.
    """

    strike: Strike
    struck: list[str] = dataclasses.field(default_factory=list)
    step: int = 0
    status: int | None = None
    said: str = ""
    gone_s: float | None = None
    resumed: int | None = None
    equal: bool = False
    wrong: list[str] = dataclasses.field(default_factory=list)


class Chain:
    """The starts of one run.

    Args:
        folder: gets the run's folder, and what each start says.
        arguments: of the train command, without the workdir.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]):
        folder.mkdir(parents=True)
        self._folder, self.workdir, self.starts = folder, folder / "run", 0
        self._arguments = [*arguments, f"--workdir={self.workdir}"]
        self.run = self._start()

    def _start(self) -> StruckRun:
        self.starts += 1
        return StruckRun(self._folder, self.starts, self._arguments)

    @property
    def complete(self) -> bool:
        return (self.workdir / "summary.json").exists()

    def hit(self, strike: Strike, usual_s: dict[str, float]) -> Outcome:
        """Strikes at the moment that is aimed at; starts the run again if that ends it."""
        outcome, run = Outcome(strike), self.run
        began = run.wait_for(strike.phase, strike.step).at
        time.sleep(max(0.0, began + strike.fraction * usual_s[strike.phase] - time.monotonic()))
        moment, below = run.strike(strike)
        if expected := ENDS.get(strike.signal):
            outcome.status = run.wait()
            if outcome.status not in expected or (outcome.status == 0 and not self.complete):
                outcome.wrong.append(f"exit status {outcome.status}")
        if below:
            outcome.gone_s = seconds_until_gone(below)
            if outcome.gone_s is None:
                outcome.wrong.append("processes left behind")
        struck, outcome.step = at_moment(run.phases.update(), moment)
        outcome.struck, outcome.said = sorted(struck), run.last_line()
        if expected and not self.complete:
            self.run = self._start()
            outcome.resumed = self.run.wait_for("restored").step
            done = max(e.step for e in run.phases.events if e.phase in ("between", "restored"))
            if strike.signal in STOPS and outcome.resumed != done:
                outcome.wrong.append(f"step {done} was finished and is not saved")
        return outcome

    def finish(self) -> None:
        """Waits for the end of the run; `Failed` if it does not reach it."""
        status = self.run.wait()
        if status or not self.complete:
            said = self.run.last_line()
            raise Failed(f"ended with {status} before its end; it said: {said}")


def run_chain(
    folder: Path,
    strikes: Sequence[Strike],
    arguments: Sequence[str],
    usual_s: dict[str, float],
    uninterrupted: Path,
) -> list[Outcome]:
    """Strikes a run, lets it end, and compares it with the one that was never struck."""
    outcomes, chain = [], Chain(folder, arguments)
    try:
        for strike in strikes:
            outcomes.append(chain.hit(strike, usual_s))
        chain.finish()
        different = differences(chain.workdir, uninterrupted, {STEPS})
    except Failed as failed:
        outcomes += [Outcome(strike) for strike in strikes[len(outcomes) :]]
        different = [str(failed)]
    finally:
        chain.run.close()
    for outcome in outcomes:
        outcome.equal = not different
        outcome.wrong += different[:1]
    return outcomes
