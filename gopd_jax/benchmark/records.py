"""How the benchmarks print what they measured: a line of JSON or of text for each record."""

from typing import Any

import numpy as np

from gopd_jax.runtime.progress import result

NOT_SHOWN = ("record", "settings")  # left out of the text of a median


def show(record: dict[str, Any]) -> None:
    """Prints a record, floats to six digits."""
    shown = rounded(record)
    result(_text(shown), shown)


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(f"{value:.6g}") if isinstance(value, (float, np.floating)) else value
        for name, value in record.items()
    }


def _text(record: dict[str, Any]) -> str:
    """A record for a person; nothing for a program or a step, of which there is a sum."""
    kind = record["record"]
    if kind in ("program", "step"):
        return ""
    if kind in ("warm-up", "run"):
        what = "response_tokens" if "response_tokens" in record else "tokens"
        return (
            f"{kind} {record['run']}: {record[f'{what}_per_second']:,.0f} tokens/s, "
            f"{record[what]:,} tokens in {record['seconds']:.3g} s, "
            f"{record['compilations']} compilations"
        )
    shown = {n: f"{v:.6g}" if isinstance(v, float) else v for n, v in record.items()}
    lines = (f"  {name:28}{value}" for name, value in shown.items() if name not in NOT_SHOWN)
    return "\n".join([kind, *lines])
