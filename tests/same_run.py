"""Whether two run folders hold the same run: every number but those of the clock, to the bit."""

from collections.abc import Iterator
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

# Fields that begin with these differ from run to run: clock times, counts of the process, and
# whether another run had evaluated the teacher.
CLOCK = ("seconds", "training_seconds", "tokens_per_second", "compilations", "cached")
SHOWN = 3  # fields of a line that are named
LOGS = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")


def differences(a: Path, b: Path, steps: set[int]) -> list[str]:
    """What differs between two finished runs; empty for the same run.

    Compared are each line of the logs, the summary, and each checkpoint that both have: parameters,
    optimizer and step, and the host's state.

    Args:
        a, b: the run folders.
        steps: steps whose checkpoints both must have.
    """
    found = []
    for name in LOGS:
        found += _different_lines(name, _lines(a / name), _lines(b / name))
    if _without_clock(_json(a / "summary.json")) != _without_clock(_json(b / "summary.json")):
        found.append("summary.json")
    saved = [
        {int(p.name) for p in (x / "checkpoints").iterdir() if p.name.isdigit()} for x in (a, b)
    ]
    both = saved[0] & saved[1]
    if missing := steps - both:
        found.append(f"checkpoints of the steps {sorted(missing)}: not in both runs")
    for step in sorted(both):
        found += _different_checkpoint(a / f"checkpoints/{step}", b / f"checkpoints/{step}")
    return found


def _different_lines(name: str, a: list[object], b: list[object]) -> Iterator[str]:
    if len(a) != len(b):
        yield f"{name}: {len(a)} lines and {len(b)}"
    for number, (x, y) in enumerate(zip(a, b, strict=False), 1):
        if x != y:
            fields = sorted(k for k in {*x, *y} if x.get(k) != y.get(k))
            more = f" and {len(fields) - SHOWN} more" if len(fields) > SHOWN else ""
            yield f"{name}: line {number}, fields {', '.join(fields[:SHOWN])}{more}"


def _different_checkpoint(a: Path, b: Path) -> Iterator[str]:
    arrays = _arrays(a), _arrays(b)
    for name in sorted({*arrays[0], *arrays[1]}):
        x, y = (found.get(name) for found in arrays)
        if x is None or y is None or x.dtype != y.dtype or x.tobytes() != y.tobytes():
            yield f"checkpoint of step {a.name}: {name}"
    if _without_clock(_json(a / "host/metadata")) != _without_clock(_json(b / "host/metadata")):
        yield f"checkpoint of step {a.name}: host"


def _arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by their path in the train state, as they were saved."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(folder / "state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(
            folder / "state", ocp.args.PyTreeRestore(restore_args=as_numpy)
        )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def _lines(path: Path) -> list[object]:
    return [_without_clock(json.loads(line)) for line in path.read_text().splitlines()]


def _json(path: Path) -> object:
    return json.loads(path.read_text())


def _without_clock(value: object) -> object:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.startswith(CLOCK)}
        return {k: _without_clock(v) for k, v in kept.items()}
    return value
