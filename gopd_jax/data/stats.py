"""What is in a source of prompts: rows, forms, lengths, what is left out and why. Reads; changes and builds nothing.

In: a source and the settings that a run would use. Out: a `Report`, for the command `python -m gopd_jax.data`.
"""

from collections import Counter
from collections.abc import Callable
import concurrent.futures
import dataclasses
import functools
import multiprocessing
import signal
from typing import Any

import numpy as np

from gopd_jax.data import rows
from gopd_jax.data.select import difficulty, hard_enough, hold_out, question_hash
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.rewards.verifier import check_ground_truth
from gopd_jax.types import Prompt

SHOWN = 20  # bad rows that are named
VERIFY_S = 10  # for one ground truth


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one source.

    formats, kinds: rows by format and by how their answers are verified. bad: rows that cannot be read, with file, line and
    reason. unverifiable: ground truths that their verifier refuses (None: not asked). lengths: tokens of each prompt, template
    and suffix included (None: no tokenizer). dropped: rows by the reason why a run would leave them out. repeated: rows whose
    question has come before. difficulties: rows by difficulty, rounded down.
    """

    source: str
    rows: int
    formats: dict[str, int]
    kinds: dict[str, int]
    bad: tuple[str, ...]
    unverifiable: tuple[str, ...] | None
    repeated: int
    difficulties: dict[str, int]
    lengths: np.ndarray | None
    dropped: dict[str, int]
    train: int
    held_out: int


def examine(
    source: str,
    tokenizer: ChatTokenizer | None,
    *,
    suffix: str = "",
    max_prompt_tokens: int = 2048,
    min_difficulty: float = 0.0,
    how_many_held_out: float = 0.0,
    verify: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    """Reads a whole source.

    Args:
      verify: processes that check every ground truth; 0: only its presence. advance: told of rows read.

    Raises:
      ValueError: no such source, no row that can be read, no difficulty where one is asked for, or nothing left.
    """
    prompts, formats, kinds, bad = [], Counter(), Counter(), []
    for scanned in rows.scan(source):
        if scanned.row is None:
            bad.append(f"{scanned.where}: {scanned.error}")
        else:
            row = scanned.row
            formats[scanned.format] += 1
            kinds[_kind(row["ground_truth"])] += 1
            prompts.append(
                Prompt(
                    row["prompt_id"], tuple(row["messages"]), "", row["ground_truth"], row["extra"]
                )
            )
        advance(1)
    if not prompts:
        raise ValueError(
            f"{source}: no rows that can be read{f'; the first: {bad[0]}' if bad else ''}"
        )
    hashes = Counter(map(question_hash, prompts))
    kept, easy = hard_enough(prompts, min_difficulty)
    dropped = Counter(reason for _, reason in easy)
    train, test = hold_out(kept, how_many_held_out) if how_many_held_out else (kept, ())
    lengths, too_long = None, {}
    if tokenizer is not None:
        ids = tokenizer.encode_prompts([p.messages for p in prompts], suffix)
        lengths = np.array([len(x) for x in ids])
        too_long = {
            p.prompt_id for p, n in zip(prompts, lengths, strict=True) if n > max_prompt_tokens
        }
        over = sum(p.prompt_id in too_long for p in kept)
        dropped |= Counter({f"over {max_prompt_tokens} tokens": over} if over else {})
    return Report(
        source,
        len(prompts) + len(bad),
        dict(formats),
        dict(kinds),
        tuple(bad),
        None if not verify else _unverifiable(prompts, verify),
        sum(hashes.values()) - len(hashes),
        _histogram(prompts),
        lengths,
        dict(dropped) | ({"cannot be read": len(bad)} if bad else {}),
        sum(p.prompt_id not in too_long for p in train),
        sum(p.prompt_id not in too_long for p in test),
    )


def _kind(ground_truth: str) -> str:
    if not ground_truth.lstrip().startswith("{"):  # most rows: no need to parse them
        return "math"
    try:
        check_ground_truth("code", ground_truth)
    except ValueError:
        return "math"
    return "code"


def _histogram(prompts: list[Prompt]) -> dict[str, int]:
    found = Counter(None if (value := difficulty(p)) is None else int(value) for p in prompts)
    none = found.pop(None, 0)
    counts = {str(k): found[k] for k in sorted(found)}
    return counts | ({"none": none} if none and counts else {})


def _unverifiable(prompts: list[Prompt], processes: int) -> tuple[str, ...]:
    context = multiprocessing.get_context("spawn")
    items = [(p.prompt_id, _kind(p.ground_truth), p.ground_truth) for p in prompts]
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        return tuple(found for found in pool.map(_check, items, chunksize=64) if found)


def _check(item: tuple[str, str, str]) -> str:
    """What is wrong with a ground truth, or ""; runs in a process of its own."""
    prompt_id, kind, ground_truth = item
    signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(VERIFY_S)
    try:
        check_ground_truth(kind, ground_truth)
    except (ValueError, TimeoutError) as error:
        return f"{prompt_id}: {error}"
    finally:
        signal.alarm(0)
    return ""


def _too_slow(*_: Any) -> None:
    raise TimeoutError(f"its check took more than {VERIFY_S} s")


def record(report: Report) -> dict[str, Any]:
    """The report as plain JSON."""
    values = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    values["bad"], values["bad_shown"] = len(report.bad), list(report.bad[:SHOWN])
    values["unverifiable"] = None if report.unverifiable is None else len(report.unverifiable)
    values["unverifiable_shown"] = list((report.unverifiable or ())[:SHOWN])
    values["lengths"] = None if report.lengths is None else _quantiles(report.lengths)
    return values


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    named = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    return {name: float(np.percentile(lengths, q)) for name, q in named.items()} | {
        "mean": float(lengths.mean())
    }


def text(report: Report) -> str:
    """The report for a person."""

    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {n:,}" for name, n in counts.items())

    lines = [report.source, f"  rows         {report.rows:,}"]
    lines.append(f"  formats      {counted(report.formats)}")
    lines.append(f"  verified as  {counted(report.kinds)}")
    if report.difficulties:
        lines.append(f"  difficulty   {counted(report.difficulties)}")
    lines.append(f"  repeated     {report.repeated:,} questions that have come before")
    if report.unverifiable is not None:
        lines.append(f"  unverifiable {len(report.unverifiable):,} ground truths")
        lines += [f"    {line}" for line in report.unverifiable[:SHOWN]]
    if report.lengths is not None:
        q = _quantiles(report.lengths)
        lines.append(
            "  tokens       " + ", ".join(f"{name} {value:,.0f}" for name, value in q.items())
        )
        lines += _bars(report.lengths)
    lines.append(f"  left out     {counted(report.dropped) or 'none'}")
    lines += [f"    {line}" for line in report.bad[:SHOWN]]
    lines.append(
        f"  to train on  {report.train:,}"
        + (f", held out {report.held_out:,}" if report.held_out else "")
    )
    return "\n".join(lines)


def _bars(lengths: np.ndarray, width: int = 40) -> list[str]:
    """A histogram by powers of two."""
    powers = np.floor(np.log2(np.maximum(lengths, 1))).astype(int)
    counts = np.bincount(powers - powers.min())
    bars = np.ceil(width * counts / counts.max()).astype(int)
    edges = [2 ** (i + int(powers.min())) for i in range(len(counts))]
    return [
        f"    {e:>6}-{2 * e - 1:<6} {n:>7,} {'#' * b}"
        for e, n, b in zip(edges, counts, bars, strict=True)
    ]


@functools.cache
def choices() -> str:
    """The names of the formats, for --help."""
    from gopd_jax.data.formats import FORMATS

    return ", ".join(name for name, _, _ in FORMATS)
