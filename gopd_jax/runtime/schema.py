"""What settings are made of: the dataclass decorator, field types with bounds, one-line errors.

A settings class lives in the room that it configures. Each field states its type, bounds, default
and, in the docstring below it, what it does; `gopd_jax.config` nests the classes, and the
command-line help and docs/configuration.md are generated from the same declarations. Imports
neither JAX nor Flax.
"""

from collections.abc import Iterator
import dataclasses
import difflib
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic
from pydantic import Field, Strict

T = TypeVar("T")

Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
INT_LIMIT = 2**31  # of counts that enter programs as int32; too large to be worth a mention
Count = Annotated[int, Strict(), Field(ge=0, lt=INT_LIMIT)]
PositiveCount = Annotated[int, Strict(), Field(ge=1, lt=INT_LIMIT)]
NonNegative = Annotated[float, Strict(), Field(ge=0)]
Positive = Annotated[float, Strict(), Field(gt=0)]
Probability = Annotated[float, Strict(), Field(gt=0, le=1)]

_CONFIG = pydantic.ConfigDict(
    extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, validate_default=True
)


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, hashable dataclass whose fields are validated by pydantic.

    A violation raises `pydantic.ValidationError`, a ValueError; `one_line` puts it into one line.
    """
    return pydantic.dataclasses.dataclass(cls, frozen=True, config=_CONFIG)


def part_of(whole: Any, part: type[T]) -> T:
    """The fields of `whole` that its base class `part` declares, as a `part`.

    A group of settings inherits from several small classes, so that each setting has one short
    name; a function that needs one of the small classes gets exactly that.
    """
    return part(**{f.name: getattr(whole, f.name) for f in dataclasses.fields(part)})


def choices(cls: type, name: str) -> tuple[str, ...]:
    """The values that a field of a `Literal` type may have, for the choices of an option."""
    return typing.get_args(typing.get_type_hints(cls)[name])


def defaults(cls: type) -> dict[str, Any]:
    """The fields of a settings class as nested dicts, each at its default."""

    def default(field: dataclasses.Field) -> Any:
        if field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
        if field.default is dataclasses.MISSING:
            return ""
        is_group = dataclasses.is_dataclass(field.default)
        return dataclasses.asdict(field.default) if is_group else field.default

    return {f.name: default(f) for f in dataclasses.fields(cls)}


# ---- Errors.


def build(cls: type[T], values: Any, where: str) -> T:
    """The settings class of nested dicts.

    Args:
        values: nested dicts, by field name.
        where: name of the whole in error messages, such as "config".

    Raises:
        ValueError: one line that names the field, its value, and what was expected; for an unknown
            field, the nearest known one.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except pydantic.ValidationError as error:
        raise ValueError(one_line(error, cls, where)) from None


def one_line(error: pydantic.ValidationError, cls: type | None = None, where: str = "") -> str:
    """The first violation in `error` as one line: the value, what was expected, the choices."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in first["loc"])
    field = ".".join(filter(None, (where, path))) or error.title
    kind, value, context = first["type"], first["input"], first.get("ctx", {})
    if kind == "value_error":  # raised by a check of ours, which names the field itself
        return str(context["error"])
    if kind == "unexpected_keyword_argument":
        known = [f.name for f in dataclasses.fields(_owner(cls, first["loc"][:-1]))] if cls else []
        return f"{field}: {unknown_field(str(first['loc'][-1]), known)}"
    if kind == "missing":
        return f"{field} must be set"
    return f"{field}={value!r}: expected {_expected(kind, context, first['msg'])}"


LISTED = 240  # characters of field names that an error lists


def unknown_field(name: str, known: list[str]) -> str:
    """Says that there is no field `name`, which known one is nearest, and which there are."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    # A setting that is not among those that are shown is in the help.
    shown = [f for i, f in enumerate(known) if len(", ".join(known[: i + 1])) <= LISTED]
    more = f" and {len(known) - len(shown)} more, see --help" if len(shown) < len(known) else ""
    fields = f" Known fields: {', '.join(shown)}{more}" if known else ""
    return f"no such field{hint}{fields}"


_EXPECTED = {
    "greater_than_equal": "a number >= {ge:.12g}",
    "greater_than": "a number > {gt:.12g}",
    "less_than_equal": "a number <= {le:.12g}",
    "less_than": "a number < {lt:.12g}",
    "literal_error": "one of {expected}",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "True or False",
    "string_type": "a string",
    "tuple_type": "a tuple",
    "dataclass_type": "the fields of {class_name}",
}


def _expected(kind: str, context: dict[str, Any], message: str) -> str:
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(**context)
    return message.removeprefix("Input should be ").lower()


def _owner(cls: type, path: tuple[str | int, ...]) -> type:
    """The settings class at `path` within `cls`."""
    for name in path:
        if dataclasses.is_dataclass(cls):
            cls = typing.get_type_hints(cls)[str(name)]
        else:  # the values of a dict
            cls = typing.get_args(cls)[1]
    return cls


# ---- Reference.


@dataclasses.dataclass(frozen=True)
class FieldInfo:
    """One setting as the reference shows it: dotted name, type with bounds, default, meaning."""

    name: str
    kind: str
    default: str
    meaning: str


def reference(cls: type, prefix: str = "") -> Iterator[FieldInfo]:
    """Every setting of a settings class and of those nested in it, in the order of declaration."""
    hints = typing.get_type_hints(cls)
    for name, field in cls.__pydantic_fields__.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            yield from reference(hint, f"{prefix}{name}.")
        elif typing.get_origin(hint) is dict and not _is_json(hint):
            yield from reference(typing.get_args(hint)[1], f"{prefix}{name}.NAME.")
        else:
            meaning = " ".join(_meaning(cls, name).split())
            default = repr(field.get_default(call_default_factory=True))
            default = "required" if field.is_required() else default
            yield FieldInfo(f"{prefix}{name}", _kind(field), default, meaning)


def _is_json(hint: Any) -> bool:
    """Whether a dict holds values of any type, and not settings by name."""
    return not dataclasses.is_dataclass(typing.get_args(hint)[1])


def _meaning(cls: type, name: str) -> str:
    """The docstring of a field, from whichever class of the hierarchy declares it."""
    declared = (getattr(c, "__pydantic_fields__", {}).get(name) for c in cls.__mro__)
    return next((f.description for f in declared if f is not None and f.description), "")


def _kind(field: Any) -> str:
    """Type, choices and bounds of a field in words."""
    if typing.get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(field.annotation)))
    words = {bool: "true or false", int: "integer", float: "number", str: "text"}
    options = [field.annotation]
    if typing.get_origin(field.annotation) in (types.UnionType, typing.Union):
        options = list(typing.get_args(field.annotation))
    inner, bounds = options[0], list(field.metadata)
    if typing.get_origin(inner) is Annotated:
        inner, *more = typing.get_args(inner)
        bounds += [m for extra in more for m in getattr(extra, "metadata", [extra])]
    if typing.get_origin(inner) is tuple:
        item = typing.get_args(inner)[0]
        item = typing.get_args(item)[0] if typing.get_origin(item) is Annotated else item
        if typing.get_origin(item) is Literal:
            text = "tuple of " + ", ".join(map(repr, typing.get_args(item)))
        else:
            text = f"tuple of {words[item]}s"
    else:
        text = "JSON object" if typing.get_origin(inner) is dict else words[inner]
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    limits = []
    for bound in bounds:
        for name, sign in signs.items():
            value = getattr(bound, name, None)
            if value is not None and value != INT_LIMIT:
                limits.append(f"{sign} {value:.12g}")
    text = f"{text} {' and '.join(limits)}" if limits else text
    return text + (" or None" if type(None) in options else "")
