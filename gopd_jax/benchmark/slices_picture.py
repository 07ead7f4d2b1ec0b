"""The picture of a train step on growing slices: memory and traffic of one chip.

In: the records of `compiled_learner`. Out: a PNG file.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gopd_jax.runtime import figures

GB = 1e9
MEMORY = {
    "arguments_bytes": "arguments",
    "at_once_bytes": "at once",
    "peak_bytes": "arguments, results, temporaries",
}


def draw(records: Sequence[Mapping[str, Any]], path: str) -> None:
    """Draws what one chip holds and receives in the train step (in `score`: for the longest rows).

    Lines begin at 0, so that what is flat looks flat.
    """
    last = records[-1]["program"]
    shown = list({r["topology"]: r for r in reversed(records) if r["program"] == last}.values())
    shown.sort(key=lambda record: record["devices"])
    title = f"{last} of one chip, with work in proportion to the chips"
    figure, (memory, traffic) = figures.panels(1, 2, (8.5, 3.4), title)
    chips = [record["devices"] for record in shown]
    for (field, label), colour in zip(MEMORY.items(), figures.COLOURS, strict=False):
        memory.plot(chips, [r[field] / GB for r in shown], "o-", color=colour, label=label)
    received = [r["received_bytes"] / GB for r in shown]
    traffic.plot(chips, received, "o-", color=figures.COLOURS[3])
    for axis, name in ((memory, "memory, GB"), (traffic, "received from others, GB")):
        axis.set_xscale("log")
        axis.set_xticks(chips, [f"{r['devices']}\n{r['topology']}" for r in shown])
        axis.xaxis.minorticks_off()
        axis.set_ylim(bottom=0)
        figures.finish(axis, name, "chips")
    figures.save(figure, path)
