"""Nested frozen dataclasses from dicts and back, by their type hints. Knows no field of any config."""

import dataclasses
import difflib
import types
import typing
from typing import Any


def as_dict(cls: type, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a dataclass as nested dicts: those given, the others at their defaults, "" where there is none.

    Raises:
        ValueError: a field that the class has not.
    """
    unknown = sorted(set(given) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(_unknown(cls, unknown[0], cls.__name__))
    values = {}
    for f in dataclasses.fields(cls):
        if f.name in given or f.default is dataclasses.MISSING:
            values[f.name] = given.get(f.name, "")
        else:
            values[f.name] = dataclasses.asdict(f.default) if dataclasses.is_dataclass(f.default) else f.default
    return values


def _unknown(cls: type, key: str, where: str) -> str:
    known = [f.name for f in dataclasses.fields(cls)]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{where}.{key}: no such field{hint} Known: {', '.join(known)}"


def build(cls: type, values: Any, where: str) -> Any:
    """The dataclass of a nested dict; `where`: what errors call it.

    Raises:
        ValueError: an unknown field, with the nearest known one, a missing field, or a wrong type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where}={values!r}: wanted fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise ValueError(_unknown(cls, key, where))
    missing = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING and f.name not in values]
    if missing:
        raise ValueError(f"{where}.{missing[0]} must be set")
    return cls(**{k: _convert(hints[k], v, f"{where}.{k}") for k, v in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if typing.get_origin(hint) is dict:
        return {k: _convert(typing.get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f"{where}={value!r}: wanted a tuple")
        return tuple(_convert(typing.get_args(hint)[0], v, where) for v in value)
    if isinstance(hint, types.UnionType):
        return None if value is None else _convert(typing.get_args(hint)[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ValueError(f"{where}={value!r}: wanted {hint.__name__}, not {type(value).__name__}")
    return value
