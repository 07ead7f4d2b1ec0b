"""What the verifier is asked about an answer: the ground truth of its prompt, or the whole row.

In: a prompt and the text of an answer. Out: an item for `rewards.verifier.Verifier`. Also tries a
reward function of the user, so that what is wrong with it is found before any work.
"""

import json
from typing import Any

from gopd_jax.data.conversations import KWARGS, TOOLS
from gopd_jax.rewards.own import DETAIL, RewardError, is_own
from gopd_jax.rewards.verifier import Item, Verifier
from gopd_jax.types import Prompt


def item(reward: str, prompt: Prompt, answer: str) -> Item:
    """An answer to be verified.

    Args:
        reward: "math", "code", or a function of the user, which reads the whole row.
        prompt: what was asked.
        answer: the text.
    """
    truth = json.dumps(record(prompt)) if is_own(reward) else prompt.ground_truth
    return reward, answer, truth


def try_reward(reward: str, prompt: Prompt, verify: Verifier) -> None:
    """Calls a reward function of the user once, with an empty answer.

    Raises:
        RewardError: it fails, or takes more time or memory than an answer may.
    """
    (verdict,) = verify([item(reward, prompt, "")])
    if verdict.detail != DETAIL:
        raise RewardError(
            f"reward {reward!r} ended at the limit of the verifier ({verdict.detail}) for prompt "
            f"{prompt.prompt_id!r} and an empty answer: expected at most {verify.timeout_s:g} s "
            f"and {verify.memory_mb} MiB besides the import of its module"
        )


def record(prompt: Prompt) -> dict[str, Any]:
    """The row of a prompt as a reward function reads it.

    Returns:
        Every field of the row, and "prompt_id", "domain", "messages" and "ground_truth" ("" if
        there is none).
    """
    row = prompt.extra | {
        "prompt_id": prompt.prompt_id,
        "domain": prompt.domain,
        "messages": list(prompt.messages),
        "ground_truth": prompt.ground_truth or prompt.extra.get("ground_truth", ""),
    }
    for_template = {TOOLS: prompt.tools, KWARGS: prompt.template_kwargs}
    return row | {name: value for name, value in for_template.items() if value}
