"""The table of a preview, for people: preview.json in, text out."""

from gopd_jax.evaluate.scores import Figures
from gopd_jax.runtime.tables import aligned, folded

HEAD = ["lambda", "right", "interval", "against 1", "interval", "tokens", "cut", "entropy", "log Z"]
OPTIONAL = ["cut", "tokens", "entropy"]  # the first left out first
LEGEND = (
    "right: % of samples, with 95% intervals over prompts; against 1: in points, paired by prompt; "
    "tokens: mean length of a response; cut: share at the limit; entropy and log Z: nats per token"
)


def table(record: Figures, width: int | None = None) -> str:
    """The table of each domain, and which lambdas differ from 1.

    Args:
        record: what preview.json holds.
        width: columns of the terminal; None sets no limit.
    """
    lines = []
    for name, domain in record["domains"].items():
        drawn = f"{domain['prompts']:,} prompts x {domain['samples']}"
        lines.append(f"{name}: {drawn}, teacher {domain['teacher']}")
        if domain["reference"]:
            lines.append(f"  reference {domain['reference']}")
        rows, left_out = aligned([HEAD, *map(_row, domain["lambdas"])], width, OPTIONAL)
        lines += ["", *rows, ""]
        if left_out:
            lines.append(f"({', '.join(left_out)}: preview.json)")
        lines += [verdict(domain["lambdas"]), ""]
    return folded("\n".join([*lines, LEGEND]), width)


def line(point: Figures) -> str:
    """One lambda in one line."""
    return f"lambda {point['lambda']:g}: {_percent(point)}% right {_interval(point)}"


def verdict(points: list[Figures]) -> str:
    """Which lambdas are surely better than 1, and which are surely worse."""
    signs = {
        f"{p['lambda']:g}": (p["difference"]["low"] > 0) - (p["difference"]["high"] < 0)
        for p in points
    }
    better, worse = ([n for n, s in signs.items() if s == sign] for sign in (1, -1))
    parts = [
        f"{'better' if sign > 0 else 'worse'} than lambda 1 beyond its interval: {', '.join(names)}"
        for sign, names in ((1, better), (-1, worse))
        if names
    ]
    return "; ".join(parts) or "no lambda differs from 1 beyond its interval"


def _row(point: Figures) -> list[str]:
    d = point["difference"]
    against = ["", ""]
    if point["lambda"] != 1:
        low, high = 100 * d["low"], 100 * d["high"]
        against = [f"{100 * d['mean']:+.2f}", f"[{low:+.2f}, {high:+.2f}]"]
    return [
        f"{point['lambda']:g}",
        _percent(point),
        _interval(point),
        *against,
        f"{point['tokens']:.1f}",
        f"{100 * point['truncated']:.1f}%",
        f"{point['entropy']:.4f}",
        f"{point['log_z']:+.4f}",
    ]


def _percent(point: Figures) -> str:
    return f"{100 * point['mean']:.2f}"


def _interval(point: Figures) -> str:
    return f"[{100 * point['low']:.1f}, {100 * point['high']:.1f}]"
