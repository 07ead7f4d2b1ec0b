"""Settings classes: bounds, choices and strict types, errors of one line, and the reference."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field, Strict, ValidationError
import pytest

from gopd_jax.runtime import schema
from gopd_jax.runtime.schema import (
    Count,
    Flag,
    NonNegative,
    Positive,
    PositiveCount,
    Probability,
    Text,
    settings,
)


@settings
class Heat:
    """One of two base classes."""

    heat: NonNegative = 1.0
    """Divides the logits."""


@settings
class Limits:
    """The other one."""

    top: Count = 0
    """Tokens that are
    drawn from."""
    share: Probability = 1.0
    """Their mass."""


@settings
class Draw(Heat, Limits):
    """A group that inherits its settings."""

    stops: tuple[Annotated[int, Strict()], ...] = ()
    """Ids that end a response."""
    kind: Literal["plain", "fancy"] = "plain"
    """How it is drawn."""


@settings
class Place:
    """A group of which a run has several, by name."""

    path: Text
    """Where it is."""
    scale: NonNegative | None = None
    """Its own scale."""

    def check(self):
        if self.scale == 13:
            raise ValueError("place.scale=13: expected another number")


@settings
class Run:
    """A whole with nested groups."""

    steps: PositiveCount = 5
    """Steps of the run."""
    seed: Annotated[int, Strict(), Field(lt=2**32)] = 0
    """Decides every draw."""
    eps: Positive = 1e-8
    """A small number."""
    fast: Flag = True
    """Be fast."""
    draw: Draw = Draw()
    places: dict[str, Place] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for place in self.places.values():
            place.check()


def refusal(values):
    with pytest.raises(ValueError) as error:
        schema.build(Run, values, "run")
    assert not isinstance(error.value, ValidationError)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- Values.


def test_nested_dicts_become_frozen_settings():
    run = schema.build(
        Run, {"steps": 7, "draw": {"heat": 0, "stops": [3]}, "places": {"a": {"path": "x"}}}, "run"
    )
    assert run == Run(steps=7, draw=Draw(heat=0.0, stops=(3,)), places={"a": Place("x")})
    assert isinstance(run.draw.heat, float)
    assert run.places["a"].scale is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.draw.heat = 2.0
    assert hash(run.draw) == hash(Draw(heat=0.0, stops=(3,)))


# Field path, value, and what is expected in its place.
WRONG = [
    ("steps", 0, "a number >= 1"),
    ("steps", 2.0, "an integer"),
    ("steps", 1.5, "an integer"),
    ("steps", "5", "an integer"),
    ("steps", True, "an integer"),
    ("seed", 2**32, "a number < 4294967296"),
    ("eps", 0.0, "a number > 0"),
    ("eps", "1e-5", "a number"),
    ("eps", float("nan"), "a finite number"),
    ("eps", float("inf"), "a finite number"),
    ("fast", 1, "True or False"),
    ("draw", 3, "the fields of Draw"),
    ("draw.heat", -0.5, "a number >= 0"),
    ("draw.top", -1, "a number >= 0"),
    ("draw.share", 0.0, "a number > 0"),
    ("draw.share", 1.5, "a number <= 1"),
    ("draw.stops", 3, "a tuple"),
    ("draw.kind", "neat", "one of 'plain' or 'fancy'"),
    ("places.a.path", None, "a string"),
    ("places.a.path", 3, "a string"),
    ("places.a.scale", -1.0, "a number >= 0"),
    ("places.a.scale", "x", "a number"),
]


@pytest.mark.parametrize("path, value, expected", WRONG)
def test_a_wrong_value_is_named_with_what_is_expected(path, value, expected):
    values = {"places": {"a": {"path": "x"}}, "draw": {}}
    *parts, last = path.split(".")
    node = values
    for part in parts:
        node = node[part]
    node[last] = value
    assert refusal(values) == f"run.{path}={value!r}: expected {expected}"


def test_an_item_of_a_tuple_is_named_by_its_index():
    assert refusal({"draw": {"stops": (1, "a")}}) == "run.draw.stops.1='a': expected an integer"


UNKNOWN = [
    ({"stps": 1}, "run.stps: no such field; did you mean 'steps'? Known fields: steps, seed, "),
    (
        {"draw": {"knd": 1}},
        "run.draw.knd: no such field; did you mean 'kind'? "
        "Known fields: top, share, heat, stops, kind",
    ),
    (
        {"places": {"a": {"path": "x", "zzz": 1}}},
        "run.places.a.zzz: no such field. Known fields: path, scale",
    ),
]


@pytest.mark.parametrize("values, message", UNKNOWN)
def test_an_unknown_field_comes_with_the_nearest_one(values, message):
    assert refusal(values).startswith(message)


def test_a_missing_field_is_named():
    assert refusal({"places": {"a": {}}}) == "run.places.a.path must be set"


def test_a_check_of_several_fields_speaks_for_itself():
    values = {"places": {"a": {"path": "x", "scale": 13}}}
    assert refusal(values) == "place.scale=13: expected another number"


def test_one_line_without_the_class_names_the_field():
    with pytest.raises(ValidationError) as error:
        Draw(heat=-1.0, kind="neat")
    assert schema.one_line(error.value) == "heat=-1.0: expected a number >= 0"
    assert schema.one_line(error.value, Draw, "draw") == "draw.heat=-1.0: expected a number >= 0"


# ---- Parts, choices, defaults.


def test_part_of_takes_the_fields_of_a_base_class():
    draw = Draw(heat=0.5, top=3, share=0.25, kind="fancy")
    assert schema.part_of(draw, Limits) == Limits(top=3, share=0.25)
    assert schema.part_of(draw, Heat) == Heat(0.5)
    assert type(schema.part_of(draw, Heat)) is Heat


def test_choices_of_a_field():
    assert schema.choices(Draw, "kind") == ("plain", "fancy")


def test_defaults_are_nested_dicts():
    defaults = schema.defaults(Run)
    assert defaults == {
        "steps": 5,
        "seed": 0,
        "eps": 1e-8,
        "fast": True,
        "draw": {"heat": 1.0, "top": 0, "share": 1.0, "stops": (), "kind": "plain"},
        "places": {},
    }
    assert schema.build(Run, defaults, "run") == Run()


# ---- Reference.

REFERENCE = [
    ("steps", "integer >= 1", "5", "Steps of the run."),
    ("seed", "integer < 4294967296", "0", "Decides every draw."),
    ("eps", "number > 0", "1e-08", "A small number."),
    ("fast", "true or false", "True", "Be fast."),
    ("draw.top", "integer >= 0", "0", "Tokens that are drawn from."),
    ("draw.share", "number > 0 and <= 1", "1.0", "Their mass."),
    ("draw.heat", "number >= 0", "1.0", "Divides the logits."),
    ("draw.stops", "tuple of integers", "()", "Ids that end a response."),
    ("draw.kind", "one of 'plain', 'fancy'", "'plain'", "How it is drawn."),
    ("places.NAME.path", "text", "required", "Where it is."),
    ("places.NAME.scale", "number >= 0 or None", "None", "Its own scale."),
]


def test_reference_lists_every_setting_once():
    assert [dataclasses.astuple(field) for field in schema.reference(Run)] == REFERENCE
