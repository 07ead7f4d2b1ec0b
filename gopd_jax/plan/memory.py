"""The memory of one device over a run: what each phase holds, and what its programs need besides.

In: the phases of a rehearsed run, and what the compiler says of their programs. Out: a `Peak` for
each phase. Held bytes are computed from shapes; the rest is the compiler's account.
"""

from collections.abc import Hashable, Mapping, Sequence
import dataclasses

from gopd_jax.plan.compiling import Compiled
from gopd_jax.plan.phases import Held, Phase, Planned


@dataclasses.dataclass(frozen=True)
class Peak:
    """The most memory of one device in a phase.

    held: what stays while the phase's programs run.
    program: the one that needs most besides; None without programs.
    besides: bytes of its temporaries, and of arguments and results that the phase does not hold.
    refused: the compiler's words where it refuses a program of the phase.
    """

    phase: str
    held: tuple[Held, ...]
    program: Planned | None
    besides: int
    refused: str = ""

    @property
    def bytes(self) -> int:
        return sum(part.bytes for part in self.held) + self.besides

    def fits(self, limit: int) -> bool:
        return not self.refused and self.bytes <= limit


def besides(planned: Planned, compiled: Compiled) -> int:
    """Bytes that a program needs besides what its phase holds."""
    return max(0, compiled.peak - planned.held_arguments - planned.held_results)


def peaks(phases: Sequence[Phase], compiled: Mapping[Hashable, Compiled]) -> list[Peak]:
    """The peak of each phase."""
    found = []
    for phase in phases:
        refused = [p for p in phase.programs if compiled[p.call.key].refused]
        most, program = 0, None
        for planned in phase.programs:
            needs = besides(planned, compiled[planned.call.key])
            if program is None or needs > most:
                most, program = needs, planned
        words = ""
        if refused:
            program = refused[0]
            most = besides(program, compiled[program.call.key])
            words = f"{program.name}: {compiled[program.call.key].refused}"
        found.append(Peak(phase.name, phase.held, program, most, words))
    return found
