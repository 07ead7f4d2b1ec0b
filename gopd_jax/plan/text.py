"""A plan as text for a person, and as records for a program."""

from collections.abc import Iterator, Sequence
from typing import Any

from gopd_jax.plan.chips import SPARE
from gopd_jax.plan.compiling import Compiled
from gopd_jax.plan.make import Plan
from gopd_jax.plan.phases import Planned
from gopd_jax.plan.remedies import Remedy
from gopd_jax.runtime.memory import in_words
from gopd_jax.runtime.progress import duration
from gopd_jax.runtime.tables import aligned

GB, MB = 1e9, 1e6  # tables are in MB where all of a run is less than a GB

# Where the numbers of a record come from.
SOURCES = {
    "held_bytes": "computed from shapes and shardings",
    "besides_bytes": "compiled",
    "argument_bytes, result_bytes, taken_over_bytes, temporary_bytes, at_once_bytes": "compiled",
    "collectives": "compiled",
    "flops, memory_bytes": "computed from shapes, for assumed lengths",
    "network_bytes": "compiled, times the computed number of runs",
    "floor_seconds": "computed from the published figures of the chip",
    "step_seconds, tokens_per_second, hours, chip_hours": "computed, for assumed utilisations",
}


# ---- Text.


def report(plan: Plan, notes: Sequence[str], fast: bool, every: bool, width: int | None) -> str:
    """The tables of a plan."""
    where, config = plan.where, plan.run.config
    lines = [
        f"{config.name} on {where.name}: {where.chips} chips, {len(where.devices)} devices of "
        f"{in_words(round(where.chip.memory))}, of which {in_words(where.limit)} may be used "
        f"({SPARE:.0%} to spare)",
        *(f"assumed: {note}" for note in notes),
        *([_effort(plan)] if fast else []),
        "",
        *_memory(plan, width),
        "",
        *_programs(plan, width),
    ]
    if not every:
        lines.append(
            "of prefill, decode and copies only the largest bucket was compiled; --all takes every "
            "one"
        )
    if plan.step_seconds:
        lines += ["", *_time(plan, width)]
    return "\n".join([*lines, "", verdict(plan)])


def _effort(plan: Plan) -> str:
    return (
        "--fast: compiled with low effort, which takes up to twice the temporaries, and other "
        "collectives; a plan that fits is to be confirmed without it"
    )


def _unit(plan: Plan) -> tuple[str, float]:
    return ("GB", GB) if plan.worst.bytes >= GB else ("MB", MB)


def _memory(plan: Plan, width: int | None) -> list[str]:
    peaks, limit, (name, unit) = plan.peaks, plan.where.limit, _unit(plan)
    rows = [["phase", "held", "besides", "peak", "of limit", "program that needs most besides"]]
    for peak in peaks:
        program = peak.program.name if peak.program else ""
        share = "refused" if peak.refused else f"{peak.bytes / limit:.0%}"
        mark = ">=" if peak.refused else ""
        sizes = (peak.bytes - peak.besides, peak.besides, peak.bytes)
        held, rest, total = (f"{size / unit:.2f}" for size in sizes)
        rows.append([peak.phase, held, rest, mark + total, share, program])
    lines, _ = aligned(rows, width, ["program that needs most besides"])
    title = f"memory of one device, {name} (held: computed from shapes; besides: compiled)"
    parts = {h.what: h.bytes for peak in peaks for h in peak.held}
    held = ", ".join(f"{what} {size / unit:.2f}" for what, size in parts.items())
    return [title, *lines, f"held: {held}"]


def _unique(plan: Plan) -> Iterator[tuple[Planned, Compiled]]:
    """Every program once."""
    seen = set()
    for phase in plan.run.phases:
        for planned in phase.programs:
            if planned.call.key not in seen:
                seen.add(planned.call.key)
                yield planned, plan.compiled[planned.call.key]


def _programs(plan: Plan, width: int | None) -> list[str]:
    name, unit = _unit(plan)
    rows = [["program", "arguments", "results", "temporaries", "peak", "at once", "collectives"]]
    for planned, compiled in _unique(plan):
        if compiled.refused:
            rows.append([planned.name, "", "", "", f">={compiled.peak / unit:.2f}", "", "refused"])
            continue
        own = compiled.results - compiled.taken_over
        sizes = (compiled.arguments, own, compiled.temporaries, compiled.peak, compiled.at_once)
        rows.append([planned.name, *(f"{s / unit:.2f}" for s in sizes), _traffic(compiled, unit)])
    lines, _ = aligned(rows, width, ["at once", "results"])
    return [
        f"programs, {name} of one device (compiled; collectives: what a device receives in a run)",
        *lines,
        *(f"refused: {peak.refused}" for peak in plan.peaks if peak.refused),
    ]


def _traffic(compiled: Compiled, unit: float) -> str:
    found = compiled.collectives
    if found is None or not found.by_kind:
        return "none"
    mark = ">=" if found.at_least else ""
    kinds = " + ".join(f"{kind} {t.bytes / unit:.2f}" for kind, t in found.by_kind.items())
    return f"{mark}{kinds}"


def _time(plan: Plan, width: int | None) -> list[str]:
    where, assumed = plan.where, plan.assumed
    rows = [["part of a step", "runs", "TFLOP", "HBM GB", "network GB", "floor s", "assumed s"]]
    floors = 0.0
    for load in plan.loads:
        floor, seconds = load.floor(where), load.seconds(where, assumed)
        floors += floor
        numbers = (load.flops / 1e12, load.memory / GB, load.network / GB, floor, seconds)
        rows.append([load.name, f"{load.runs:,}", *(f"{n:,.1f}" for n in numbers)])
    rows.append(["whole step", "", "", "", "", f"{floors:,.1f}", f"{plan.step_seconds:,.1f}"])
    lines, _ = aligned(rows, width, ["runs", "network GB", "HBM GB"])
    drawn = plan.run.config.method != "sft"
    return [
        "time of a step, per device (TFLOP and HBM bytes: computed, and at least these; network: "
        "compiled;",
        "floor: at the published figures, the slowest of the three; assumed: at "
        f"{assumed.mfu:.0%} of the FLOP/s, {assumed.hbm:.0%} of the memory bandwidth, "
        f"{assumed.ici:.0%} of the network's)",
        *lines,
        f"assumed: prompts of {assumed.prompt_tokens:,} tokens, responses of "
        f"{assumed.response_tokens:,} in the mean of an exponential distribution cut at "
        f"{plan.run.config.rollout.max_response_tokens:,}",
        *([] if drawn else ["what teachers draw for sft is not counted"]),
    ]


def verdict(plan: Plan) -> str:
    """Whether a run fits, and what it takes, in a few sentences."""
    where, worst = plan.where, plan.worst
    if plan.fits:
        text = (
            f"{where.name}: fits; the fullest phase is {worst.phase}, with "
            f"{in_words(worst.bytes)} of {in_words(where.limit)}"
        )
    elif worst.refused:
        text = f"{where.name}: does not fit; the compiler refuses {worst.refused}"
    else:
        text = (
            f"{where.name}: does not fit; {worst.phase} needs {in_words(worst.bytes)} of "
            f"{in_words(where.limit)}"
        )
    if plan.fits and plan.step_seconds:
        steps = plan.run.config.steps
        text += (
            f"\nat the assumed utilisations: {plan.step_seconds:,.0f} s a step, "
            f"{plan.tokens_per_second:,.0f} response tokens a second, {steps} steps in "
            f"{duration(3600 * plan.hours)} = {plan.hours * where.chips:,.0f} chip-hours, without "
            "evaluations and checkpoints"
        )
    return text


def remedy_text(remedy: Remedy | None, tried: Sequence[str]) -> str:
    """What makes a run fit, and what was tried."""
    lines = [f"tried: {text}" for text in tried]
    if remedy is None:
        return "\n".join([*lines, "no change of the list makes it fit: expected a larger slice"])
    return "\n".join([*lines, f"it fits with {remedy.options}", verdict(remedy.plan)])


# ---- One table of several slices.


def sweep(rows: Sequence[tuple[Plan, Remedy | None]], width: int | None) -> str:
    """A table to choose a slice by; where a run fits with a remedy only, figures are with it."""
    table = [["slice", "chips", "fits", "peak GB", "step s", "hours", "chip-hours", "remedy"]]
    for plan, remedy in rows:
        shown = remedy.plan if remedy else plan
        fits = "yes" if plan.fits else "with remedy" if remedy else "no"
        figures = ["", "", ""]
        if shown.fits and shown.step_seconds:
            hours = shown.hours
            figures = [f"{shown.step_seconds:,.0f}", f"{hours:,.1f}"]
            figures.append(f"{hours * plan.where.chips:,.0f}")
        peak = f"{shown.worst.bytes / GB:.1f}"
        names = remedy.options if remedy else ""
        table.append([plan.where.name, str(plan.where.chips), fits, peak, *figures, names])
    lines, _ = aligned(table, width, ["hours"])
    return "\n".join(lines)


# ---- Records.


def record(plan: Plan, remedy: Remedy | None, tried: Sequence[str], **more: Any) -> dict[str, Any]:
    """Everything that a plan found, as one JSON object."""
    found = {"record": "plan", **more, **_figures(plan), "tried": list(tried), "sources": SOURCES}
    if remedy is not None:
        found["remedy"] = {"changes": remedy.changes, **_figures(remedy.plan)}
    return found


def _figures(plan: Plan) -> dict[str, Any]:
    where = plan.where
    return {
        "topology": where.name,
        "chips": where.chips,
        "devices": len(where.devices),
        "limit_bytes": where.limit,
        "fits": plan.fits,
        "peak_bytes": plan.worst.bytes,
        "phases": [
            {
                "phase": peak.phase,
                "held_bytes": {h.what: h.bytes for h in peak.held},
                "besides_bytes": peak.besides,
                "program": peak.program.name if peak.program else None,
                "peak_bytes": peak.bytes,
                "fits": peak.fits(where.limit),
                "refused": peak.refused,
            }
            for peak in plan.peaks
        ],
        "programs": [_program(p, c) for p, c in _unique(plan)],
        "parts": [
            {
                "part": load.name,
                "runs": load.runs,
                "flops": load.flops,
                "memory_bytes": load.memory,
                "network_bytes": load.network,
                "floor_seconds": load.floor(where),
                "seconds": load.seconds(where, plan.assumed),
            }
            for load in plan.loads
        ],
        "step_seconds": plan.step_seconds,
        "tokens_per_second": plan.tokens_per_second,
        "hours": plan.hours,
        "chip_hours": plan.hours * where.chips,
    }


def _program(planned: Planned, compiled: Compiled) -> dict[str, Any]:
    kinds = compiled.collectives.by_kind if compiled.collectives else {}
    return {
        "program": planned.name,
        "argument_bytes": compiled.arguments,
        "result_bytes": compiled.results,
        "taken_over_bytes": compiled.taken_over,
        "temporary_bytes": compiled.temporaries,
        "at_once_bytes": compiled.at_once,
        "host_bytes": compiled.host,
        "peak_bytes": compiled.peak,
        "refused": compiled.refused,
        "collectives": {kind: {"count": t.count, "bytes": t.bytes} for kind, t in kinds.items()},
        "collectives_at_least": bool(compiled.collectives and compiled.collectives.at_least),
        "compile_seconds": compiled.seconds,
    }
