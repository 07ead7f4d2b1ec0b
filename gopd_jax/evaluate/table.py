"""The table of an evaluation, for people: results.json in, text out."""

from gopd_jax.evaluate.scores import Figures
from gopd_jax.runtime.tables import aligned, folded

HEAD = ["", "problems", "k", "avg@k", "interval", "pass@k", "maj@k"]
HEAD += ["tokens", "cut", "no answer", "timeout", "error"]
OPTIONAL = ["timeout", "error", "no answer", "cut", "tokens", "maj@k"]  # the first left out first
LEGEND = (
    "tokens: mean length of a response; cut: share at the limit; timeout (or memory) and error: of "
    "what was verified"
)


def table(results: Figures, width: int | None = None) -> str:
    """Formats the results of an evaluation.

    Args:
        results: what results.json holds.
        width: columns of the terminal, if the table goes to one. Where they are few, the least
            important columns are left out.

    Returns:
        One line for each benchmark and average, then pass@k, what was skipped, and the differences
        to another model.
    """
    benchmarks = results["benchmarks"]
    averages = results["averages"]
    lines = [f"{results['model']}, in percent, with 95% intervals over problems", ""]
    rows = [HEAD, *(_benchmark_row(name, s) for name, s in benchmarks.items())]
    rows += [[label, str(a["n"]), "", *_estimate(a)] for label, a in averages.items()]
    tails = [
        "",
        *("" if s["problems"] else "  no problem within the limits" for s in benchmarks.values()),
    ]
    tails += [f"  ({', '.join(a['benchmarks'])})" for a in averages.values()]
    shown, left_out = aligned(rows, width, OPTIONAL)
    lines += [line + tail for line, tail in zip(shown, tails, strict=True)]
    if left_out:
        lines.append(f"({', '.join(left_out)}: results.json)")
    lines += ["", LEGEND, *_pass_lines(benchmarks), *_metric_lines(benchmarks)]
    lines += _skipped_lines(benchmarks)
    empty = [name for name, s in benchmarks.items() if not s["problems"]]
    if empty and results["averages"]:
        lines.append(f"the averages are without {', '.join(empty)}")
    if comparison := results.get("comparison"):
        lines += ["", *_comparison_lines(comparison)]
    return folded("\n".join(lines), width)


def _benchmark_row(name: str, s: Figures) -> list[str]:
    start = [name, str(s["problems"]), str(s["samples"])]
    if not s["problems"]:
        return start
    verdicts, samples = s["verdicts"], s["problems"] * s["samples"]
    pass_at_k = "-"  # rewards are graded
    if "pass" in s:
        pass_at_k = f"{100 * s['pass'][str(s['samples'])]['mean']:.1f}"
    majority = f"{100 * s['majority']['mean']:.1f}" if "majority" in s else "-"
    no_answer = verdicts.get("no answer", 0) / samples
    stopped = verdicts.get("timeout", 0) + verdicts.get("memory", 0)
    cells = [pass_at_k, majority, f"{s['mean_tokens']:.1f}", f"{100 * s['truncated']:.1f}%"]
    cells += [f"{100 * no_answer:.1f}%", str(stopped), str(verdicts.get("error", 0))]
    return [*start, *_estimate(s["avg"]), *cells]


def _pass_lines(benchmarks: dict[str, Figures]) -> list[str]:
    return [
        f"pass@k of {name}: "
        + ", ".join(f"{k}: {100 * p['mean']:.1f}" for k, p in s["pass"].items())
        for name, s in benchmarks.items()
        if len(s.get("pass", ())) > 2
    ]


def _metric_lines(benchmarks: dict[str, Figures]) -> list[str]:
    return [
        f"means of {name}: " + ", ".join(f"{n} {v:.4g}" for n, v in s["reward_metrics"].items())
        for name, s in benchmarks.items()
        if "reward_metrics" in s
    ]


def _skipped_lines(benchmarks: dict[str, Figures]) -> list[str]:
    return [
        f"skipped: {s['skipped']} of {s['skipped'] + s['problems']} problems of {name} are over a "
        f"limit; its figures are over the other {s['problems']}"
        for name, s in benchmarks.items()
        if s["skipped"]
    ]


def _comparison_lines(comparison: Figures) -> list[str]:
    lines = [
        f"difference to {comparison['model']} ({comparison['with']}), in points, paired by problem"
    ]
    for label, d in comparison["differences"].items():
        mean, low, high = (100 * d[key] for key in ("mean", "low", "high"))
        lines.append(f"{label:18}{d['n']:9}{'':4}{mean:+8.2f}  [{low:+.2f}, {high:+.2f}]")
    return lines


def _estimate(e: Figures) -> list[str]:
    return [f"{100 * e['mean']:.2f}", f"[{100 * e['low']:.1f}, {100 * e['high']:.1f}]"]
