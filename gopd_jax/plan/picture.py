"""A picture of the memory of one device over a run: a bar for each phase, and the limit."""

import os

from gopd_jax.plan.make import Plan
from gopd_jax.runtime.figures import COLOURS, finish, panels, save

GB = 1e9
BESIDES = "what programs need besides"


def draw(plan: Plan, path: str | os.PathLike) -> None:
    """Draws stacked bars, one for each phase: what it holds, and on top what programs need."""
    peaks, limit = plan.peaks, plan.where.limit / GB
    title = f"{plan.run.config.name} on {plan.where.name}: memory of one device"
    figure, (axis,) = panels(1, 1, (2 + 1.5 * len(peaks), 5), title)
    below = [0.0] * len(peaks)
    kinds = list(dict.fromkeys(_kind(h.what) for peak in peaks for h in peak.held))
    for index, kind in enumerate([*kinds, BESIDES]):
        sizes = [
            peak.besides / GB
            if kind == BESIDES
            else sum(h.bytes for h in peak.held if _kind(h.what) == kind) / GB
            for peak in peaks
        ]
        shade = 1.0 if index < len(COLOURS) else 0.5
        colour = COLOURS[index % len(COLOURS)]
        axis.bar(range(len(peaks)), sizes, bottom=below, label=kind, color=colour, alpha=shade)
        below = [b + s for b, s in zip(below, sizes, strict=True)]
    axis.axhline(limit, color="black", linestyle="--", linewidth=1, label=f"limit, {limit:.1f} GB")
    if max(below) < limit / 4:  # the bars, not the room above them
        axis.set_ylim(0, 1.2 * max(below))
    names = [peak.phase + (" (refused)" if peak.refused else "") for peak in peaks]
    axis.set_xticks(range(len(peaks)), names, rotation=20, ha="right", fontsize=9)
    axis.set_ylabel("GB", fontsize=9)
    finish(axis, "held: computed from shapes; besides: compiled")
    save(figure, path)


def _kind(what: str) -> str:
    """What a held part is, whichever model it is of."""
    if what.startswith(("teacher", "reference")):
        return "teachers and reference"
    return what.partition(" (")[0]
