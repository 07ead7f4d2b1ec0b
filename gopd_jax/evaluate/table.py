"""The table of an evaluation, for people: results.json in, text out."""

from typing import Any


def table(results: dict[str, Any]) -> str:
    """One line for each benchmark and average, then pass@k, what was skipped, and the differences to another model."""
    lines = [f"{results['model']}, in percent, with 95% intervals over problems", ""]
    lines.append(f"{'':18}{'problems':>9}{'k':>4}{'avg@k':>8}  {'interval':<16}{'pass@k':>7}{'maj@k':>7}{'tokens':>9}"
                 f"{'cut':>8}{'no answer':>11}{'timeout':>9}{'error':>7}")  # fmt: skip
    for name, s in results["benchmarks"].items():
        lines.append(_line(name, s))
    for label, a in results["averages"].items():
        lines.append(f"{label:18}{a['n']:9}{'':4}{_estimate(a)}  ({', '.join(a['benchmarks'])})")
    lines += [
        "",
        "tokens: mean length of a response; cut: share at the limit; timeout (or memory) and error: of what was verified",
    ]
    lines += _pass_lines(results["benchmarks"])
    for name, s in results["benchmarks"].items():
        if s["skipped"]:
            of, rest = s["skipped"] + s["problems"], s["problems"]
            lines.append(
                f"skipped: {s['skipped']} of {of} problems of {name} are over a limit; its figures are over the other {rest}"
            )
    empty = [name for name, s in results["benchmarks"].items() if not s["problems"]]
    if empty and results["averages"]:
        lines.append(f"the averages are without {', '.join(empty)}")
    if comparison := results.get("comparison"):
        lines += [
            "",
            f"difference to {comparison['model']} ({comparison['with']}), in points, paired by problem",
        ]
        for label, d in comparison["differences"].items():
            lines.append(
                f"{label:18}{d['n']:9}{'':4}{100 * d['mean']:+8.2f}  [{100 * d['low']:+.2f}, {100 * d['high']:+.2f}]"
            )
    return "\n".join(lines)


def _line(name: str, s: dict[str, Any]) -> str:
    start = f"{name:18}{s['problems']:9}{s['samples']:4}"
    if not s["problems"]:
        return f"{start}  no problem within the limits"
    verdicts, samples = s["verdicts"], s["problems"] * s["samples"]
    majority = f"{100 * s['majority']['mean']:7.1f}" if "majority" in s else f"{'-':>7}"
    return (
        f"{start}{_estimate(s['avg'])}{100 * s['pass'][str(s['samples'])]['mean']:7.1f}{majority}{s['mean_tokens']:9.1f}"
        f"{100 * s['truncated']:7.1f}%{100 * verdicts.get('no answer', 0) / samples:10.1f}%"
        f"{verdicts.get('timeout', 0) + verdicts.get('memory', 0):9}{verdicts.get('error', 0):7}"
    )


def _pass_lines(benchmarks: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"pass@k of {name}: "
        + ", ".join(f"{k}: {100 * p['mean']:.1f}" for k, p in s["pass"].items())
        for name, s in benchmarks.items()
        if s["problems"] and len(s["pass"]) > 2
    ]


def _estimate(e: dict[str, Any]) -> str:
    between = f"[{100 * e['low']:.1f}, {100 * e['high']:.1f}]"
    return f"{100 * e['mean']:8.2f}  {between:<16}"
