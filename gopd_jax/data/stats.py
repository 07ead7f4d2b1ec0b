"""What is in a source of prompts: rows, formats, lengths, what a run would leave out and why.

In: a source and the settings of a run. Out: a `Report`, for the command `python -m gopd_jax.data`.
Only reads: does not prepare the data set.
"""

from collections import Counter
from collections.abc import Callable
import concurrent.futures
import dataclasses
import multiprocessing
import signal
from types import FrameType
from typing import Any

import numpy as np

from gopd_jax.data import rows
from gopd_jax.data.encode import chat_of
from gopd_jax.data.formats import guess_reward_kind
from gopd_jax.data.messages import with_suffix
from gopd_jax.data.select import difficulty, hard_enough, hold_out, question_hash
from gopd_jax.data.tokenizer import ChatTokenizer
from gopd_jax.data.verifying import try_reward
from gopd_jax.rewards.own import RewardError, is_own
from gopd_jax.rewards.settings import NONE
from gopd_jax.rewards.verifier import Verifier, check_ground_truth
from gopd_jax.types import Prompt

SHOWN = 20  # bad rows that are listed
VERIFY_S = 10  # time limit for one ground truth


@dataclasses.dataclass(frozen=True)
class Report:
    """Figures of one source.

    rows: number of rows, bad ones included.
    formats: rows by format.
    kinds: rows by the way their answers are verified.
    bad: rows that cannot be read, each with file, line and reason.
    unverifiable: rows whose ground truth, or reward function, fails; None if they were not checked.
    repeated: rows whose question occurs in an earlier row.
    difficulties: rows by difficulty, rounded down.
    lengths: tokens of each prompt, template and suffix included; None without a tokenizer.
    dropped: rows by the reason why a run would leave them out.
    train: prompts left to train on.
    held_out: prompts held out from training.
    questions: id of the first row with each question, by `question_hash`.
    example: the first prompt with tools, or else with several messages, or else the first, as the
        model reads it; None without a tokenizer.
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
    example: str | None
    questions: dict[int, str] = dataclasses.field(repr=False)


def examine(
    source: str,
    tokenizer: ChatTokenizer | None,
    *,
    suffix: str = "",
    max_prompt_tokens: int = 2048,
    min_difficulty: float = 0.0,
    held_out: float = 0.0,
    verify: int = 0,
    reward: str = "auto",
    advance: Callable[[int], None] = lambda count: None,
) -> Report:
    """Reads a whole source.

    Args:
        source: see `sources`.
        tokenizer: of the student; None counts no tokens.
        suffix: as `prompt_suffix` of a domain.
        max_prompt_tokens: as in the settings of the data.
        min_difficulty: as in the settings of a domain.
        held_out: as in the settings of a domain.
        verify: number of processes that check every ground truth; 0 checks none.
        reward: as `reward` of a domain; "auto" is by the ground truth of each row.
        advance: called with the number of rows read since the last call.

    Returns:
        The figures.

    Raises:
        ValueError: no such source, no row that can be read, no difficulty although one is required,
            no prompts left, or a chat template that drops a part of a prompt.
    """
    prompts, formats, bad = _scan(source, reward == NONE or is_own(reward), advance)
    if not prompts:
        first = f"; the first: {bad[0]}" if bad else ""
        raise ValueError(f"{source}: no rows that can be read{first}")
    kinds = Counter(_kind(reward, prompt) for prompt in prompts)
    questions: dict[int, str] = {}
    for prompt in prompts:
        questions.setdefault(question_hash(prompt), prompt.prompt_id)
    kept, easy = hard_enough(prompts, min_difficulty)
    train, test = hold_out(kept, held_out) if held_out else (kept, ())
    dropped = Counter(reason for _, reason in easy)
    lengths, too_long, example = None, set(), None
    if tokenizer is not None:
        chats = [chat_of(p, with_suffix(p.messages, suffix)) for p in prompts]
        ids = tokenizer.encode_chats(chats)
        shown = max(chats, key=lambda chat: (bool(chat.tools), len(chat.messages) > 1))
        example = tokenizer.render(shown)
        lengths = np.array([len(x) for x in ids])
        too_long = {
            p.prompt_id for p, n in zip(prompts, lengths, strict=True) if n > max_prompt_tokens
        }
        if over := sum(p.prompt_id in too_long for p in kept):
            dropped[f"over {max_prompt_tokens} tokens"] = over
    if bad:
        dropped["cannot be read"] = len(bad)
    return Report(
        source=source,
        rows=len(prompts) + len(bad),
        formats=dict(formats),
        kinds=dict(kinds),
        bad=tuple(bad),
        unverifiable=_unverifiable(prompts, reward, verify) if verify and reward != NONE else None,
        repeated=len(prompts) - len(questions),
        difficulties=_histogram(prompts),
        lengths=lengths,
        dropped=dict(dropped),
        train=sum(p.prompt_id not in too_long for p in train),
        held_out=sum(p.prompt_id not in too_long for p in test),
        questions=questions,
        example=example,
    )


def _scan(
    source: str, prompt_alone: bool, advance: Callable[[int], None]
) -> tuple[list[Prompt], Counter[str], list[str]]:
    """The prompts of a source, its rows by format, and its bad rows."""
    prompts, formats, bad = [], Counter(), []
    for scanned in rows.scan(source, prompt_alone):
        if scanned.row is None:
            bad.append(f"{scanned.where}: {scanned.error}")
        else:
            row, chat = scanned.row, tuple(scanned.row["messages"])
            formats[scanned.format] += 1
            more = (row["extra"], row["tools"], row["template_kwargs"])
            prompts.append(Prompt(row["prompt_id"], chat, "", row["ground_truth"], *more))
        advance(1)
    return prompts, formats, bad


def _histogram(prompts: list[Prompt]) -> dict[str, int]:
    found = Counter(None if (value := difficulty(p)) is None else int(value) for p in prompts)
    none = found.pop(None, 0)
    counts = {str(k): found[k] for k in sorted(found)}
    return counts | ({"none": none} if none and counts else {})


def _kind(reward: str, prompt: Prompt) -> str:
    return guess_reward_kind(prompt.ground_truth) if reward == "auto" else reward


def _unverifiable(prompts: list[Prompt], reward: str, processes: int) -> tuple[str, ...]:
    if is_own(reward):
        return _failing(prompts, reward, processes)
    context = multiprocessing.get_context("spawn")
    items = [(p.prompt_id, _kind(reward, p), p.ground_truth) for p in prompts]
    with concurrent.futures.ProcessPoolExecutor(processes, context) as pool:
        return tuple(found for found in pool.map(_check, items, chunksize=64) if found)


def _failing(prompts: list[Prompt], reward: str, processes: int) -> tuple[str, ...]:
    """Rows for which a reward function of the user fails, each called with an empty answer."""

    def failing(part: list[Prompt]) -> list[str]:
        found = []
        with Verifier(1, VERIFY_S) as verify:
            verify.source(reward)  # a function that is not there is no fault of a row
            for prompt in part:
                try:
                    try_reward(reward, prompt, verify)
                except RewardError as error:
                    found.append(str(error))
        return found

    parts = [prompts[i::processes] for i in range(min(processes, len(prompts)))]
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as threads:
        return tuple(line for part in threads.map(failing, parts) for line in part)


def _check(item: tuple[str, str, str]) -> str:
    """What is wrong with a ground truth, or "". Runs in a process of its own."""
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


def _too_slow(signum: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"its check took more than {VERIFY_S} s")


def shared(report: Report, earlier: Report) -> list[str]:
    """Ids of the first rows of `report` whose questions are in `earlier` too."""
    return [name for question, name in report.questions.items() if question in earlier.questions]


# ---- Reports as JSON and as text.


def record(report: Report) -> dict[str, Any]:
    """Returns the report as plain JSON."""
    values = {f.name: getattr(report, f.name) for f in dataclasses.fields(report)}
    del values["questions"]
    values["bad"], values["bad_shown"] = len(report.bad), list(report.bad[:SHOWN])
    values["unverifiable"] = None if report.unverifiable is None else len(report.unverifiable)
    values["unverifiable_shown"] = list((report.unverifiable or ())[:SHOWN])
    values["lengths"] = None if report.lengths is None else _quantiles(report.lengths)
    return values


def text(report: Report) -> str:
    """Returns the report as text for a person."""

    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} {n:,}" for name, n in counts.items())

    lines = [report.source, f"  rows         {report.rows:,}"]
    lines.append(f"  formats      {counted(report.formats)}")
    not_verified = "not verified" if NONE in report.kinds else counted(report.kinds)
    lines.append(f"  verified as  {not_verified}")
    if report.difficulties:
        lines.append(f"  difficulty   {counted(report.difficulties)}")
    lines.append(f"  repeated     {report.repeated:,} questions that occur in an earlier row")
    if report.unverifiable is not None:
        lines.append(f"  unverifiable {len(report.unverifiable):,} rows")
        lines += [f"    {line}" for line in report.unverifiable[:SHOWN]]
    if report.lengths is not None:
        quantiles = _quantiles(report.lengths).items()
        figures = ", ".join(f"{name} {value:,.0f}" for name, value in quantiles)
        lines.append(f"  tokens       {figures}")
        lines += _bars(report.lengths)
    lines.append(f"  left out     {counted(report.dropped) or 'none'}")
    lines += [f"    {line}" for line in report.bad[:SHOWN]]
    if report.bad:
        lines.append("    a run stops at the first of these, unless data.skip_bad_rows is true")
    held_out = f", held out {report.held_out:,}" if report.held_out else ""
    lines.append(f"  to train on  {report.train:,}{held_out}")
    if report.example is not None:
        lines += ["  a prompt as the model reads it"]
        lines += [f"    {line}".rstrip() for line in report.example.split("\n")]
    return "\n".join(lines)


def _quantiles(lengths: np.ndarray) -> dict[str, float]:
    named = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
    quantiles = {name: float(np.percentile(lengths, q)) for name, q in named.items()}
    return quantiles | {"mean": float(lengths.mean())}


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
