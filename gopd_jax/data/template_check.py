"""Whether a chat template renders everything that a chat gives it.

In: chats and their renderings. Out: nothing, or a ValueError that names what the template drops.
Every text of a chat is replaced by a marker of its own, and the markers are searched for in the
rendering; chats of one shape are tried once. Ids that link calls and results, and names of
messages, carry no content: a template may leave them out.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
import json
import re
from typing import Any, NamedTuple

from jinja2 import meta, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gopd_jax.data.conversations import THINKING_KEYS
from gopd_jax.data.messages import Chat, Message
from gopd_jax.data.settings import RESERVED
from gopd_jax.runtime.progress import say

END_OF_THINKING = "</think>"
# transformers knows a tag that jinja does not; it changes nothing in what is rendered.
_GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")

# Names that templates look up and that are no keyword arguments.
_NOT_KWARGS = {*DEFAULT_NAMESPACE, *RESERVED, "raise_exception", "strftime_now"}


class Part(NamedTuple):
    """One text of a chat.

    marker: the word that stands for it.
    where: what errors call it.
    text: the text itself.
    optional: the thinking of a finished turn, which a template may leave out.
    """

    marker: str
    where: str
    text: str
    optional: bool = False


class TemplateCheck:
    """Checks what a chat template drops; remembers which shapes of chats it has tried.

    Args:
        template: what errors call the template.
        render: renders a chat; raises ValueError if the template refuses it.
        templates: the Jinja texts that `render` chooses from.
    """

    def __init__(self, template: str, render: Callable[[Chat], str], templates: Iterable[str]):
        self._template, self._render = template, render
        self._known, self._scratch = set[str](), set[str]()
        for text in templates:
            self._known |= variables(text)
            self._scratch |= loop_variables(text)
        self._tried: set[object] = set()
        self._warned = False

    def check(self, chat: Chat, rendered: str) -> None:
        """Raises ValueError if the rendering of `chat` lacks a part of it.

        The first time that only the thinking of finished turns is missing, a warning says so.
        """
        self.check_kwargs(chat.template_kwargs, f"{chat.name}: chat_template_kwargs")
        marked, parts = mark(chat)
        roles = tuple(message["role"] for message in chat.messages)
        kwargs = json.dumps(dict(chat.template_kwargs))
        shape = (roles, tuple((part.where, part.optional) for part in parts), kwargs)
        if shape in self._tried:
            return
        try:
            probe = self._render(marked)
        except ValueError:  # it looks into the texts, and has no use for a marker: one at a time
            probe = ""
        for i, part in enumerate(parts):
            if part.marker not in probe and self._drops(chat, i, rendered):
                self._refuse(chat, part)
        self._tried.add(shape)

    def check_kwargs(self, kwargs: Iterable[str], where: str) -> None:
        """Raises ValueError if the template never looks at one of the keyword arguments."""
        for name in kwargs:
            if name not in self._known:
                choices = sorted(self._known - self._scratch - _NOT_KWARGS)
                raise ValueError(
                    f"{where}.{name}: {self._template} has no such variable, expected "
                    f"{'one of ' + ', '.join(choices) if choices else 'none'}"
                )

    def _drops(self, chat: Chat, index: int, rendered: str) -> bool:
        """Whether a marker in place of one part alone changes nothing."""
        try:
            return self._render(mark(chat, index)[0]) == rendered
        except ValueError:
            return False

    def _refuse(self, chat: Chat, part: Part) -> None:
        if not part.optional:
            raise ValueError(
                f"{chat.name}: {self._template} drops {part.where}={part.text!r:.60}: expected a "
                "template that renders it, or a row without it"
            )
        if not self._warned:
            say(
                f"warning: {self._template} leaves out the thinking of finished turns, first "
                f"{part.where} of {chat.name}"
            )
            self._warned = True


def variables(template: str) -> set[str]:
    """Names that a Jinja template looks up and does not set itself."""
    return meta.find_undeclared_variables(_parse(template))


def loop_variables(template: str) -> set[str]:
    """Names that a Jinja template sets inside a loop, which are its own and no arguments.

    `variables` has those too that are set in a branch alone, such as `content` of Qwen3's template.
    """
    loops = _parse(template).find_all(nodes.For)
    names = (name for loop in loops for name in loop.find_all(nodes.Name))
    return {name.name for name in names if name.ctx == "store"}


def _parse(template: str) -> nodes.Template:
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    return environment.parse(_GENERATION_TAG.sub("", template))


# ---- Markers.


def mark(chat: Chat, only: int | None = None) -> tuple[Chat, list[Part]]:
    """Replaces the texts of a chat by markers.

    Args:
        chat: a chat.
        only: index of the one part that is replaced; None replaces all.

    Returns:
        The chat with markers, and all parts of the chat in order.
    """
    marks = _Marks(only)
    users = [i for i, message in enumerate(chat.messages) if message["role"] == "user"]
    last = max(users, default=-1)
    messages = [
        _mark_message(marks, message, f"messages[{i}]", finished=i < last)
        for i, message in enumerate(chat.messages)
    ]
    tools = chat.tools and [
        _mark_function(marks, tool, f"tools[{i}]", _mark_schema)
        for i, tool in enumerate(chat.tools)
    ]
    return dataclasses.replace(chat, messages=messages, tools=tools), marks.parts


class _Marks:
    """Hands out markers and lists what they stand for."""

    def __init__(self, only: int | None):
        self.parts: list[Part] = []
        self._only = only

    def __call__(self, text: str, where: str, optional: bool = False) -> str:
        """The marker of a text, or the text itself where it is not to be replaced."""
        index = len(self.parts)
        # Letters and digits pass through every filter; the last letter ends the number.
        self.parts.append(Part(f"gopdmarker{index}x", where, text, optional))
        return self.parts[-1].marker if self._only in (None, index) else text


def _mark_message(marks: _Marks, message: Message, where: str, finished: bool) -> Message:
    marked = dict(message)
    content = message.get("content")
    of_role = f"{where}.content of role {message['role']}"
    if isinstance(content, list):
        marked["content"] = [
            {**part, "text": marks(part["text"], f"part {i} of {of_role}")}
            for i, part in enumerate(content)
        ]
    elif content and message["role"] == "assistant" and END_OF_THINKING in content:
        thinking, _, answer = content.rpartition(END_OF_THINKING)
        thinking = marks(thinking, f"the thinking in {where}.content", finished)
        answer = marks(answer, of_role) if answer.strip() else answer
        marked["content"] = thinking + END_OF_THINKING + answer
    elif content and content.strip():
        marked["content"] = marks(content, of_role)
    for key in THINKING_KEYS:
        if message.get(key, "").strip():
            marked[key] = marks(message[key], f"{where}.{key}", finished)
    if calls := message.get("tool_calls"):
        marked["tool_calls"] = [
            _mark_function(marks, call, f"{where}.tool_calls[{i}]", _mark_arguments)
            for i, call in enumerate(calls)
        ]
    return marked


def _mark_function(
    marks: _Marks,
    value: dict[str, Any],
    where: str,
    mark_rest: Callable[[_Marks, Mapping[str, Any], str], dict[str, Any]],
) -> dict[str, Any]:
    """Marks the name of a call or schema, which may be under "function", and the rest of it."""
    if "function" in value:
        inner = _mark_function(marks, value["function"], f"{where}.function", mark_rest)
        return {**value, "function": inner}
    named = {**value, "name": marks(value["name"], f"{where}.name")}
    return mark_rest(marks, named, where)


def _mark_arguments(marks: _Marks, call: Mapping[str, Any], where: str) -> dict[str, Any]:
    arguments = call.get("arguments")
    fields = arguments
    if isinstance(arguments, str):
        try:
            fields = json.loads(arguments)
        except (ValueError, RecursionError):
            fields = None
    if isinstance(fields, dict):
        fields = _mark_items(marks, fields, f"{where}.arguments")
        return {**call, "arguments": fields if isinstance(arguments, dict) else json.dumps(fields)}
    if isinstance(arguments, str) and arguments.strip():
        return {**call, "arguments": marks(arguments, f"{where}.arguments")}
    return dict(call)


def _mark_items(marks: _Marks, fields: dict[str, Any], where: str) -> dict[str, Any]:
    marked = {}
    for i, (key, value) in enumerate(fields.items()):
        name = marks(key, f"name {i} of {where}")
        text = value if isinstance(value, str) else json.dumps(value)
        mark = marks(text, f"value {i} of {where}")
        marked[name] = value if mark == text else mark
    return marked


def _mark_schema(marks: _Marks, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    marked = dict(schema)
    if isinstance(schema.get("description"), str) and schema["description"].strip():
        marked["description"] = marks(schema["description"], f"{where}.description")
    parameters = schema.get("parameters")
    if isinstance(parameters, dict) and isinstance(parameters.get("properties"), dict):
        properties = {
            marks(name, f"name {i} of {where}.parameters.properties"): value
            for i, (name, value) in enumerate(parameters["properties"].items())
        }
        marked["parameters"] = {**parameters, "properties": properties}
    return marked
