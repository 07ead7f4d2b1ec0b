"""A verdict with feedback: the right answer, where the student's own was wrong.

`--config.domains.math.reward=reward:corrected` names it, and `{feedback}` in the domain's
`teacher_context` shows the teacher what it says.
"""

from typing import Any


def corrected(record: dict[str, Any], answer: str) -> dict[str, float | str]:
    """Whether a sum is right, and what is said of it if it is not.

    Args:
        record: the row; "ground_truth" is the right result.
        answer: what the student wrote.

    Returns:
        "reward", and "feedback" in the form that hinted_base has learnt to read: "=1322".
    """
    right = answer.endswith(f"\\boxed{{{record['ground_truth']}}}")
    return {"reward": float(right), "feedback": "" if right else f"={record['ground_truth']}"}
