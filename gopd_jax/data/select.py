"""Which prompts of a data set are used: those that are hard enough, and which of those are held out from training.

In: the prompts of a source, in order. Out: parts of them, in the same order, read from disk when asked for. Nothing is drawn at
random: a prompt's own text and fields decide.
"""

from collections.abc import Sequence
import hashlib
import json
import math

from gopd_jax.types import Prompt


class Subset(Sequence[Prompt]):
    """Some of the prompts, in their order."""

    def __init__(self, prompts: Sequence[Prompt], indices: Sequence[int]):
        self._prompts, self._indices = prompts, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Prompt:
        return self._prompts[self._indices[index]]


def difficulty(prompt: Prompt) -> float | None:
    """The number in the row's "difficulty", its own or that of verl's extra_info; None where there is none."""
    inner = prompt.extra.get("extra_info")
    for fields in (prompt.extra, inner if isinstance(inner, dict) else {}):
        value = fields.get("difficulty")
        try:
            if value is not None and math.isfinite(float(value)):
                return float(value)
        except (TypeError, ValueError):  # "easy"
            continue
    return None


def hard_enough(
    prompts: Sequence[Prompt], least: float
) -> tuple[Sequence[Prompt], tuple[tuple[str, str], ...]]:
    """The prompts of at least this difficulty, and (prompt id, reason) of the others. 0 keeps all, those without one too.

    Raises:
      ValueError: no prompt has a difficulty, or none is hard enough.
    """
    if least <= 0:
        return prompts, ()
    indices, dropped, found = [], [], False
    for i, prompt in enumerate(prompts):
        value = difficulty(prompt)
        found = found or value is not None
        if value is not None and value >= least:
            indices.append(i)
        else:
            dropped.append(
                (
                    prompt.prompt_id,
                    "no difficulty" if value is None else f"difficulty below {least:g}",
                )
            )
    if not found:
        raise ValueError(
            f'min_difficulty={least:g}: none of {len(prompts)} prompts has a number in "difficulty" (nor in extra_info); the '
            f"first, {prompts[0].prompt_id!r}, has {', '.join(prompts[0].extra) or 'no further fields'}"
        )
    if not indices:
        raise ValueError(
            f"min_difficulty={least:g}: none of {len(prompts)} prompts is that difficult"
        )
    return Subset(prompts, indices), tuple(dropped)


def hold_out(
    prompts: Sequence[Prompt], how_many: float
) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """(train, test): the test prompts are those whose questions have the lowest hashes.

    A question, white space aside, is on one side only, however often it comes and whatever else it is asked with. With a share,
    rows that are added never move others; with a number they may move test prompts to the training side, never the other way.

    Args:
      how_many: below 1 a share, else a number of prompts; a question that comes more than once can make it a few more.

    Raises:
      ValueError: nothing would be left for training, or nothing held out.
    """
    hashes = [question_hash(prompt) for prompt in prompts]
    if how_many < 1:
        limit = int(how_many * 2**64)
    else:
        limit = sorted(hashes)[min(int(how_many), len(hashes)) - 1] + 1
    sides: tuple[list[int], list[int]] = ([], [])
    for i, value in enumerate(hashes):
        sides[value < limit].append(i)
    if not all(sides):
        raise ValueError(
            f"held_out={how_many:g}: of {len(hashes)} prompts {len(sides[0])} are left to train on, {len(sides[1])} held out"
        )
    return Subset(prompts, sides[0]), Subset(prompts, sides[1])


def question_hash(prompt: Prompt) -> int:
    """64 bits of what is asked: the messages of the user, white space aside."""
    words = [message["content"].split() for message in prompt.messages if message["role"] == "user"]
    return int.from_bytes(hashlib.sha256(json.dumps(words).encode()).digest()[:8], "big")
