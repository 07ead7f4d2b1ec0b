"""Which prompts of a data set are used: those hard enough, and which of them are held out.

In: the prompts of a source, in order. Out: some of them, in the same order, read from disk when
they are asked for. Draws nothing at random: the text and fields of a prompt decide.
"""

from collections.abc import Sequence
import hashlib
import json
import math

from gopd_jax.data.lazy import LazySequence
from gopd_jax.data.messages import content_text
from gopd_jax.types import Prompt


def difficulty(prompt: Prompt) -> float | None:
    """Returns the number in the row's "difficulty", or in that of verl's extra_info, or None."""
    inner = prompt.extra.get("extra_info")
    for fields in (prompt.extra, inner if isinstance(inner, dict) else {}):
        value = fields.get("difficulty")
        try:
            if value is not None and math.isfinite(float(value)):
                return float(value)
        except (TypeError, ValueError):  # such as "easy"
            continue
    return None


def hard_enough(
    prompts: Sequence[Prompt], least: float
) -> tuple[Sequence[Prompt], tuple[tuple[str, str], ...]]:
    """Keeps the prompts of at least a given difficulty.

    Args:
        prompts: the data set.
        least: lowest difficulty kept; 0 keeps all prompts, with and without a difficulty.

    Returns:
        The prompts kept, and (prompt id, reason) of each of the others.

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
            reason = "no difficulty" if value is None else f"difficulty below {least:g}"
            dropped.append((prompt.prompt_id, reason))
    count = len(prompts)
    if not found:
        fields = ", ".join(prompts[0].extra) or "no further fields"
        raise ValueError(
            f'min_difficulty={least:g}: none of {count} prompts has a number in "difficulty" (nor '
            f"in extra_info); the first, {prompts[0].prompt_id!r}, has {fields}"
        )
    if not indices:
        raise ValueError(f"min_difficulty={least:g}: none of {count} prompts is that difficult")
    return LazySequence(prompts, indices), tuple(dropped)


def hold_out(prompts: Sequence[Prompt], amount: float) -> tuple[Sequence[Prompt], Sequence[Prompt]]:
    """Splits prompts into training and test prompts: the lowest hashes of questions are held out.

    A question, ignoring white space, is on one side only, however often it occurs and whatever else
    its prompts hold. With a share, added rows never move other rows; with a number, they may move
    test prompts to the training side, but never the other way.

    Args:
        prompts: the data set.
        amount: below 1 the share of prompts held out, otherwise their number; a question that
            occurs several times can make it a few more.

    Returns:
        The training prompts and the test prompts.

    Raises:
        ValueError: one of the two sides would be empty.
    """
    hashes = [question_hash(prompt) for prompt in prompts]
    if amount < 1:
        limit = int(amount * 2**64)
    else:
        limit = sorted(hashes)[min(int(amount), len(hashes)) - 1] + 1
    train, test = [], []
    for i, value in enumerate(hashes):
        (test if value < limit else train).append(i)
    if not train or not test:
        raise ValueError(
            f"held_out={amount:g}: of {len(hashes)} prompts {len(train)} are left to train on, "
            f"{len(test)} held out; expected some of each"
        )
    return LazySequence(prompts, train), LazySequence(prompts, test)


def question_hash(prompt: Prompt) -> int:
    """Returns a 64-bit hash of the user's messages, ignoring white space.

    Tools and keyword arguments of the template are no part of it: the same question with and
    without thinking, say, must not be on both sides of a split.
    """
    users = (message for message in prompt.messages if message["role"] == "user")
    words = [content_text(message).split() for message in users]
    return int.from_bytes(hashlib.sha256(json.dumps(words).encode()).digest()[:8], "big")
