"""A reward function of one's own: how much of a sum is right, digit by digit.

`--config.domains.sums.reward=reward:digits` names it. It is called in worker processes, with the
row of the prompt and the text of one answer.
"""

import re
from typing import Any


def digits(record: dict[str, Any], answer: str) -> dict[str, float]:
    """The share of right digits, and two numbers to watch.

    Args:
        record: the row: "prompt_id", "domain", "messages", "ground_truth" ("" if it has none), and
            every other field, here "level".
        answer: what the model wrote.

    Returns:
        "reward", in [0, 1]; the others become the metrics reward_boxed/sums and reward_long/sums.
    """
    boxed = re.findall(r"\\boxed\{(\d+)\}", answer)
    right, given = record["ground_truth"], boxed[-1] if boxed else ""
    same = sum(a == b for a, b in zip(reversed(right), reversed(given), strict=False))
    return {
        "reward": same / max(len(right), len(given)),
        "boxed": float(bool(boxed)),
        "long": float(len(answer) > 20 * record["level"]),
    }
