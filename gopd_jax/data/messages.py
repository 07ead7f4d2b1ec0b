r"""Chats as a chat template reads them, and text that is added to them.

In: the messages of a `Prompt`. Out: a new list of messages; the given ones are never changed. Does
not tokenize.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

Message = dict[str, Any]  # "role", "content" and the other keys of `conversations.KEYS`
Messages = Sequence[Message]
Tools = list[dict[str, Any]]  # JSON schemas

# The prompt suffix of math problems in the paper, arXiv 2602.12125.
MATH_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."


@dataclasses.dataclass(frozen=True)
class Chat:
    """Everything that a chat template is given for one prompt.

    messages: the conversation.
    tools: JSON schemas of the functions that the model may call; None gives the template none.
    template_kwargs: further variables of the template; they override those of the run.
    name: what errors call the chat.
    """

    messages: Messages
    tools: Tools | None = None
    template_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = "a chat"


def content_text(message: Message) -> str:
    """Returns the text of a message: its content, or the text parts of its content in a row."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


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
    asked = "\\boxed" in suffix and any("\\boxed" in content_text(m) for m in messages)
    return add_to_last_user_message(messages, "" if asked else suffix)


def add_to_last_user_message(messages: Messages, text: str) -> list[Message]:
    """Appends `text` to the last user message, also where tool messages follow it.

    A content that is a list of text parts gets the text at the end of its last part.

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
    content = messages[last]["content"]
    if isinstance(content, str):
        content = content + text
    else:
        content = [*content[:-1], {**content[-1], "text": content[-1]["text"] + text}]
    messages[last] = {**messages[last], "content": content}
    return messages
