"""The conversation of a raw row -> checked messages, tools and keyword arguments of the template.

In: fields of a row as a file holds them. Out: the same values, in the form that
`apply_chat_template` of transformers takes; nothing is converted but JSON text. Keys of a message
that are null count as absent, as they do for transformers. Does not know chat templates: whether
one renders all of it is the work of `template_check`.
"""

import json
import math
from typing import Any

from gopd_jax.data.messages import Message, Tools
from gopd_jax.data.settings import check_template_kwargs

Fields = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
ENDS = ("user", "tool")  # roles after which the assistant speaks
OPENING_KEYS = ("role", "content")
THINKING_KEYS = ("reasoning_content", "thinking")
ASSISTANT_KEYS = ("tool_calls", *THINKING_KEYS)
KEYS = (*OPENING_KEYS, *ASSISTANT_KEYS, "tool_call_id", "name")
TOOLS, KWARGS = "tools", "chat_template_kwargs"  # fields of a row


def text_of(value: Any, name: str, convert: bool = True) -> str:
    """Checks that a value is a text which is not blank.

    Args:
        value: the value of a field.
        name: of the field, for error messages.
        convert: write numbers as text, and lists and dicts as JSON.

    Returns:
        The text.

    Raises:
        ValueError: any other value, a blank text, or invalid Unicode.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if convert and isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    elif convert and is_number and math.isfinite(value):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a string, not {value!r}")
    if not value.strip():
        raise ValueError(f"{name} is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error
    return value


def without_nulls(value: Any) -> Any:
    """Returns a value without the keys that are null, at any depth; items of lists stay.

    A column of objects in a parquet file has one type: an object that lacks a key of another row
    reads as null there, so that null and absent cannot be told apart.
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


# ---- Messages.


def read_messages(value: list[Any], name: str) -> list[Message]:
    """Checks a conversation that the assistant is to continue.

    Args:
        value: the messages of a row.
        name: of the field, for error messages.

    Returns:
        The messages, each with role and content first.

    Raises:
        ValueError: a message is malformed, there is no user message, or the last message is not
            the user's or a tool's.
    """
    messages = [_message(message, f"{name}[{i}]") for i, message in enumerate(value)]
    roles = [message["role"] for message in messages]
    if "user" not in roles or roles[-1] not in ENDS:
        raise ValueError(
            f"{name} must hold a user message and not end with the assistant's, its roles are "
            f"{roles}: expected the last one to be {' or '.join(ENDS)}, because the model writes "
            "the assistant's message from its start"
        )
    return messages


def _message(raw: Any, name: str) -> Message:
    if not isinstance(raw, dict):
        raise ValueError(f"{name} must be an object with role and content, not {raw!r}")
    message = {key: field for key, field in raw.items() if field is not None}
    role = text_of(message.get("role"), f"{name}.role", convert=False)
    if role not in ROLES:
        raise ValueError(f"{name}.role={role!r}: expected one of {', '.join(ROLES)}")
    if unknown := [key for key in message if key not in KEYS]:
        raise ValueError(f"{name} has {', '.join(unknown)}: expected only {', '.join(KEYS)}")
    if role != "assistant" and (others := [key for key in ASSISTANT_KEYS if key in message]):
        raise ValueError(
            f"{name} has {', '.join(others)}, but its role is {role!r}: expected role 'assistant'"
        )
    _check_calls(message.get("tool_calls", []), f"{name}.tool_calls")
    _check_content(message, f"{name}.content")
    for key in (*THINKING_KEYS, "tool_call_id", "name"):
        if not isinstance(message.get(key, ""), str):
            raise ValueError(f"{name}.{key} must be a string, not {message[key]!r}")
    _check_json(message, name)
    # Role and content come first, as they always did: hashes of messages depend on the order.
    return {key: message[key] for key in OPENING_KEYS if key in message} | message


def _check_content(message: Message, name: str) -> None:
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list) and content:
        for i, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text":
                raise ValueError(
                    f'{name}[{i}]={part!r}: expected {{"type": "text", "text": ...}}, the only '
                    "kind of part"
                )
            text_of(part.get("text"), f"{name}[{i}].text", convert=False)
        return
    if content is None and calls:
        return
    if isinstance(content, str) and (calls or message["role"] == "tool"):
        return  # a call needs no words, and a tool may return nothing
    text_of(content, name, convert=False)


def _check_calls(calls: Any, name: str) -> None:
    if not isinstance(calls, list):
        raise ValueError(f"{name}={calls!r}: expected a list of calls")
    for i, call in enumerate(calls):
        function = _function(call)
        if not function:
            raise ValueError(
                f'{name}[{i}]={call!r}: expected {{"type": "function", "function": {{"name": ..., '
                '"arguments": ...}}'
            )
        if not isinstance(function.get("arguments", ""), (str, dict)):
            raise ValueError(
                f"{name}[{i}].function.arguments={function['arguments']!r}: expected an object, or "
                "a string of JSON"
            )


def _function(value: Any) -> Fields:
    """What names the function in a call or a schema, with or without "function" around it."""
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return {}
    return function if function["name"].strip() else {}


# ---- Tools and keyword arguments.


def take_tools(extra: Fields) -> Tools | None:
    """Removes the JSON schemas of tools from a row and returns them; None if it has none.

    Raises:
        ValueError: expected a list of schemas, each with the name of a function.
    """
    tools = _take(extra, TOOLS)
    if tools is None:
        return None
    if not isinstance(tools, list):
        raise ValueError(f"{TOOLS}={tools!r:.80}: expected a list of JSON schemas")
    for i, tool in enumerate(tools):
        if not _function(tool):
            raise ValueError(
                f'{TOOLS}[{i}]={tool!r:.80}: expected {{"type": "function", "function": '
                '{"name": ..., "description": ..., "parameters": ...}}'
            )
    return tools


def take_template_kwargs(extra: Fields) -> Fields:
    """Removes the keyword arguments of the chat template from a row and returns them.

    Raises:
        ValueError: expected an object; or a name that the template is given otherwise.
    """
    kwargs = _take(extra, KWARGS)
    if kwargs is None:
        return {}
    if not isinstance(kwargs, dict):
        raise ValueError(f"{KWARGS}={kwargs!r:.80}: expected an object")
    return check_template_kwargs(kwargs, KWARGS)


def _take(extra: Fields, name: str) -> Any:
    """The value of a field, which may be written as JSON text; a null stays in the row."""
    if extra.get(name) is None:
        return None
    value = extra.pop(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name}={value!r:.80}: expected JSON ({error})") from error
    _check_json(value, name)
    return value


def _check_json(value: Any, name: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid Unicode: {error}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} has no JSON form: {error}") from error
