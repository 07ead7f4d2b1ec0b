"""Settings of verification. Imports no JAX."""

import difflib
from typing import Annotated, Literal, get_args

from pydantic import Field, Strict

from gopd_jax.rewards.own import SPELLING, is_own
from gopd_jax.runtime.schema import Count, PositiveCount, settings

RewardKind = Literal["math", "code"]  # the keys of `kinds.KINDS`
NONE = "none"  # answers are not verified
CHOICES = (*get_args(RewardKind), NONE)
EXPECTED = f"{', '.join(map(repr, CHOICES))}, or 'package.module:function'"


def check_reward(reward: str, name: str) -> None:
    """Checks how a reward is spelled; `name` is that of the setting.

    Raises:
        ValueError: it is empty, or none of the choices.
    """
    if not reward:
        raise ValueError(f"{name} must be set: expected {EXPECTED}")
    if reward in CHOICES or SPELLING.fullmatch(reward):
        return
    nearest = ""
    if not is_own(reward):
        nearest = f"; nearest: {difflib.get_close_matches(reward, CHOICES, 1, 0.0)[0]!r}"
    raise ValueError(f"{name}={reward!r}: expected {EXPECTED}{nearest}")


@settings
class VerifierSettings:
    """How answers are verified."""

    workers: Count = 0
    """Worker processes for each kind of answer; 0 takes half of the CPU cores."""
    timeout_s: Annotated[float, Strict(), Field(ge=0.1)] = 2.0
    """Seconds that one answer may take, all of its tests together."""
    memory_mb: PositiveCount = 256
    """Memory in MiB that a program under test may use, besides that of the interpreter."""
