"""What a contract check found: a number, its bound, and what to do; as a table, JSON or an error.

In: numbers. Out: `Outcome`s. A check that fails may be accepted by name; what it found is said all
the same.
"""

from collections.abc import Collection, Iterable, Sequence
import dataclasses
import math
from typing import Literal

from gopd_jax.check.settings import NAMES
from gopd_jax.runtime.files import JsonObject
from gopd_jax.runtime.tables import aligned

State = Literal["passed", "failed", "accepted", "undecided", "not checked"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One check of one role or domain.

    name: one of `settings.NAMES`.
    of: what was checked, such as "teacher of math".
    state: "undecided" says that the bound lies within the uncertainty of the number.
    number, bound: None where nothing was measured.
    least: the number is to be at least the bound; otherwise at most.
    unit: of both.
    saw: what was found, in words; or why it was not checked.
    todo: what to do where it fails.
    """

    name: str
    of: str
    state: State
    number: float | None
    bound: float | None
    least: bool
    unit: str
    saw: str
    todo: str

    @property
    def limit(self) -> str:
        """The bound in words."""
        if self.bound is None:
            return ""
        return f"{'>=' if self.least else '<='} {self.bound:g}"

    def to_json(self) -> JsonObject:
        """The fields as JSON, where a number that is not finite is its text."""
        values = dataclasses.asdict(self)
        if self.number is not None and not math.isfinite(self.number):
            values["number"] = str(self.number)
        return values


def measured(
    name: str,
    of: str,
    number: float,
    *,
    bound: float,
    least: bool = False,
    unit: str = "",
    saw: str = "",
    todo: str,
) -> Outcome:
    """The outcome of a number and its bound; a number that is not finite fails."""
    number = float(number)
    good = math.isfinite(number) and (number >= bound if least else number <= bound)
    state: State = "passed" if good else "failed"
    return Outcome(name, of, state, number, bound, least, unit, saw, todo)


def not_checked(name: str, of: str, why: str) -> Outcome:
    return Outcome(name, of, "not checked", None, None, False, "", why, "")


def accepting(outcomes: Iterable[Outcome], accepted: Collection[str]) -> list[Outcome]:
    """The outcomes, in which a failure of a check that is accepted by name counts as accepted."""
    return [
        dataclasses.replace(o, state="accepted")
        if o.state == "failed" and o.name in accepted
        else o
        for o in outcomes
    ]


def raise_if_failed(outcomes: Sequence[Outcome]) -> None:
    """Raises ValueError if a check failed: one sentence on the first, and the names of all."""
    failed = [o for o in outcomes if o.state == "failed"]
    if not failed:
        return
    first, names = failed[0], dict.fromkeys(o.name for o in failed)
    others = [f"{o.name} ({o.of})" for o in failed[1:]]
    more = f"; {len(others)} more failed: {', '.join(others)}" if others else ""
    raise ValueError(
        f"check {first.name} ({first.of}): {_text(first)}, expected {first.limit}: "
        f"{NAMES[first.name]}{f' ({first.saw})' if first.saw else ''}; {first.todo}, or accept it "
        f"with --config.check.accept={','.join(names)}{more}"
    )


def count(outcomes: Sequence[Outcome]) -> str:
    """How many passed, and how many did not."""
    states = [o.state for o in outcomes]
    return ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))


def table(outcomes: Sequence[Outcome], width: int | None = None) -> str:
    """The outcomes as a table, and below it what was found where one did not pass.

    Args:
        width: columns of the terminal; None sets no limit.
    """
    rows = [["check", "of", "number", "bound", "unit", "result"]]
    rows += [[o.name, o.of, _text(o, unit=False), o.limit, o.unit, o.state] for o in outcomes]
    # Names stand to the left, and so do the second columns.
    widest = max(len(row[1]) for row in rows)
    rows = [[row[0], row[1].ljust(widest), *row[2:]] for row in rows]
    lines, _ = aligned(rows, width, ["unit", "bound"])
    for o in outcomes:
        if o.state != "passed":
            todo = f"; {o.todo}" if o.todo and o.state != "not checked" else ""
            lines.append(f"{o.name} ({o.of}) {o.state}: {o.saw or NAMES[o.name]}{todo}")
    return "\n".join(lines)


def _text(outcome: Outcome, unit: bool = True) -> str:
    if outcome.number is None:
        return ""
    return f"{outcome.number:.3g}{f' {outcome.unit}' if unit and outcome.unit else ''}"
