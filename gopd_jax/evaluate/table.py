"""The table of an evaluation, for people: results.json in, text out."""

from gopd_jax.evaluate.scores import Figures

HEADER = (
    f"{'':18}{'problems':>9}{'k':>4}{'avg@k':>8}  {'interval':<16}{'pass@k':>7}{'maj@k':>7}"
    f"{'tokens':>9}{'cut':>8}{'no answer':>11}{'timeout':>9}{'error':>7}"
)
LEGEND = (
    "tokens: mean length of a response; cut: share at the limit; timeout (or memory) and error: of "
    "what was verified"
)


def table(results: Figures) -> str:
    """Formats the results of an evaluation.

    Returns:
        One line for each benchmark and average, then pass@k, what was skipped, and the differences
        to another model.
    """
    benchmarks = results["benchmarks"]
    lines = [f"{results['model']}, in percent, with 95% intervals over problems", "", HEADER]
    lines += [_benchmark_line(name, s) for name, s in benchmarks.items()]
    for label, a in results["averages"].items():
        lines.append(f"{label:18}{a['n']:9}{'':4}{_estimate(a)}  ({', '.join(a['benchmarks'])})")
    lines += ["", LEGEND, *_pass_lines(benchmarks), *_metric_lines(benchmarks)]
    lines += _skipped_lines(benchmarks)
    empty = [name for name, s in benchmarks.items() if not s["problems"]]
    if empty and results["averages"]:
        lines.append(f"the averages are without {', '.join(empty)}")
    if comparison := results.get("comparison"):
        lines += ["", *_comparison_lines(comparison)]
    return "\n".join(lines)


def _benchmark_line(name: str, s: Figures) -> str:
    start = f"{name:18}{s['problems']:9}{s['samples']:4}"
    if not s["problems"]:
        return f"{start}  no problem within the limits"
    verdicts, samples = s["verdicts"], s["problems"] * s["samples"]
    pass_at_k = f"{'-':>7}"  # rewards are graded
    if "pass" in s:
        pass_at_k = f"{100 * s['pass'][str(s['samples'])]['mean']:7.1f}"
    majority = f"{100 * s['majority']['mean']:7.1f}" if "majority" in s else f"{'-':>7}"
    no_answer = verdicts.get("no answer", 0) / samples
    stopped = verdicts.get("timeout", 0) + verdicts.get("memory", 0)
    return (
        f"{start}{_estimate(s['avg'])}{pass_at_k}{majority}{s['mean_tokens']:9.1f}"
        f"{100 * s['truncated']:7.1f}%{100 * no_answer:10.1f}%{stopped:9}"
        f"{verdicts.get('error', 0):7}"
    )


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


def _estimate(e: Figures) -> str:
    between = f"[{100 * e['low']:.1f}, {100 * e['high']:.1f}]"
    return f"{100 * e['mean']:8.2f}  {between:<16}"
