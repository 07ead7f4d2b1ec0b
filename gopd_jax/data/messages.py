r"""Chat messages, and text that is added to them.

In: the messages of a `Prompt`. Out: a new list of messages; the given ones are never changed. Does
not tokenize.
"""

from collections.abc import Sequence

Message = dict[str, str]  # "role" and "content"
Messages = Sequence[Message]

# The prompt suffix of math problems in the paper, arXiv 2602.12125.
MATH_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def with_suffix(messages: Messages, suffix: str) -> list[Message]:
    r"""Appends a prompt suffix to the last user message.

    A suffix that asks for a \boxed answer is left out if a message asks for one already, as the
    prompts of DeepMath in the verl schema do.

    Args:
        messages: a chat.
        suffix: the text, appended without a separator; "" appends nothing.

    Returns:
        The messages with the suffix.

    Raises:
        ValueError: there is a suffix but no user message.
    """
    asked = "\\boxed" in suffix and any("\\boxed" in message["content"] for message in messages)
    return add_to_last_user_message(messages, "" if asked else suffix)


def add_to_last_user_message(messages: Messages, text: str) -> list[Message]:
    """Appends `text` to the last user message.

    Raises:
        ValueError: there is a text but no user message.
    """
    messages = list(messages)
    if not text:
        return messages
    roles = [message["role"] for message in messages]
    if "user" not in roles:
        raise ValueError(f"no user message to append the prompt suffix to: roles are {roles}")
    last = max(i for i, role in enumerate(roles) if role == "user")
    messages[last] = {**messages[last], "content": messages[last]["content"] + text}
    return messages
